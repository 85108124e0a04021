package main

import (
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
)

// A gpuDevice is what an instance runs on: a GPU or a MIG device of one.
type gpuDevice struct {
	gpu  gpu.GPU
	mig  *gpu.MIG // nil: the whole GPU
	name string
	uuid string

	memory uint64 // bytes; 0: not known
}

// device finds the device of an instance in the inventory, nil where there is
// none or it is not known.
func device(inventory *gpu.Inventory, instance string) *gpuDevice {
	in, err := service.ParseInstance(instance)
	if inventory == nil || err != nil {
		return nil
	}
	for _, g := range inventory.GPUs {
		if g.Index != in.GPU {
			continue
		}
		if in.MIG < 0 {
			return &gpuDevice{gpu: g, name: g.Name, uuid: g.UUID, memory: g.MemoryBytes}
		}
		for i := range g.MIG {
			if m := &g.MIG[i]; m.Index == in.MIG {
				return &gpuDevice{gpu: g, mig: m, name: g.Name + " MIG " + m.Profile, uuid: m.UUID, memory: m.MemoryBytes}
			}
		}
	}
	return nil
}
