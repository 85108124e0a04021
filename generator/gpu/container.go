package gpu

import (
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gpuherd/generator/rootfs"
)

// What NVIDIA's container toolkit takes from a container's environment: the GPUs
// to give to it, and the parts of the driver.
const (
	VisibleVariable      = "NVIDIA_VISIBLE_DEVICES"
	CapabilitiesVariable = "NVIDIA_DRIVER_CAPABILITIES"
)

// Withheld returns what a value of VisibleVariable says about a container in
// which no GPU is found; it is empty for no value. It decides nothing: where
// GPUs come by CDI the toolkit itself sets the variable to "void", and a
// privileged container has every GPU of the host, whatever the list.
func Withheld(value string) string {
	switch value {
	case "":
		return ""
	case "none", "void":
		return "the container's engine was asked for no GPU: start it with NVIDIA's container toolkit and the GPUs that it may use"
	}
	return "the container was to have GPUs, and its engine gave none: it does not run NVIDIA's container toolkit, see nvidia-ctk runtime configure"
}

// LibraryWithheld reports whether a value of CapabilitiesVariable keeps NVML out
// of a container; not whether it lets it in.
func LibraryWithheld(value string) bool {
	if value == "" {
		return false // the toolkit's default has it
	}
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name == "all" || name == "utility" {
			return false
		}
	}
	return true
}

// given keeps the GPUs that a container was given: PCI shows every GPU of the
// host in it, the device nodes show what may be opened, and the driver's
// files, where the container has them, which node is whose. A container that
// is shown neither PCI nor the driver has the GPUs that its nodes name.
func (d *detection) given(root string) {
	known := listed(root)
	if d.noBus && len(known) == 0 {
		d.nodes(root)
		return
	}
	next := 0
	d.used(func(c *candidate) string {
		switch {
		case len(known) == 0:
			// The driver numbers all of the host's GPUs, so those that were
			// not given count too.
			c.gpu.Minor = next
			next++
		case !slices.Contains(known, c.gpu.PCI):
			return "not given to this container: the driver in it does not list it"
		case c.gpu.Minor == unknown:
			return "the driver does not tell which device node is its"
		}
		if err := openable(root, nodeOf(c.gpu.Minor)); err != nil {
			return nodeOf(c.gpu.Minor) + " cannot be opened in this container: " + err.Error()
		}
		c.how += ", given to this container"
		return ""
	})
}

// nodes finds the GPUs by their device nodes alone.
func (d *detection) nodes(root string) {
	names, err := rootfs.Names(root, "/dev")
	if err != nil {
		return
	}
	var minors []int
	for _, name := range names {
		if minor, ok := nodeMinor("/dev/" + name); ok {
			minors = append(minors, minor)
		}
	}
	slices.Sort(minors)
	for _, minor := range minors {
		node := nodeOf(minor)
		if err := openable(root, node); err != nil {
			d.skip(node, "cannot be opened in this container: "+err.Error())
			continue
		}
		d.use(GPU{Node: node, Minor: minor, NUMANode: -1}, ", by its device node alone: no PCI bus is shown in /sys")
	}
}

func nodeOf(minor int) string { return "/dev/nvidia" + strconv.Itoa(minor) }

// maxGPUMinor is the highest minor of a GPU: above are the driver's own nodes
// (NV_MINOR_DEVICE_NUMBER_REGULAR_MAX).
const maxGPUMinor = 247

// nodeMinor returns the N of "/dev/nvidiaN".
func nodeMinor(node string) (int, bool) {
	digits, ok := strings.CutPrefix(node, "/dev/nvidia")
	minor, isNumber := parseNumber(digits)
	return minor, ok && isNumber && minor <= maxGPUMinor && node == nodeOf(minor)
}

// openable says why the device node below root may not be opened. It opens
// none, since that would initialise the GPU and can take seconds; access(2)
// asks the container's device rules all the same.
func openable(root, node string) error {
	const readWrite = 0x4 | 0x2 // R_OK and W_OK
	return syscall.Access(rootfs.Path(root, node), readWrite)
}
