package gpuhealth

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"gpuherd/generator/gpu"
	"gpuherd/monitor/state"
)

// An inventoryFile follows the inventory that gpuherd-setup writes.
type inventoryFile struct {
	root string
	log  *slog.Logger

	last fs.FileInfo // of the file that was read last
	said string      // the last error, so that each is logged once
}

// look returns the inventory where it is another than at the last look.
func (i *inventoryFile) look() (*gpu.Inventory, bool) {
	// Setup replaces the file as a whole, so another content is another file.
	info, err := os.Stat(filepath.Join(i.root, gpu.InventoryPath))
	if err == nil && i.last != nil && os.SameFile(info, i.last) && info.ModTime().Equal(i.last.ModTime()) {
		return nil, false
	}
	if err == nil {
		var inv *gpu.Inventory
		if inv, err = gpu.ReadInventory(i.root); err == nil {
			i.last, i.said = info, ""
			return inv, true
		}
	}
	i.last = nil
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, gpu.ErrStale) {
		return nil, false // setup has not run yet
	}
	if i.said != err.Error() {
		i.said = err.Error()
		i.log.Warn("cannot tell of the GPUs", "error", err)
	}
	return nil, false
}

// describe returns a GPU of the inventory as Redis has it, without its health.
func describe(g gpu.GPU) state.GPU {
	out := state.GPU{
		Index: g.Index, UUID: g.UUID, Name: g.Name, PCI: g.PCI, Minor: g.Minor, NUMA: g.NUMANode,
		Memory: g.MemoryBytes, Simulated: g.Simulated,
	}
	for _, m := range g.MIG {
		out.MIG = append(out.MIG, state.MIG{Index: m.Index, UUID: m.UUID, Profile: m.Profile, Memory: m.MemoryBytes})
	}
	return out
}
