package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// epochFile and lockFile are below StateDirectory=.
const (
	epochFile = "epoch"
	lockFile  = "lock"
	stateMode = 0o644
)

// NextEpoch raises the count of the monitor's starts that dir keeps, and
// returns it. It is on the disk before it is used. Where dir has none, or none
// that can be read, counting begins at 1 and Redis, if it knows of a higher
// one, corrects it at the first connection. The error says why the count could
// not be kept; the epoch is good regardless.
func NextEpoch(dir string) (uint64, error) {
	path := filepath.Join(dir, epochFile)
	data, err := os.ReadFile(path)
	last, bad := uint64(0), error(nil)
	switch {
	case err == nil:
		if last, bad = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 53); bad != nil {
			last, bad = 0, fmt.Errorf("cannot read %s, counting from 1: %w", path, bad)
		}
	case !errors.Is(err, fs.ErrNotExist):
		bad = fmt.Errorf("cannot read %s, counting from 1: %w", path, err)
	}
	return last + 1, errors.Join(bad, SaveEpoch(dir, last+1))
}

// SaveEpoch makes n the last epoch used. The service's user has to be able to
// read and replace it also where root once ran the monitor by hand: so it is
// for all to read, whatever the umask, and of the folder's owner.
func SaveEpoch(dir string, n uint64) error {
	path := filepath.Join(dir, epochFile)
	if err := saveEpoch(dir, path, strconv.AppendUint(nil, n, 10)); err != nil {
		return fmt.Errorf("cannot keep the epoch in %s: %w", path, err)
	}
	return nil
}

func saveEpoch(dir, path string, data []byte) error {
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(stateMode))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // does nothing once it was replaced
	if err := giveTo(dir, f.File); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// giveTo gives a new file to the owner of its folder, which only root can.
func giveTo(dir string, f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 && owner.Gid == 0 {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
