package gpuhealth

import (
	"io/fs"
	"os"
	"path/filepath"

	"gpuherd/generator/gpu"
)

// A file is the inventory file, read anew only where it is another.
type file struct {
	info fs.FileInfo // of what was read last; nil: nothing
	inv  *gpu.Inventory
}

// read returns the inventory below root, and whether it was read anew. The
// errors are those of gpu.ReadInventory.
func (f *file) read(root string) (inv *gpu.Inventory, anew bool, err error) {
	// Setup replaces the file as a whole, so another content is another file.
	info, err := os.Stat(filepath.Join(root, gpu.InventoryPath))
	if err == nil && f.info != nil && os.SameFile(info, f.info) && info.ModTime().Equal(f.info.ModTime()) {
		return f.inv, false, nil
	}
	*f = file{}
	if err != nil {
		return nil, true, err
	}
	if inv, err = gpu.ReadInventory(root); err != nil {
		return nil, true, err
	}
	*f = file{info: info, inv: inv}
	return inv, true, nil
}
