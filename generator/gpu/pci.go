package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Finding is one device that was looked at, and what became of it.
type Finding struct {
	PCI    string `json:"pci"`
	Used   bool   `json:"used"`
	Reason string `json:"reason"`
}

const (
	sysDevices = "sys/bus/pci/devices"
	procGPUs   = "proc/driver/nvidia/gpus"

	vendorNVIDIA = "0x10de"
)

// Detect finds the NVIDIA GPUs on the PCI bus that root/sys shows, in PCI bus
// order. Where root/proc/driver/nvidia knows a GPU, its minor, UUID and name
// are filled in; until then the minor is what the driver will choose on a
// healthy machine: the position. The findings say for each display device why
// it is used or not.
func Detect(root string) ([]GPU, []Finding) {
	return scan(root, driverKnows(root))
}

// Scan is Detect without asking the driver, which can wake a sleeping GPU.
func Scan(root string) ([]GPU, []Finding) {
	return scan(root, nil)
}

func scan(root string, known map[string]bool) ([]GPU, []Finding) {
	entries, err := os.ReadDir(filepath.Join(root, sysDevices))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // a machine without PCI: containers, UML
		}
		return nil, []Finding{{PCI: "/" + sysDevices, Reason: fmt.Sprintf("cannot be listed: %v", err)}}
	}
	var addresses []address
	for _, e := range entries {
		if a, ok := parseAddress(e.Name()); ok {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, compareAddress)

	var (
		gpus     []GPU
		findings []Finding
	)
	for _, a := range addresses {
		dir := filepath.Join(root, sysDevices, a.name)
		class := readWord(filepath.Join(dir, "class"))
		if !strings.HasPrefix(class, "0x03") {
			continue // no display device: not worth a word
		}
		if reason := exclude(dir, class); reason != "" {
			findings = append(findings, Finding{PCI: a.name, Reason: reason})
			continue
		}
		g := GPU{PCI: a.name, Minor: len(gpus), NUMANode: numaNode(root, dir)}
		if known[a.name] {
			if excluded := g.refine(root); excluded {
				findings = append(findings, Finding{PCI: a.name, Reason: "excluded in the NVIDIA driver"})
				continue
			}
		}
		g.Index = len(gpus)
		gpus = append(gpus, g)
		findings = append(findings, Finding{PCI: a.name, Used: true, Reason: fmt.Sprintf("usable NVIDIA GPU %d in PCI bus order", g.Index)})
	}
	return gpus, findings
}

// exclude returns why the display device in dir is no usable NVIDIA GPU, or
// the empty string.
func exclude(dir, class string) string {
	if vendor := readWord(filepath.Join(dir, "vendor")); vendor != vendorNVIDIA {
		if vendor == "" {
			return "its vendor cannot be read"
		}
		return "vendor " + vendor + " is not NVIDIA (" + vendorNVIDIA + ")"
	}
	if !strings.HasPrefix(class, "0x0300") && !strings.HasPrefix(class, "0x0302") {
		return "class " + class + " is neither a VGA nor a 3D controller"
	}
	if _, err := os.Lstat(filepath.Join(dir, "physfn")); err == nil {
		return "SR-IOV virtual function: it belongs to a guest"
	}
	if driver, err := os.Readlink(filepath.Join(dir, "driver")); err == nil {
		if name := filepath.Base(driver); name != "nvidia" {
			return "bound to the driver " + name + ", not nvidia"
		}
		return ""
	}
	// Not bound yet: what it will be bound to may already be decided.
	if name := readWord(filepath.Join(dir, "driver_override")); name != "" && name != "(null)" && name != "nvidia" {
		return "reserved for the driver " + name + ", not nvidia"
	}
	return ""
}

// driverKnows lists the PCI addresses that a loaded NVIDIA driver has.
func driverKnows(root string) map[string]bool {
	entries, err := os.ReadDir(filepath.Join(root, procGPUs))
	if err != nil {
		return nil
	}
	known := make(map[string]bool, len(entries))
	for _, e := range entries {
		known[strings.ToLower(e.Name())] = true
	}
	return known
}

