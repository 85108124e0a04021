package gpu

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const sysNodes = "sys/devices/system/node"

// numaNode returns the node of the PCI device in dir, or −1 where it has none
// or names one that this machine does not have: NUMAMask= of an absent node
// would keep the worker from starting.
func numaNode(root, dir string) int {
	n, ok := parseNumber(readWord(filepath.Join(dir, "numa_node")))
	if !ok {
		return -1
	}
	if _, err := os.Stat(nodeDir(root, n)); err != nil {
		return -1
	}
	return n
}

func nodeDir(root string, node int) string {
	return filepath.Join(root, sysNodes, "node"+strconv.Itoa(node))
}

// ReadNodeCPUs returns the CPUs that are online on the NUMA nodes of gpus, by
// node, in the syntax of AllowedCPUs=: "0-15,32-47". A node without CPUs, or
// with a list that cannot be read, is not in it.
func ReadNodeCPUs(root string, gpus []GPU) map[int]string {
	cpus := map[int]string{}
	for _, g := range gpus {
		if _, seen := cpus[g.NUMANode]; seen || g.NUMANode < 0 {
			continue
		}
		if list := readWord(filepath.Join(nodeDir(root, g.NUMANode), "cpulist")); validCPUList(list) {
			cpus[g.NUMANode] = list
		}
	}
	return cpus
}

// validCPUList accepts what the kernel writes, CPUs and ranges of them with a
// comma between: the list ends up in a unit file.
func validCPUList(list string) bool {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, ok := parseNumber(first)
		if !ok {
			return false
		}
		if to, ok := parseNumber(last); isRange && (!ok || to < from) {
			return false
		}
	}
	return true
}
