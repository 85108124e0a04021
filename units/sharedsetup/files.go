package sharedsetup

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/google/renameio/v2"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/rootfs"
)

// Files written for programs and units, below the root.
const (
	runDir          = "/run/gpuherd"
	deviceDir       = runDir + "/gpu"
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

// writeFile puts data into the file atomically with exactly that mode, and
// touches nothing where the file is so already.
func (s *Setup) writeFile(name string, data []byte, mode fs.FileMode) error {
	path := s.path(name)
	if info, err := os.Lstat(path); err == nil && info.Mode() == mode && info.Size() == int64(len(data)) {
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	// Static permissions: neither the umask nor the old file's mode count, and the
	// temporary file, in the same folder, has the final mode from the start.
	if err := renameio.WriteFile(path, data, mode, renameio.WithStaticPermissions(mode), renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// writeInventory writes the inventory unless this boot's says the same.
func (s *Setup) writeInventory(inv *gpu.Inventory) error {
	if err := s.makeDir(runDir, 0o755); err != nil {
		return err
	}
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

// writeCredential hands the Redis URL, which may hold a password, to the
// programs by LoadCredential=: root alone can read the file.
func (s *Setup) writeCredential(c *config.Config) error {
	if err := s.makeDir(credentialDir, 0o700); err != nil {
		return err
	}
	return s.writeFile(credentialFile, []byte(c.Redis.URL), 0o600)
}
