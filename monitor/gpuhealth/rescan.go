package gpuhealth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gpuherd/generator/gpu"
)

// RequestRescan asks for a rescan of the GPUs below root, which
// gpuherd-rescan.service does as root: see gpuherd-setup(8). It is no error
// where a request of ours is waiting. The error matches fs.ErrNotExist
// where the folder for requests is missing.
func RequestRescan(root string) error {
	f, err := os.OpenFile(filepath.Join(root, gpu.RescanDir, "monitor"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot ask for a rescan: %w", err)
	}
	return f.Close()
}
