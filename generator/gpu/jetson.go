package gpu

import (
	"strings"

	"gpuherd/generator/rootfs"
)

// deviceTrees are where the kernel shows what the board is compatible with.
// /proc/device-tree is a link to the other one, which containers may hide.
var deviceTrees = []string{"/sys/firmware/devicetree/base/compatible", "/proc/device-tree/compatible"}

// jetson names the integrated GPU of a Tegra machine, and declines it. It is
// no GPU like the others: its device nodes (nvhost, nvmap, nvgpu) are others in
// each release of JetPack, so a worker could not be closed in with certainty;
// its memory is the machine's, so MemoryMax= and MinMemory= would not mean what
// they say; and NVML, by which its health is told, is not there or answers
// little. A PCI GPU in such a machine, and the GPU of those that show theirs
// on the PCI bus, is used like any other.
func (d *detection) jetson(root string) {
	for _, file := range deviceTrees {
		data, err := rootfs.ReadFile(root, file, rootfs.MaxFile)
		if err != nil {
			continue
		}
		if chip := ParseTegra(data); chip != "" {
			d.skip(file, "the integrated GPU of an NVIDIA "+chip+" (Jetson) is not supported: it has no device node of its own, and its memory is the machine's")
		}
		return
	}
}

// ParseTegra returns the chip of a Tegra board, "tegra234", or the empty string
// where the list of a device tree's compatible names none.
func ParseTegra(compatible []byte) string {
	for name := range strings.SplitSeq(string(compatible), "\x00") {
		chip, ok := strings.CutPrefix(name, "nvidia,")
		if digits, isTegra := strings.CutPrefix(chip, "tegra"); ok && isTegra {
			if _, ok := parseNumber(digits); ok {
				return chip
			}
		}
	}
	return ""
}
