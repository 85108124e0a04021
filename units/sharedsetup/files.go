package sharedsetup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/rootfs"
)

// Files written for programs and units, below the root.
const (
	runDir          = "/run/gpuherd"
	deviceDir       = runDir + "/gpu"
	requestDir      = "/" + gpu.RescanDir
	environmentFile = runDir + "/environment"
	credentialDir   = runDir + "/credentials"
	credentialFile  = credentialDir + "/gpuherd.redis-url"
)

func (s *Setup) path(name string) string { return rootfs.Path(s.Root, name) }

// makeDir makes a folder, or gives an existing one that mode: a credential's
// folder that somebody made too open is closed.
func (s *Setup) makeDir(name string, mode fs.FileMode) error {
	dir := s.path(name)
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("not a directory")
	}
	if err == nil && info.Mode().Perm() != mode {
		err = os.Chmod(dir, mode)
	}
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", name, err)
	}
	return nil
}

// lock keeps two runs from working on the same files, as at boot and by an
// operator's hand. It lasts until unlock or the end of the process.
func (s *Setup) lock(ctx context.Context) (unlock func(), err error) {
	if err := s.makeDir(runDir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(s.path(runDir))
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = dir.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = dir.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", runDir, err)
		}
		s.status("waiting for another gpuherd-setup to end")
		select {
		case <-poll.C:
		case <-ctx.Done():
			_ = dir.Close()
			return nil, errors.New("stopped while another gpuherd-setup was at work")
		}
	}
}

// writeFile puts data into the file atomically with exactly that mode, and
// touches nothing where the file is so already.
func (s *Setup) writeFile(name string, data []byte, mode fs.FileMode) error {
	path := s.path(name)
	if info, err := os.Lstat(path); err == nil && info.Mode() == mode && info.Size() == int64(len(data)) {
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	// Not renameio.WriteFile, which keeps the mode of a file that is there:
	// a secret must not stay readable.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(mode), renameio.WithStaticPermissions(mode))
	if err == nil {
		defer f.Cleanup() //nolint:errcheck // nothing to clean up where it went well
		if _, err = f.Write(data); err == nil {
			err = f.CloseAtomicallyReplace()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// writeInventory writes the inventory unless this boot's says the same.
func (s *Setup) writeInventory(inv *gpu.Inventory) error {
	if old, err := gpu.ReadInventory(s.Root); err == nil && reflect.DeepEqual(normal(*old), normal(*inv)) {
		return nil
	}
	return inv.Write(s.Root)
}

// normal has no difference between no list and an empty one.
func normal(inv gpu.Inventory) gpu.Inventory {
	gpus := make([]gpu.GPU, len(inv.GPUs))
	for i, g := range inv.GPUs {
		if len(g.MIG) == 0 {
			g.MIG = nil
		}
		gpus[i] = g
	}
	inv.GPUs = gpus
	return inv
}

// writeCredential hands a Redis URL of PID 1's environment, which may hold a
// password, to the programs by LoadCredential=: root alone can read the file.
// It is empty where the URL is that of gpuherd.conf: the programs read that
// themselves, also when it has changed since.
func (s *Setup) writeCredential(c *config.Config) error {
	if err := s.makeDir(credentialDir, 0o700); err != nil {
		return err
	}
	url := c.Redis.URL
	if c.FromFile("Redis.URL") {
		url = ""
	}
	return s.writeFile(credentialFile, []byte(url), 0o600)
}
