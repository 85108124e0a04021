package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
)

// epochFile is below StateDirectory=.
const epochFile = "epoch"

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

// SaveEpoch makes n the last epoch used.
func SaveEpoch(dir string, n uint64) error {
	path := filepath.Join(dir, epochFile)
	if err := renameio.WriteFile(path, strconv.AppendUint(nil, n, 10), 0o644); err != nil {
		return fmt.Errorf("cannot keep the epoch in %s: %w", path, err)
	}
	return nil
}
