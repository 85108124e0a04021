package gpu

import (
	"strconv"
	"strings"

	"gpuherd/generator/rootfs"
)

const procMIGMinors = "/proc/driver/nvidia-caps/mig-minors"

// A MIGNode names a capability of MIG: access to a GPU instance, or to a
// compute instance in it. GPU is the minor of the GPU, not its index.
type MIGNode struct {
	GPU int // the minor
	GI  int // id of the GPU instance
	CI  int // id of the compute instance; −1: the GPU instance itself
}

// ReadMIGMinors returns which /dev/nvidia-caps/nvidia-capN stands for what, N
// by node. It is empty where the driver is not loaded or knows no MIG.
func ReadMIGMinors(root string) map[MIGNode]int {
	data, err := rootfs.ReadFile(root, procMIGMinors, rootfs.MaxFile)
	if err != nil {
		return nil
	}
	return ParseMIGMinors(data)
}

// ParseMIGMinors reads the lines of mig-minors, such as "gpu0/gi1/access 12"
// and "gpu0/gi1/ci0/access 13". Lines of another kind, "config 1" and "monitor
// 2" among them, are passed over.
func ParseMIGMinors(data []byte) map[MIGNode]int {
	minors := map[MIGNode]int{}
	for line := range strings.Lines(string(data)) {
		path, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		minor, isNumber := parseNumber(strings.TrimSpace(number))
		if !ok || !isNumber {
			continue
		}
		parts := strings.Split(path, "/")
		last := len(parts) - 1
		if parts[last] != "access" || last != 2 && last != 3 {
			continue
		}
		node := MIGNode{CI: -1}
		for i, to := range []*int{&node.GPU, &node.GI, &node.CI}[:last] {
			digits, named := strings.CutPrefix(parts[i], []string{"gpu", "gi", "ci"}[i])
			n, isNumber := parseNumber(digits)
			if ok = named && isNumber; !ok {
				break
			}
			*to = n
		}
		if ok {
			minors[node] = minor
		}
	}
	return minors
}

// maxMinor is the highest minor that Linux has (MINORBITS in kdev_t.h).
const maxMinor = 1<<20 - 1

// parseNumber takes decimal digits alone, up to maxMinor.
func parseNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxMinor {
		return 0, false
	}
	return int(n), true
}
