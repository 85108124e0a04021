package gpu

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"gpuherd/generator/rootfs"
)

const (
	sysDevices = "sys/bus/pci/devices"

	vendorNVIDIA = "0x10de"
)

// pci looks at the display devices on the PCI bus that root/sys shows.
func (d *detection) pci(root string) {
	names, err := rootfs.Names(root, "/"+sysDevices)
	if err != nil {
		// Without PCI: user-mode Linux, and containers that hide it.
		if d.noBus = errors.Is(err, fs.ErrNotExist); !d.noBus {
			d.skip("/"+sysDevices, "cannot be listed: "+err.Error())
		}
		return
	}
	for _, a := range addresses(names) {
		dir := filepath.Join(root, sysDevices, a)
		class := readWord(filepath.Join(dir, "class"))
		if !isHex(class) {
			d.skip(a, "its class cannot be read")
			continue
		}
		if !strings.HasPrefix(class, "0x03") {
			continue // no display device, such as an NVSwitch: not worth a word
		}
		if why := exclude(dir, class); why != "" {
			d.skip(a, why)
			continue
		}
		d.use(GPU{PCI: a, Minor: unknown, NUMANode: numaNode(root, dir)}, " in PCI bus order")
	}
}

// exclude returns why the display device in dir is no usable NVIDIA GPU, or
// the empty string.
func exclude(dir, class string) string {
	if vendor := readWord(filepath.Join(dir, "vendor")); vendor != vendorNVIDIA {
		if !isHex(vendor) {
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
			return "bound to the driver " + plain(name) + ", not nvidia"
		}
		return exportsToGuests(dir)
	}
	// Not bound yet: what it will be bound to may already be decided.
	if name := readWord(filepath.Join(dir, "driver_override")); name != "" && name != "(null)" && name != "nvidia" {
		return "reserved for the driver " + plain(name) + ", not nvidia"
	}
	return ""
}

// exportsToGuests returns why a GPU whose driver is nvidia gives itself to
// virtual machines, or the empty string: NVIDIA's vGPU manager makes SR-IOV
// virtual functions of it, or, on GPUs before Ampere, mediated devices.
func exportsToGuests(dir string) string {
	if n, ok := parseNumber(readWord(filepath.Join(dir, "sriov_numvfs"))); ok && n > 0 {
		return "its SR-IOV virtual functions are on (" + strconv.Itoa(n) + "): a vGPU host, which gives it to guests"
	}
	if info, err := os.Stat(filepath.Join(dir, "mdev_supported_types")); err == nil && info.IsDir() {
		return "it offers mediated devices: a vGPU host, which gives it to guests"
	}
	return ""
}

// isHex reports whether s is a number as sysfs writes identifiers: "0x10de".
func isHex(s string) bool {
	digits, ok := strings.CutPrefix(s, "0x")
	return ok && digits != "" && len(digits) <= 8 && strings.Trim(digits, "0123456789abcdef") == ""
}

// plain returns a driver's name as it is, and in quotes where it is none.
func plain(name string) string {
	if quoted := strconv.QuoteToASCII(name); name == "" || strings.ContainsAny(name, " \t") || len(quoted) > len(name)+2 {
		return quoted
	}
	return name
}

// readWord returns the first line of a sysfs attribute, or the empty string.
// It goes round package os, whose files cost three system calls more each: a
// large machine has hundreds of PCI devices and boot waits for this. An
// attribute is never a link.
func readWord(name string) string {
	const flags = syscall.O_RDONLY | syscall.O_CLOEXEC | syscall.O_NONBLOCK | syscall.O_NOFOLLOW | syscall.O_NOCTTY
	fd, err := syscall.Open(name, flags, 0)
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
