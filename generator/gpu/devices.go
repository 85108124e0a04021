package gpu

import (
	"strings"

	"gpuherd/generator/rootfs"
)

const procDevices = "/proc/devices"

// Majors are the major numbers of the kernel's character devices by the name
// of their driver: "nvidia", "nvidia-uvm", "nvidia-caps".
type Majors map[string]int

// ReadMajors returns the majors of the running kernel, of modules that are
// loaded. It is empty where they cannot be read.
func ReadMajors(root string) Majors {
	data, err := rootfs.ReadFile(root, procDevices, rootfs.MaxFile)
	if err != nil {
		return nil
	}
	return ParseMajors(data)
}

// ParseMajors reads the first part of /proc/devices, that of the character
// devices, which the driver of a GPU is one of. Of two lines with one name the
// first holds; lines that it does not know are passed over.
func ParseMajors(data []byte) Majors {
	majors := Majors{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Block devices:") {
			break
		}
		number, name, ok := strings.Cut(line, " ")
		major, isNumber := parseNumber(number)
		if !ok || !isNumber || name == "" || major > maxMajor {
			continue
		}
		if _, seen := majors[name]; !seen {
			majors[name] = major
		}
	}
	return majors
}

// maxMajor is the highest major that Linux has (MINORBITS leaves 12 bits).
const maxMajor = 1<<12 - 1
