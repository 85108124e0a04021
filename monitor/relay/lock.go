package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another monitor runs on this host.
var ErrLocked = errors.New("another monitor runs on this host")

// Lock makes this process the only monitor that keeps its epoch in dir, until
// the file it returns is closed or the process ends. Without it a monitor
// started by hand would raise the epoch and so fence the service's. The error
// is ErrLocked where another has the lock; any other means that there is no
// lock to be had, as where dir is missing.
func Lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := openLock(dir, path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = f.Close()
		return nil, fmt.Errorf("%w (lock %s)", ErrLocked, path)
	case err != nil:
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return f, nil
}

// openLock opens the lock, for reading only: that is enough for flock(2), also
// for a user who does not own it. One that is there stays as it is.
func openLock(dir, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, stateMode)
	if errors.Is(err, fs.ErrExist) {
		return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(stateMode), giveTo(dir, f)); err != nil { // past the umask
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