// refine fills in what the driver tells in procfs, and reports whether the
// driver was told to leave the GPU alone.
func (g *GPU) refine(root string) (excluded bool) {
	data, err := os.ReadFile(filepath.Join(root, procGPUs, g.PCI, "information"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Model":
			g.Name = value
		case "GPU UUID":
			// "GPU-????????-…" stands for: not read yet.
			if validUUID(value, "GPU-") {
				g.UUID = value
			}
		case "Device Minor":
			if n, err := strconv.ParseUint(value, 10, 16); err == nil {
				g.Minor = int(n)
			}
		case "GPU Excluded":
			excluded = strings.EqualFold(value, "yes")
		}
	}
	return excluded
}

// Openable keeps the GPUs whose device node below root/dev may be opened: in a
// container the PCI bus shows every GPU of the host, and the nodes show which
// were given to it. It opens none, since that would initialise the GPU and can
// take seconds; access(2) asks the container's device rules all the same.
// Indices are given anew.
func Openable(root string, gpus []GPU, findings []Finding) ([]GPU, []Finding) {
	const readWrite = 0x4 | 0x2 // R_OK and W_OK
	var kept []GPU
	for _, g := range gpus {
		node := filepath.Join(root, "dev", "nvidia"+strconv.Itoa(g.Minor))
		if err := syscall.Access(node, readWrite); err != nil {
			setFinding(findings, g.PCI, false, fmt.Sprintf("/dev/nvidia%d cannot be opened in this container: %v", g.Minor, err))
			continue
		}
		g.Index = len(kept)
		setFinding(findings, g.PCI, true, fmt.Sprintf("usable NVIDIA GPU %d in PCI bus order, given to this container", g.Index))
		kept = append(kept, g)
	}
	return kept, findings
}

func setFinding(findings []Finding, pci string, used bool, reason string) {
	for i := range findings {
		if findings[i].PCI == pci {
			findings[i].Used, findings[i].Reason = used, reason
		}
	}
}

// An address is a PCI address, "0000:17:00.0", taken apart for ordering: bus
// numbers and domains are hexadecimal and domains may have more digits.
type address struct {
	name                          string
	domain, bus, device, function uint64
}

func parseAddress(s string) (address, bool) {
	domain, rest, ok1 := strings.Cut(s, ":")
	bus, rest, ok2 := strings.Cut(rest, ":")
	dev, fn, ok3 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || !ok3 || len(domain) < 4 || len(domain) > 8 || len(bus) != 2 || len(dev) != 2 || len(fn) != 1 {
		return address{}, false
	}
	a := address{name: s}
	for _, f := range []struct {
		to   *uint64
		text string
	}{{&a.domain, domain}, {&a.bus, bus}, {&a.device, dev}, {&a.function, fn}} {
		n, err := strconv.ParseUint(f.text, 16, 32)
		if err != nil || strings.ToLower(f.text) != f.text {
			return address{}, false
		}
		*f.to = n
	}
	return a, true
}

func compareAddress(a, b address) int {
	return cmp.Or(
		cmp.Compare(a.domain, b.domain),
		cmp.Compare(a.bus, b.bus),
		cmp.Compare(a.device, b.device),
		cmp.Compare(a.function, b.function),
	)
}

// readWord returns the first line of a sysfs attribute, or the empty string.
// It goes round package os, whose files cost three system calls more each: a
// large machine has hundreds of PCI devices and boot waits for this.
func readWord(name string) string {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = syscall.Close(fd) }() // nothing was written
	var buf [4096]byte
	n, err := syscall.Read(fd, buf[:])
	if err != nil || n <= 0 || n == len(buf) {
		return "" // a list of CPUs that is cut off would be another list
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	return strings.TrimSpace(line)
}
