//go:build cgo

package nvml

import (
	"errors"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"gpuherd/generator/gpu"
)

const defaultLibrary = "libnvidia-ml.so.1"

// Calling a symbol that the library lacks ends the process, so each is looked
// up before the first call. These are as old as driver 418 or older.
var required = []string{
	"nvmlInit_v2", "nvmlShutdown", "nvmlErrorString", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPciInfo_v3",
	"nvmlDeviceGetUUID", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo",
}

// migSymbols came with driver 450; without one of them there is no MIG.
var migSymbols = []string{
	"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
	"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId",
}

// Read loads NVML, asks it once and lets go of it again: open handles would
// block a GPU's reset. library is a path, or empty for libnvidia-ml.so.1 where
// the dynamic linker finds it.
//
// It takes 1 to 3 seconds a GPU where no persistence daemon runs, and may hang
// with a broken GPU; the caller bounds that.
func Read(library string) (*Answer, error) {
	if library == "" {
		library = defaultLibrary
	}
	// go-nvml opens the library and calls into it in one step; opening it
	// before that is the only time to look for symbols.
	lib := dl.New(library, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := lib.Open(); err != nil {
		if strings.HasPrefix(err.Error(), library+":") && strings.Contains(err.Error(), "No such file") {
			return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
		}
		return nil, fmt.Errorf("cannot load NVML: %w", err)
	}
	defer func() { _ = lib.Close() }()
	if err := lookup(lib, required); err != nil {
		return nil, fmt.Errorf("cannot use NVML of this driver: %w", err)
	}
	hasMIG := lookup(lib, migSymbols) == nil
	hasVersion := lookup(lib, []string{"nvmlSystemGetDriverVersion"}) == nil

	n := nvml.New(nvml.WithLibraryPath(library))
	if ret := n.Init(); ret != nvml.SUCCESS {
		return nil, failed("start NVML", ret)
	}
	defer func() { _ = n.Shutdown() }()
	a := &Answer{}
	if hasVersion {
		if v, ret := n.SystemGetDriverVersion(); ret == nvml.SUCCESS {
			a.DriverVersion = v
		}
	}
	count, ret := n.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, failed("count GPUs by NVML", ret)
	}
	for i := range count {
		d, err := readDevice(n, i, hasMIG)
		if err != nil {
			a.Faults = append(a.Faults, fmt.Sprintf("NVML device %d: %v", i, err))
			continue
		}
		a.Devices = append(a.Devices, *d)
	}
	return a, nil
}

func lookup(lib *dl.DynamicLibrary, symbols []string) error {
	var errs []error
	for _, s := range symbols {
		if err := lib.Lookup(s); err != nil {
			errs = append(errs, fmt.Errorf("it lacks %s", s))
		}
	}
	return errors.Join(errs...)
}

// failed puts NVML's own words into an error.
func failed(what string, ret nvml.Return) error {
	return fmt.Errorf("cannot %s: %s", what, ret.Error())
}

func readDevice(n nvml.Interface, i int, hasMIG bool) (*Device, error) {
	h, ret := n.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, failed("open it", ret)
	}
	pci, ret := h.GetPciInfo()
	if ret != nvml.SUCCESS {
		return nil, failed("read its PCI address", ret)
	}
	d := &Device{PCI: fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device), Minor: -1}
	if d.UUID, ret = h.GetUUID(); ret != nvml.SUCCESS {
		return nil, failed("read the UUID of "+d.PCI, ret)
	}
	if minor, ret := h.GetMinorNumber(); ret == nvml.SUCCESS {
		d.Minor = minor
	}
	if name, ret := h.GetName(); ret == nvml.SUCCESS {
		d.Name = name
	}
	if memory, ret := h.GetMemoryInfo(); ret == nvml.SUCCESS {
		d.MemoryBytes = memory.Total
	}
	if !hasMIG {
		return d, nil
	}
	if current, _, ret := h.GetMigMode(); ret == nvml.SUCCESS && current == nvml.DEVICE_MIG_ENABLE {
		d.MIGMode = true
		d.MIG = readMIG(h)
	}
	return d, nil
}

// readMIG lists the MIG devices of a GPU. NVML has room for a fixed number of
// them, of which some are empty; the position is the M of N:M.
func readMIG(h nvml.Device) []gpu.MIG {
	places, ret := h.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	var list []gpu.MIG
	for i := range places {
		m, ret := h.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		mig := gpu.MIG{Index: i, GIMinor: -1, CIMinor: -1}
		if mig.UUID, ret = m.GetUUID(); ret != nvml.SUCCESS {
			continue // it went away
		}
		if mig.GPUInstance, ret = m.GetGpuInstanceId(); ret != nvml.SUCCESS {
			continue
		}
		if mig.ComputeInstance, ret = m.GetComputeInstanceId(); ret != nvml.SUCCESS {
			continue
		}
		if memory, ret := m.GetMemoryInfo(); ret == nvml.SUCCESS {
			mig.MemoryBytes = memory.Total
		}
		// "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
		if name, ret := m.GetName(); ret == nvml.SUCCESS {
			if _, profile, ok := strings.Cut(name, " MIG "); ok {
				mig.Profile = profile
			}
		}
		list = append(list, mig)
	}
	return list
}
