package gpu

import "fmt"

const simulatedMemory = 16 << 30

// Simulated returns n devices with no hardware behind them, the same ones on
// every call: index, minor, UUID and PCI address follow from the position. The
// PCI domain ffff is one that no machine uses.
func Simulated(n int) []GPU {
	gpus := make([]GPU, n)
	for i := range gpus {
		gpus[i] = GPU{
			Index:       i,
			UUID:        fmt.Sprintf("GPU-00000000-0000-0000-0000-%012d", i),
			PCI:         fmt.Sprintf("ffff:%02x:%02x.0", i&0xff, i>>8),
			Minor:       i,
			Name:        "Simulated GPU",
			MemoryBytes: simulatedMemory,
			NUMANode:    -1,
			Simulated:   true,
		}
	}
	return gpus
}

// Fill returns hardware followed by simulated devices up to n in all. Simulated
// minors lie above all real ones, so that no simulated worker is given the
// node of a real GPU.
func Fill(hardware []GPU, n int) []GPU {
	all := append([]GPU(nil), hardware...)
	if n <= len(hardware) {
		return all
	}
	next := len(hardware)
	for _, g := range hardware {
		next = max(next, g.Minor+1)
	}
	for _, g := range Simulated(n)[len(hardware):] {
		g.Minor = next
		next++
		all = append(all, g)
	}
	return all
}
