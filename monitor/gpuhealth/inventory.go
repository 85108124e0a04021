// Package gpuhealth tells the herd what is known of the machine's GPUs: what
// gpuherd-setup wrote down of them. Nobody watches their health yet, so it is
// told as unknown.
package gpuhealth

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/monitor/state"
)

// Every is how often an Inventory looks whether the file is another.
const Every = 2 * time.Second

// An Inventory follows the inventory file.
type Inventory struct {
	Root  string // of the file system: "/"
	Every time.Duration
	Set   func([]state.GPU)
	Log   *slog.Logger

	last file
	said string // the last error, so that each is logged once
}

// String names the task.
func (i *Inventory) String() string { return "GPU inventory" }

// Run follows the file until ctx ends, and returns nil then.
func (i *Inventory) Run(ctx context.Context) error {
	every := i.Every
	if every <= 0 {
		every = Every
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		i.look()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (i *Inventory) look() {
	inv, anew, err := i.last.read(i.Root)
	switch {
	case err == nil:
		i.said = ""
		if anew {
			i.Set(GPUs(inv))
		}
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, gpu.ErrStale):
		// Setup has not run yet.
	case i.said != err.Error():
		i.said = err.Error()
		i.Log.Warn("cannot tell of the GPUs", "error", err)
	}
}

// GPUs returns an inventory as Redis has it.
func GPUs(inv *gpu.Inventory) []state.GPU {
	all := make([]state.GPU, 0, len(inv.GPUs))
	for _, g := range inv.GPUs {
		out := state.GPU{
			Index: g.Index, UUID: g.UUID, Name: g.Name, PCI: g.PCI, Minor: g.Minor, NUMA: g.NUMANode,
			Memory: g.MemoryBytes, Health: state.HealthUnknown, Simulated: g.Simulated,
		}
		for _, m := range g.MIG {
			out.MIG = append(out.MIG, state.MIG{Index: m.Index, UUID: m.UUID, Profile: m.Profile, Memory: m.MemoryBytes})
		}
		all = append(all, out)
	}
	return all
}
