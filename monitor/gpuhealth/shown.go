package gpuhealth

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

	"gpuherd/generator/gpu"
)

// What the kernel shows of GPUs is a sorted list of words, each a kind and a
// name: "driver 0000:17:00.0", "mig gpu3", "mig gpu3/gi1/ci0", "node
// nvidia3", "pci 0000:17:00.0". Those of MIG and nodes name the minor.
const (
	kindDriver = "driver " // /proc/driver/nvidia/gpus
	kindMIG    = "mig "    // /proc/driver/nvidia/capabilities: a GPU's folder of MIG devices, and each device
	kindNode   = "node "   // in /dev
	kindPCI    = "pci "    // NVIDIA's display devices in /sys/bus/pci/devices
)

func nodeWord(g gpu.GPU) string {
	if g.Node != "" {
		return kindNode + filepath.Base(g.Node)
	}
	return kindNode + "nvidia" + strconv.Itoa(g.Minor)
}

func migWord(minor int) string { return kindMIG + "gpu" + strconv.Itoa(minor) }

func migDeviceWord(minor int, m gpu.MIG) string {
	return fmt.Sprintf("%s/gi%d/ci%d", migWord(minor), m.GPUInstance, m.ComputeInstance)
}

// A lister lists what is shown below root. It opens no device and asks no
// driver, since both can wake a GPU.
type lister struct {
	root string
	// display has for each PCI device whether it is a display device of
	// NVIDIA's, which it is for as long as it is there.
	display map[string]bool
	errs    []error // of the list under way
}

// list returns what is shown. What cannot be listed counts as empty; the
// errors say so.
func (l *lister) list() (words []string, errs []error) {
	l.errs = nil
	for _, name := range l.names("dev") {
		if digits, ok := strings.CutPrefix(name, "nvidia"); ok && number(digits) || name == filepath.Base(gpu.WSLNode) {
			words = append(words, kindNode+name)
		}
	}
	for _, name := range l.names("proc/driver/nvidia/gpus") {
		words = append(words, kindDriver+strings.ToLower(name))
	}
	const capabilities = "proc/driver/nvidia/capabilities"
	for _, device := range l.numbered(capabilities, "gpu") {
		if !slices.Contains(l.names(filepath.Join(capabilities, device)), "mig") {
			continue
		}
		words = append(words, kindMIG+device)
		for _, gi := range l.numbered(filepath.Join(capabilities, device, "mig"), "gi") {
			for _, ci := range l.numbered(filepath.Join(capabilities, device, "mig", gi), "ci") {
				words = append(words, kindMIG+device+"/"+gi+"/"+ci)
			}
		}
	}
	const devices = "sys/bus/pci/devices"
	display := map[string]bool{}
	for _, name := range l.names(devices) {
		is, known := l.display[name]
		if !known {
			is = l.isDisplay(filepath.Join(l.root, devices, name))
		}
		display[name] = is
		if is {
			words = append(words, kindPCI+name)
		}
	}
	l.display = display
	slices.Sort(words)
	return words, l.errs
}

// names returns the names in a folder, in no order.
func (l *lister) names(dir string) []string {
	f, err := os.Open(filepath.Join(l.root, dir))
	if err == nil {
		var names []string
		names, err = f.Readdirnames(-1)
		_ = f.Close() // nothing was written
		if err == nil {
			return names
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		l.errs = append(l.errs, err)
	}
	return nil
}

// numbered returns those names that are prefix and a number.
func (l *lister) numbered(dir, prefix string) []string {
	return slices.DeleteFunc(l.names(dir), func(name string) bool {
		digits, ok := strings.CutPrefix(name, prefix)
		return !ok || !number(digits)
	})
}

// number tells a number as the kernel writes it: "3", neither "ctl" nor "03".
func number(s string) bool {
	n, err := strconv.ParseUint(s, 10, 31)
	return err == nil && strconv.FormatUint(n, 10) == s
}

func (l *lister) isDisplay(dir string) bool {
	attribute := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.errs = append(l.errs, err)
		}
		return strings.TrimSpace(string(data))
	}
	if class := attribute("class"); !strings.HasPrefix(class, "0x0300") && !strings.HasPrefix(class, "0x0302") {
		return false
	}
	return attribute("vendor") == "0x10de"
}

// differ says where what is shown is not what the inventory tells, a sentence
// each. It only tells what a rescan should change: what the driver was told to
// leave alone is on the PCI bus, too, and in a container the host's GPUs are.
func differ(shown []string, inv *gpu.Inventory, container bool) []string {
	has := func(word string) bool { _, ok := slices.BinarySearch(shown, word); return ok }
	var differences []string
	say := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	known := map[string]bool{}
	for _, g := range inv.GPUs {
		if g.Simulated {
			continue
		}
		node := nodeWord(g)
		known[kindDriver+g.PCI], known[node], known[migWord(g.Minor)] = true, true, true
		for _, m := range g.MIG {
			known[migDeviceWord(g.Minor, m)] = true
		}
		shownByDriver := has(kindDriver+g.PCI) || has(node)
		switch {
		case g.Fault != "" || inv.Source != gpu.SourceNVML:
			if shownByDriver {
				say("GPU %d at %s is there, but %s", g.Index, g.Address(), cmp.Or(g.Fault, "NVML did not answer"))
			}
			continue
		case !has(kindPCI+g.PCI) && !shownByDriver:
			say("GPU %d at %s is gone", g.Index, g.Address())
			continue
		case !has(node):
			say("the device node of GPU %d at %s is gone", g.Index, g.Address())
		}
		for _, m := range g.MIG {
			// A container need not see the folder.
			if has(migWord(g.Minor)) && !has(migDeviceWord(g.Minor, m)) {
				say("MIG device %d of GPU %d is gone", m.Index, g.Index)
			}
		}
	}
	for _, word := range shown {
		kind, name, _ := strings.Cut(word, " ")
		switch {
		case known[word] || strings.HasPrefix(word, kindPCI):
		case container && strings.HasPrefix(word, kindDriver):
		default:
			say("%s %s is new", kind, name)
		}
	}
	return differences
}
