package gpuhealth

import (
	"errors"
	"io/fs"
	"log/slog"

	"gpuherd/generator/gpu"
	"gpuherd/monitor/state"
)

// An inventoryFile follows the inventory that gpuherd-setup writes.
type inventoryFile struct {
	root string
	log  *slog.Logger

	last file
	said string // the last error, so that each is logged once
}

// look returns the inventory where it is another than at the last look.
func (i *inventoryFile) look() (*gpu.Inventory, bool) {
	inv, anew, err := i.last.read(i.root)
	switch {
	case err == nil:
		i.said = ""
		return inv, anew
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, gpu.ErrStale):
		// Setup has not run yet.
	case i.said != err.Error():
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
