package gpu

import (
	"strings"

	"gpuherd/generator/rootfs"
)

const procGPUs = "proc/driver/nvidia/gpus"

// An Information is what the driver tells of one GPU in procfs.
type Information struct {
	Model    string // "NVIDIA H100 80GB HBM3"
	UUID     string // "GPU-…"; empty where it was not read yet
	Minor    int    // the N of /dev/nvidiaN; −1 where it does not say
	Excluded bool   // the driver was told to leave the GPU alone
}

// ParseInformation reads /proc/driver/nvidia/gpus/ADDRESS/information, lines
// such as "Device Minor: \t 0". What it does not know, or what is no value of
// its kind, it passes over.
func ParseInformation(data []byte) Information {
	info := Information{Minor: unknown}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Model":
			info.Model = value
		case "GPU UUID":
			// "GPU-????????-…" stands for: not read yet.
			if validUUID(value, "GPU-") {
				info.UUID = value
			}
		case "Device Minor":
			if n, ok := parseNumber(value); ok {
				info.Minor = n
			}
		case "GPU Excluded":
			info.Excluded = strings.EqualFold(value, "yes")
		}
	}
	return info
}

// listed returns the PCI addresses of the GPUs that a loaded NVIDIA driver
// has, in bus order. It writes them as sysfs does.
func listed(root string) []string {
	names, err := rootfs.Names(root, "/"+procGPUs)
	if err != nil {
		return nil // the driver is not loaded
	}
	return addresses(names)
}

// driver refines the GPUs on the PCI bus by what the driver knows of them. It
// takes the driver's word for them where no bus is shown, as in containers
// that hide it.
func (d *detection) driver(root string) {
	if d.noBus {
		for _, a := range listed(root) {
			d.use(GPU{PCI: a, Minor: unknown, NUMANode: -1}, " in PCI bus order, by the driver alone: no PCI bus is shown in /sys")
		}
	}
	d.used(func(c *candidate) string {
		data, err := rootfs.ReadFile(root, "/"+procGPUs+"/"+c.gpu.PCI+"/information", rootfs.MaxFile)
		if err != nil {
			return "" // not loaded, or it is for NVML to tell what is wrong
		}
		info := ParseInformation(data)
		c.gpu.Name, c.gpu.UUID, c.gpu.Minor = info.Model, info.UUID, info.Minor
		if info.Excluded {
			return "excluded in the NVIDIA driver"
		}
		return ""
	})
}
