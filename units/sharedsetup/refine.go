package sharedsetup

import (
	"strconv"
	"strings"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/generator/rootfs"
)

// refine fills in what NVML knows of the GPUs, matched by PCI address: NVML's
// own order may change between boots, and minors need not follow it. One that
// does not answer gets a Fault.
func refine(gpus []gpu.GPU, answer *nvml.Answer, minors map[migNode]int) {
	byPCI := map[string]*nvml.Device{}
	for i, d := range answer.Devices {
		byPCI[d.PCI] = &answer.Devices[i]
	}
	for i := range gpus {
		g := &gpus[i]
		d, ok := byPCI[g.PCI]
		if !ok {
			g.Fault = noAnswer
			continue
		}
		g.UUID, g.Name, g.MemoryBytes, g.MIGMode = d.UUID, d.Name, d.MemoryBytes, d.MIGMode
		if d.Minor >= 0 {
			g.Minor = d.Minor
		}
		g.MIG = nil
		for _, m := range d.MIG {
			if n, ok := minors[migNode{g.Minor, m.GPUInstance, -1}]; ok {
				m.GIMinor = n
			}
			if n, ok := minors[migNode{g.Minor, m.GPUInstance, m.ComputeInstance}]; ok {
				m.CIMinor = n
			}
			g.MIG = append(g.MIG, m)
		}
	}
}

// A migNode names a capability of MIG: access to a GPU instance (ci is −1) or
// to a compute instance in it. gpu is the minor, not the index.
type migNode struct{ gpu, gi, ci int }

// migMinors reads which /dev/nvidia-caps/nvidia-capN stands for what, from
// lines such as "gpu0/gi1/access 12" and "gpu0/gi1/ci0/access 13".
func migMinors(root string) map[migNode]int {
	data, err := rootfs.ReadFile(root, "/proc/driver/nvidia-caps/mig-minors", rootfs.MaxFile)
	if err != nil {
		return nil // no MIG, or no driver
	}
	minors := map[migNode]int{}
	for line := range strings.Lines(string(data)) {
		path, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		minor, err := strconv.Atoi(number)
		path, isAccess := strings.CutSuffix(path, "/access")
		if !ok || err != nil || !isAccess {
			continue // "config 1", "monitor 2"
		}
		node := migNode{-1, -1, -1}
		for part := range strings.SplitSeq(path, "/") {
			for prefix, n := range map[string]*int{"gpu": &node.gpu, "gi": &node.gi, "ci": &node.ci} {
				if digits, ok := strings.CutPrefix(part, prefix); ok {
					if v, err := strconv.Atoi(digits); err == nil {
						*n = v
					}
				}
			}
		}
		if node.gpu >= 0 && node.gi >= 0 {
			minors[node] = minor
		}
	}
	return minors
}
