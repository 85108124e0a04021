package gpu

import "slices"

// Left is the Fault of a GPU that was there earlier in this boot.
const Left = "it left the PCI bus"

// Number gives the GPUs that were found, in PCI bus order, their indices.
//
// With no earlier ones that is their position. A GPU that the inventory of this
// boot knows keeps its index, whatever came or went before it on the bus, since
// another one would restart its worker: it is known by its UUID, or by its
// address where it does not tell its UUID now. A new one gets the next index.
// One that is gone stays, with the Fault Left, and of one that is faulty what
// was known before is kept.
func Number(found, earlier []GPU) []GPU {
	all := slices.DeleteFunc(slices.Clone(earlier), func(g GPU) bool { return g.Simulated })
	here := make([]bool, len(all))
	place := make([]int, len(found)) // in all; −1: not known
	for i := range found {
		place[i] = -1
	}
	match := func(same func(g, old GPU) bool) {
		for i, g := range found {
			if place[i] >= 0 {
				continue
			}
			for j, old := range all {
				if !here[j] && same(g, old) {
					place[i], here[j] = j, true
					break
				}
			}
		}
	}
	match(func(g, old GPU) bool { return g.UUID != "" && g.UUID == old.UUID })
	match(func(g, old GPU) bool { return g.Address() == old.Address() })

	for j := range all {
		if !here[j] {
			all[j].Fault = Left
		}
	}
	for i, g := range found {
		if place[i] < 0 {
			all = append(all, g)
			continue
		}
		old := all[place[i]]
		if g.Fault != "" && g.UUID == "" {
			g.UUID, g.Name, g.MemoryBytes, g.Minor, g.MIGMode, g.MIG = old.UUID, old.Name, old.MemoryBytes, old.Minor, old.MIGMode, old.MIG
		}
		all[place[i]] = g
	}
	for i := range all {
		all[i].Index = i
	}
	return all
}
