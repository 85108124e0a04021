package nvmltest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WritePCI makes the sysfs of the machine below root, as it is before the
// driver is loaded: its display devices on the PCI bus and its NUMA nodes.
func (s Scenario) WritePCI(root string) error {
	t := tree{root: root}
	nodes := []int{0}
	for _, g := range s.GPUs {
		t.device(g.PCI, "0x10de", "0x030200", g.NUMANode)
		if g.NUMANode >= 0 {
			nodes = append(nodes, g.NUMANode)
		}
	}
	for _, d := range s.Displays {
		t.device(d.PCI, d.Vendor, d.Class, -1)
	}
	for n := range slices.Max(nodes) + 1 {
		t.file(fmt.Sprintf("sys/devices/system/node/node%d/cpulist", n), cpus(n)+"\n")
	}
	return t.err
}

// WriteDriver makes what a loaded driver adds below root: it is bound to the
// GPUs, and tells of them in procfs. Device nodes are not made.
func (s Scenario) WriteDriver(root string) error {
	t := tree{root: root}
	var minors strings.Builder
	minors.WriteString("config 1\nmonitor 2\n")
	t.folder("sys/bus/pci/drivers/nvidia")
	for _, g := range s.GPUs {
		t.link("sys/devices/pci0000:00/"+g.PCI+"/driver", "../../../bus/pci/drivers/nvidia")
		uuid := g.UUID
		if g.Silent {
			uuid = "GPU-????????-????-????-????-????????????"
		}
		t.file("proc/driver/nvidia/gpus/"+g.PCI+"/information", fmt.Sprintf(
			"Model: \t\t %s\nIRQ:   \t\t 100\nGPU UUID: \t %s\nBus Type: \t PCIe\nBus Location: \t %s\nDevice Minor: \t %d\nGPU Excluded:\t No\n",
			g.Name, uuid, g.PCI, g.Minor))
		for gi := range 15 {
			fmt.Fprintf(&minors, "gpu%d/gi%d/access %d\n", g.Minor, gi, capMinor(g.Minor, gi, -1))
			for ci := range 8 {
				fmt.Fprintf(&minors, "gpu%d/gi%d/ci%d/access %d\n", g.Minor, gi, ci, capMinor(g.Minor, gi, ci))
			}
		}
	}
	t.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  "+s.Driver+"\n")
	t.file("proc/driver/nvidia-caps/mig-minors", minors.String())
	t.file("proc/devices", "Character devices:\n  1 mem\n195 nvidia\n195 nvidia-modeset\n195 nvidiactl\n234 nvidia-caps\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n")
	return t.err
}

// capMinor returns the minor of /dev/nvidia-caps/nvidia-capN for a GPU
// instance of the GPU with a minor, or with ci ≥ 0 for a compute instance.
func capMinor(gpu, gi, ci int) int { return 3 + 135*gpu + 9*gi + 1 + ci }

// cpus returns the CPUs of a NUMA node.
func cpus(node int) string {
	const each = 16
	return fmt.Sprintf("%d-%d", node*each, (node+1)*each-1)
}

// A tree makes files below root until one cannot be made.
type tree struct {
	root string
	err  error
}

func (t *tree) folder(path string) {
	if t.err == nil {
		t.err = os.MkdirAll(filepath.Join(t.root, path), 0o755)
	}
}

func (t *tree) file(path, text string) {
	t.folder(filepath.Dir(path))
	if t.err == nil {
		t.err = os.WriteFile(filepath.Join(t.root, path), []byte(text), 0o644)
	}
}

func (t *tree) link(path, target string) {
	t.folder(filepath.Dir(path))
	if t.err == nil {
		t.err = os.Symlink(target, filepath.Join(t.root, path))
	}
}

// device makes a PCI device as the kernel shows it: a link in bus/pci/devices
// to a folder in devices.
func (t *tree) device(pci, vendor, class string, node int) {
	dir := "sys/devices/pci0000:00/" + pci
	t.file(dir+"/vendor", vendor+"\n")
	t.file(dir+"/class", class+"\n")
	t.file(dir+"/numa_node", fmt.Sprintf("%d\n", node))
	t.file(dir+"/local_cpulist", cpus(max(node, 0))+"\n")
	t.link("sys/bus/pci/devices/"+pci, "../../../devices/pci0000:00/"+pci)
}
