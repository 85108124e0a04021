// Package gpu finds the NVIDIA GPUs of a machine, without NVML and without
// starting a process.
//
// The best witness is the inventory that gpuherd-setup wrote in this boot
// (ReadInventory). Without one, Detect asks PCI in sysfs, then the driver's
// files in procfs where it is loaded, and, where there is no PCI GPU, the one
// device node of WSL; it names the integrated GPU of a Jetson, and why that is
// not used. In a container Openable keeps what its device nodes let through.
// Simulated and Fill make devices that no hardware is behind. Each file of the
// package is one of these sources.
package gpu

// A GPU is one usable NVIDIA GPU. Index counts usable GPUs in PCI bus order
// and is the N of redis-worker@N; it is not NVML's index and not the minor.
type GPU struct {
	Index       int    `json:"index"`
	UUID        string `json:"uuid"`         // "GPU-…"; empty until the driver has told it
	PCI         string `json:"pci"`          // "0000:17:00.0": domain of four digits, lower case, as sysfs writes it; empty where only Node is known
	Minor       int    `json:"minor"`        // the N of /dev/nvidiaN
	Name        string `json:"name"`         // "NVIDIA H100 80GB HBM3"; empty until known
	MemoryBytes uint64 `json:"memory_bytes"` // total GPU memory; 0 until known
	NUMANode    int    `json:"numa_node"`    // −1: none
	MIGMode     bool   `json:"mig_mode"`     // MIG is enabled, with or without devices
	MIG         []MIG  `json:"mig"`          // MIG devices in the order of their index
	Simulated   bool   `json:"simulated"`    // no hardware behind it
	// Fault says why nothing may run on it now: it left the bus, or does not
	// answer NVML. It keeps its index, so that no other worker is renumbered.
	// Empty: it works, as far as is known.
	Fault string `json:"fault,omitempty"`
	// Node is the device node by which it is known where no PCI bus shows it:
	// WSLNode, or "/dev/nvidiaN" in some containers.
	Node string `json:"node,omitempty"`
}

// Address says where the GPU is: its PCI address, or its Node where it has
// none. No two GPUs of a machine have the same.
func (g GPU) Address() string {
	if g.PCI == "" {
		return g.Node
	}
	return g.PCI
}

// A MIG is one MIG device: a compute instance inside a GPU instance.
type MIG struct {
	Index           int    `json:"index"`   // the M of instance N:M
	UUID            string `json:"uuid"`    // "MIG-…"
	Profile         string `json:"profile"` // "1g.10gb"
	MemoryBytes     uint64 `json:"memory_bytes"`
	GPUInstance     int    `json:"gpu_instance"`     // GI id
	ComputeInstance int    `json:"compute_instance"` // CI id inside the GI
	GIMinor         int    `json:"gi_minor"`         // minor of the GI's nvidia-cap node; −1 unknown
	CIMinor         int    `json:"ci_minor"`         // minor of the CI's nvidia-cap node; −1 unknown
}

// Sources of an inventory or of a detection.
const (
	SourceNVML       = "nvml"
	SourcePCI        = "pci"
	SourceSimulation = "simulation"
	SourceInventory  = "inventory"
)

// InventoryVersion is the version of the inventory's format. A reader refuses
// a higher one and detects afresh.
const InventoryVersion = 1

// InventoryPath is where gpuherd-setup writes the inventory, below the root.
const InventoryPath = "run/gpuherd/inventory.json"

// RescanDir is a folder, below the root, in which any file asks for a rescan:
// gpuherd-rescan.path starts gpuherd-rescan.service, which empties it first.
const RescanDir = "run/gpuherd/rescan"

// An Inventory is what gpuherd-setup found in this boot.
type Inventory struct {
	Version       int    `json:"version"`
	BootID        string `json:"boot_id"`        // /proc/sys/kernel/random/boot_id, 36 characters
	Source        string `json:"source"`         // "nvml", "pci" or "simulation"
	DriverVersion string `json:"driver_version"` // empty where NVML did not answer
	GPUs          []GPU  `json:"gpus"`           // in index order
}
