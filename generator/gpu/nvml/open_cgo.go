//go:build cgo

package nvml

import (
	"errors"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

const defaultLibrary = "libnvidia-ml.so.1"

// Calling a symbol that the library lacks ends the process, so each is looked
// up before the first call. These are as old as driver 418 or older.
var required = []string{
	"nvmlInit_v2", "nvmlShutdown", "nvmlErrorString", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPciInfo_v3",
	"nvmlDeviceGetUUID", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo",
}

// A library is NVML, loaded and started.
type library struct {
	nvml.Interface
	dl *dl.DynamicLibrary
}

// start loads NVML and starts it. path may be empty for defaultLibrary where
// the dynamic linker finds it.
func start(path string) (*library, error) {
	if path == "" {
		path = defaultLibrary
	}
	// go-nvml opens the library and calls into it in one step; opening it
	// before that is the only time to look for symbols.
	l := &library{Interface: nvml.New(nvml.WithLibraryPath(path)), dl: dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)}
	if err := l.dl.Open(); err != nil {
		if strings.HasPrefix(err.Error(), path+":") && strings.Contains(err.Error(), "No such file") {
			return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	var errs []error
	for _, symbol := range required {
		if !l.has(symbol) {
			errs = append(errs, fmt.Errorf("it lacks %s", symbol))
		}
	}
	if err := errors.Join(errs...); err != nil {
		_ = l.dl.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	if ret := l.Init(); ret != nvml.SUCCESS {
		_ = l.dl.Close()
		return nil, failed("start NVML", ret)
	}
	return l, nil
}

// close lets go of the GPUs.
func (l *library) close() {
	_ = l.Shutdown()
	_ = l.dl.Close()
}

// has reports whether the library has all of the symbols.
func (l *library) has(symbols ...string) bool {
	for _, s := range symbols {
		if l.dl.Lookup(s) != nil {
			return false
		}
	}
	return true
}

// failed puts NVML's own words into an error.
func failed(what string, ret nvml.Return) error {
	return fmt.Errorf("cannot %s: %w", what, ret)
}

// open returns the handle of NVML's device i, and its PCI address.
func (l *library) open(i int) (nvml.Device, string, error) {
	h, ret := l.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, "", failed("open it", ret)
	}
	pci, ret := h.GetPciInfo()
	if ret != nvml.SUCCESS {
		return nil, "", failed("read its PCI address", ret)
	}
	return h, fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device), nil
}

// fault returns what err says of NVML's device i.
func fault(i int, pci string, err error) Fault {
	return Fault{Index: i, PCI: pci, Lost: errors.Is(err, nvml.ERROR_GPU_IS_LOST), Err: err.Error()}
}
