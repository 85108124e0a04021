package nvmltest

import (
	"fmt"
	"slices"
)

const gib = 1 << 30

// uuid returns a UUID that follows from a GPU's place, and of its MIG device's.
func uuid(gpu int) string { return fmt.Sprintf("GPU-%08x-0000-4000-8000-%012x", 0xa0000000+gpu, gpu) }

func migUUID(gpu, place int) string {
	return fmt.Sprintf("MIG-%08x-0000-5000-8000-%012x", 0xb0000000+gpu, place)
}

// gpus returns GPUs of one kind at the given buses, half of them on each of
// two NUMA nodes.
func gpus(name string, memory uint64, mig MIGMode, buses ...string) []GPU {
	all := make([]GPU, len(buses))
	for i, bus := range buses {
		all[i] = GPU{
			PCI: "0000:" + bus + ":00.0", UUID: uuid(i), Name: name, Minor: i, MemoryBytes: memory, NUMANode: 2 * i / len(buses), MIG: mig,
			Virtualisation: new(0), Temperature: new(31 + i), Utilisation: new(0),
		}
	}
	return all
}

// EightH100 is a DGX H100.
func EightH100() Scenario {
	s := Scenario{Driver: "570.86.15", GPUs: gpus("NVIDIA H100 80GB HBM3", 80*gib, MIGDisabled, "1b", "43", "52", "61", "9d", "c3", "d1", "df")}
	for i := range s.GPUs {
		s.GPUs[i].Recovery = new(0)
	}
	return s
}

// EightA100 is a DGX A100 whose GPUs are divided in different ways: 0 into
// seven, 1 into three of different sizes of which one has two compute
// instances, 2 not at all although MIG is on; the others have it off. The
// driver is too old to tell recovery actions.
func EightA100() Scenario {
	s := Scenario{Driver: "535.183.06", GPUs: gpus("NVIDIA A100-SXM4-40GB", 40*gib, MIGDisabled, "07", "0f", "47", "4e", "87", "90", "b7", "bd")}
	for i, node := range []int{3, 3, 1, 1, 7, 7, 5, 5} {
		s.GPUs[i].NUMANode = node
	}
	const slice = 4864 << 20 // memory of a 1g.5gb
	divide := func(gpu int, devices ...MIG) {
		g := &s.GPUs[gpu]
		g.MIG = MIGEnabled
		g.Utilisation = nil // not told with MIG
		for i, d := range devices {
			d.Place, d.UUID = i, migUUID(gpu, i)
			g.MIGDevices = append(g.MIGDevices, d)
		}
	}
	seven := make([]MIG, 7)
	for i := range seven {
		seven[i] = MIG{GPUInstance: 7 + i, Profile: "1g.5gb", MemoryBytes: slice}
	}
	divide(0, seven...)
	divide(1,
		MIG{GPUInstance: 2, ComputeInstance: 0, Profile: "1c.3g.20gb", MemoryBytes: 4 * slice},
		MIG{GPUInstance: 2, ComputeInstance: 1, Profile: "1c.3g.20gb", MemoryBytes: 4 * slice},
		MIG{GPUInstance: 3, Profile: "2g.10gb", MemoryBytes: 2 * slice},
		MIG{GPUInstance: 9, Profile: "1g.5gb", MemoryBytes: slice})
	divide(2)
	return s
}

// FourL40S is a server with four L40S on no NUMA node, and the display of its
// management controller, which comes first on the bus.
func FourL40S() Scenario {
	s := Scenario{
		Driver:   "550.54.15",
		GPUs:     gpus("NVIDIA L40S", 48*gib, MIGUnsupported, "3d", "61", "ad", "e1"),
		Displays: []Display{{PCI: "0000:03:00.0", Vendor: "0x1a03", Class: "0x030000"}},
	}
	for i := range s.GPUs {
		s.GPUs[i].NUMANode = -1
	}
	return s
}

// SixteenV100 is a DGX-2, with its GPUs on two NUMA nodes.
func SixteenV100() Scenario {
	return Scenario{Driver: "535.183.06", GPUs: gpus("Tesla V100-SXM3-32GB", 32*gib, MIGUnsupported,
		"34", "36", "39", "3b", "57", "59", "5c", "5e", "b7", "b9", "bc", "be", "e0", "e2", "e5", "e7")}
}

// Shuffled returns s with NVML's order reversed and minors that are neither
// NVML's indices nor the order on the bus.
func Shuffled(s Scenario) Scenario {
	s.GPUs = slices.Clone(s.GPUs)
	slices.Reverse(s.GPUs)
	for i := range s.GPUs {
		s.GPUs[i].Minor = (i + 1) % len(s.GPUs)
	}
	return s
}
