package sharedsetup

import (
	"fmt"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
)

// refine fills in what NVML knows of the GPUs, matched by PCI address: NVML's
// own order may change between boots, and minors need not follow it. A GPU
// that did not answer stays, so that the others keep their numbers. It returns
// what is amiss, a sentence each.
func refine(gpus []gpu.GPU, answer *nvml.Answer, minors map[gpu.MIGNode]int) []string {
	faults := answer.Faults
	byPCI := map[string]*nvml.Device{}
	for i, d := range answer.Devices {
		byPCI[d.PCI] = &answer.Devices[i]
	}
	for i := range gpus {
		g := &gpus[i]
		d, ok := byPCI[g.PCI]
		if !ok {
			faults = append(faults, fmt.Sprintf("GPU %d at %s does not answer NVML", g.Index, g.PCI))
			continue
		}
		g.UUID, g.Name, g.MemoryBytes, g.MIGMode = d.UUID, d.Name, d.MemoryBytes, d.MIGMode
		if d.Minor >= 0 {
			g.Minor = d.Minor
		}
		g.MIG = nil
		for _, m := range d.MIG {
			if n, ok := minors[gpu.MIGNode{GPU: g.Minor, GI: m.GPUInstance, CI: -1}]; ok {
				m.GIMinor = n
			}
			if n, ok := minors[gpu.MIGNode{GPU: g.Minor, GI: m.GPUInstance, CI: m.ComputeInstance}]; ok {
				m.CIMinor = n
			}
			g.MIG = append(g.MIG, m)
		}
	}
	return faults
}
