package sharedsetup

import (
	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
)

// refine fills in what NVML knows of the GPUs, matched by PCI address: NVML's
// own order may change between boots, and minors need not follow it. One that
// does not answer gets a Fault.
func refine(gpus []gpu.GPU, answer *nvml.Answer, minors map[gpu.MIGNode]int) {
	for i := range gpus {
		g := &gpus[i]
		d := deviceOf(g, answer)
		if d == nil {
			g.Fault = noAnswer
			for _, f := range answer.Faults {
				if f.PCI == g.PCI && f.Lost {
					g.Fault = lost
				}
			}
			continue
		}
		if v := d.Virtualisation; v == nvml.VirtualisationHostVGPU || v == nvml.VirtualisationHostVSGA {
			g.Fault = "it serves guests of this host (" + v + ")"
		}
		g.UUID, g.Name, g.MemoryBytes, g.MIGMode = d.UUID, d.Name, d.MemoryBytes, d.MIGMode
		if d.Minor >= 0 && g.PCI != "" { // else it was found by its node, or has none
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
}

// deviceOf returns what NVML said of a GPU, nil where it said nothing: matched
// by PCI address, or, of a GPU that no PCI bus shows, by its device node. That
// of WSL stands for all GPUs that NVML knows, so the first is as good as any.
func deviceOf(g *gpu.GPU, answer *nvml.Answer) *nvml.Device {
	for i := range answer.Devices {
		d := &answer.Devices[i]
		if g.PCI != "" && d.PCI == g.PCI || g.PCI == "" && (g.Node == gpu.WSLNode || d.Minor == g.Minor) {
			return d
		}
	}
	return nil
}
