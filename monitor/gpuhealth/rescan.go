package gpuhealth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gpuherd/generator/gpu"
)

// RequestRescan asks for a rescan of the GPUs, which gpuherd-rescan.service
// does as root. A request that waits already is the same one. The error
// matches fs.ErrNotExist where nobody takes requests.
func RequestRescan(root string) error {
	f, err := os.OpenFile(filepath.Join(root, gpu.RescanDir, "monitor"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("cannot ask for a rescan: %w", err)
	}
	return nil
}
