package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gpuherd/generator/rootfs"
)

// ErrStale says that the inventory was written in an earlier boot.
var ErrStale = errors.New("inventory is of an earlier boot")

const (
	bootIDPath = "/proc/sys/kernel/random/boot_id"

	// MaxGPUs is the number of devices, real or simulated, above which a
	// number is taken for a mistake.
	MaxGPUs = 1024

	maxMIG = 64 // devices a GPU; NVIDIA's limit is 7, with room for more
)

// BootID returns the kernel's id of this boot, 36 characters.
func BootID(root string) (string, error) {
	data, err := rootfs.ReadFile(root, bootIDPath, 4096)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", bootIDPath, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// ReadInventory returns the inventory that gpuherd-setup wrote in this boot.
// The error matches fs.ErrNotExist where there is none, ErrStale where it is
// of an earlier boot, and otherwise says what is wrong with it; the caller
// then detects afresh.
func ReadInventory(root string) (*Inventory, error) {
	data, err := rootfs.ReadFile(root, "/"+InventoryPath, 8<<20)
	if err != nil {
		return nil, fmt.Errorf("cannot read inventory: %w", err)
	}
	inv, err := parseInventory(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read inventory: %w", err)
	}
	boot, err := BootID(root)
	if err != nil {
		return nil, err
	}
	if inv.BootID != boot {
		return nil, ErrStale
	}
	if err := inv.check(); err != nil {
		return nil, fmt.Errorf("cannot use inventory: %w", err)
	}
	return inv, nil
}

func parseInventory(data []byte) (*Inventory, error) {
	var inv Inventory
	if err := json.Unmarshal(data, &inv); err != nil {
		return nil, err
	}
	if inv.Version < 1 || inv.Version > InventoryVersion {
		return nil, fmt.Errorf("its format is version %d, this program knows %d", inv.Version, InventoryVersion)
	}
	return &inv, nil
}

// check refuses what could not have been written by gpuherd-setup: numbers and
// names of the inventory end up in unit files.
func (inv *Inventory) check() error {
	switch inv.Source {
	case SourceNVML, SourcePCI, SourceSimulation:
	default:
		return fmt.Errorf("unknown source %q", inv.Source)
	}
	if len(inv.GPUs) > MaxGPUs {
		return fmt.Errorf("%d GPUs are more than %d", len(inv.GPUs), MaxGPUs)
	}
	for i, g := range inv.GPUs {
		switch {
		case g.Index != i:
			return fmt.Errorf("GPU at place %d has index %d", i, g.Index)
		case g.Minor < 0 || g.Minor > 1<<16:
			return fmt.Errorf("GPU %d has minor %d", i, g.Minor)
		case g.NUMANode < -1 || g.NUMANode > 1<<16:
			return fmt.Errorf("GPU %d has NUMA node %d", i, g.NUMANode)
		case g.UUID != "" && !validUUID(g.UUID, "GPU-"):
			return fmt.Errorf("GPU %d has UUID %q", i, g.UUID)
		case len(g.MIG) > maxMIG:
			return fmt.Errorf("GPU %d has %d MIG devices", i, len(g.MIG))
		}
		if _, ok := parseAddress(g.PCI); !ok && (g.PCI != "" || g.Node == "") {
			return fmt.Errorf("GPU %d has PCI address %q", i, g.PCI)
		}
		if _, ok := nodeMinor(g.Node); !ok && g.Node != "" && g.Node != WSLNode {
			return fmt.Errorf("GPU %d has device node %q", i, g.Node)
		}
		last := -1
		for _, m := range g.MIG {
			if m.Index <= last || m.Index > 1<<16 || m.GIMinor < -1 || m.CIMinor < -1 {
				return fmt.Errorf("GPU %d has a MIG device with index %d, minors %d and %d", i, m.Index, m.GIMinor, m.CIMinor)
			}
			if m.UUID != "" && !validUUID(m.UUID, "MIG-") {
				return fmt.Errorf("GPU %d has a MIG device with UUID %q", i, m.UUID)
			}
			last = m.Index
		}
	}
	return nil
}

// validUUID accepts the prefix followed by hexadecimal digits, dashes and, for
// the MIG names of older drivers ("MIG-GPU-…/1/0"), what those have.
func validUUID(s, prefix string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok || rest == "" || len(s) > 128 {
		return false
	}
	for _, r := range strings.TrimPrefix(rest, "GPU-") {
		if !strings.ContainsRune("0123456789abcdefABCDEF-/", r) {
			return false
		}
	}
	return true
}

// Write puts the inventory below root, atomically and readable by all: the
// monitor and the CLI read it as ordinary users. The same inventory gives the
// same bytes.
func (inv *Inventory) Write(root string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write inventory: %w", err)
		}
	}()
	// A reader in another language should find a list where it expects one.
	out := *inv
	out.GPUs = make([]GPU, len(inv.GPUs))
	for i, g := range inv.GPUs {
		if g.MIG == nil {
			g.MIG = []MIG{}
		}
		out.GPUs[i] = g
	}
	data, err := json.MarshalIndent(&out, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(root, InventoryPath)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".inventory-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(append(data, '\n')); err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
