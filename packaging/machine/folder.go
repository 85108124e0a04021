package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// folderPrefix begins the names of machines' folders in the temporary folder.
const folderPrefix = "gpuherd-machine-"

// folder is the host's folder for one machine, locked while the machine lives.
type folder struct {
	path string
	lock *os.File
}

// newFolder makes a private folder, after deleting those that machines have
// left whose program was killed.
func newFolder() (*folder, error) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*")) // the pattern is good
	for _, path := range left {
		// The age spares one that is made just now and not yet locked.
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if f, err := lockFolder(path); err == nil {
			cgroups, _ := os.ReadFile(filepath.Join(path, "cgroups")) // containers have it
			// Another's rubbish: where it resists, the next one tries again.
			if err := removeCgroups(strings.Fields(string(cgroups))); err != nil {
				_ = f.lock.Close()
				continue
			}
			_ = f.remove()
		}
	}
	path, err := os.MkdirTemp("", folderPrefix)
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	return lockFolder(path)
}

func lockFolder(path string) (*folder, error) {
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open a machine's folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock %s: %w", path, err), lock.Close())
	}
	return &folder{path: path, lock: lock}, nil
}

func (f *folder) remove() error {
	return errors.Join(os.RemoveAll(f.path), f.lock.Close())
}
