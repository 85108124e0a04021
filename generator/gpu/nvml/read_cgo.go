//go:build cgo

package nvml

import (
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"gpuherd/generator/gpu"
)

// migSymbols came with driver 450; without one of them there is no MIG.
var migSymbols = []string{
	"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
	"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId",
}

// Read loads NVML, asks it once and lets go of it again: open handles would
// block a GPU's reset. path is that of the library, or empty for
// libnvidia-ml.so.1 where the dynamic linker finds it.
//
// It takes 1 to 3 seconds a GPU where no persistence daemon runs, and may hang
// with a broken GPU; the caller bounds that.
func Read(path string) (*Answer, error) {
	l, err := start(path)
	if err != nil {
		return nil, err
	}
	defer l.close()
	a := &Answer{}
	if l.has("nvmlSystemGetDriverVersion") {
		if v, ret := l.SystemGetDriverVersion(); ret == nvml.SUCCESS {
			a.DriverVersion = v
		}
	}
	count, ret := l.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, failed("count GPUs by NVML", ret)
	}
	for i := range count {
		h, pci, err := l.open(i)
		var d *Device
		if err == nil {
			d, err = l.readDevice(h, pci)
		}
		if err != nil {
			a.Faults = append(a.Faults, fault(i, pci, err))
			continue
		}
		a.Devices = append(a.Devices, *d)
	}
	return a, nil
}

func (l *library) readDevice(h nvml.Device, pci string) (*Device, error) {
	d := &Device{PCI: pci, Minor: -1}
	var ret nvml.Return
	if d.UUID, ret = h.GetUUID(); ret != nvml.SUCCESS {
		return nil, failed("read its UUID", ret)
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
	if l.has("nvmlDeviceGetVirtualizationMode") {
		if mode, ret := h.GetVirtualizationMode(); ret == nvml.SUCCESS {
			d.Virtualisation = virtualisation(mode)
		}
	}
	if !l.has(migSymbols...) {
		return d, nil
	}
	if current, _, ret := h.GetMigMode(); ret == nvml.SUCCESS && current == nvml.DEVICE_MIG_ENABLE {
		d.MIGMode = true
		d.MIG = readMIG(h)
	}
	return d, nil
}

func virtualisation(mode nvml.GpuVirtualizationMode) string {
	switch mode {
	case nvml.GPU_VIRTUALIZATION_MODE_NONE:
		return VirtualisationNone
	case nvml.GPU_VIRTUALIZATION_MODE_PASSTHROUGH:
		return VirtualisationPassthrough
	case nvml.GPU_VIRTUALIZATION_MODE_VGPU:
		return VirtualisationVGPU
	case nvml.GPU_VIRTUALIZATION_MODE_HOST_VGPU:
		return VirtualisationHostVGPU
	case nvml.GPU_VIRTUALIZATION_MODE_HOST_VSGA:
		return VirtualisationHostVSGA
	}
	return ""
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
