//go:build cgo

package nvml

import (
	"encoding/binary"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// eventSymbols are what hearing of events takes.
var eventSymbols = []string{
	"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlEventSetWait_v2", "nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents",
}

// eventTypes are the events that say something about a GPU's health.
const eventTypes = nvml.EventTypeXidCriticalError | nvml.EventTypeGpuUnavailableError | nvml.EventTypeGpuRecoveryAction

// A Session holds NVML open, to sample GPUs and to hear of their errors. While
// it is open no GPU can be reset and MIG cannot be switched. It is for one
// goroutine; any call may take seconds, or hang with a broken GPU.
type Session struct {
	// Faults are the GPUs that NVML counts and that could not be opened.
	Faults []Fault
	// Unheard are the PCI addresses of the GPUs that tell of no events.
	Unheard []string

	lib    *library
	gpus   []watched
	events nvml.EventSet // nil: none can be heard of

	temperature, utilisation, fields bool // the library has the symbols
}

type watched struct {
	pci    string
	handle nvml.Device
}

// Open loads NVML and opens all GPUs. From then on their events are kept for
// Wait; what was before only a Sample tells. The errors are those of Read.
func Open(path string) (*Session, error) {
	l, err := start(path)
	if err != nil {
		return nil, err
	}
	count, ret := l.DeviceGetCount()
	if ret != nvml.SUCCESS {
		l.close()
		return nil, failed("count GPUs by NVML", ret)
	}
	s := &Session{
		lib: l, temperature: l.has("nvmlDeviceGetTemperature"), utilisation: l.has("nvmlDeviceGetUtilizationRates"), fields: l.has("nvmlDeviceGetFieldValues"),
	}
	for i := range count {
		h, pci, err := l.open(i)
		if err != nil {
			s.Faults = append(s.Faults, fault(i, pci, err))
			continue
		}
		s.gpus = append(s.gpus, watched{pci, h})
	}
	s.listen()
	return s, nil
}

// Close lets go of the GPUs.
func (s *Session) Close() {
	if s.events != nil {
		_ = s.events.Free()
	}
	s.lib.close()
}

// GPUs returns the PCI addresses of the GPUs that were opened.
func (s *Session) GPUs() []string {
	all := make([]string, len(s.gpus))
	for i, g := range s.gpus {
		all[i] = g.pci
	}
	return all
}

// listen registers anew for the events of all GPUs that are still there.
func (s *Session) listen() {
	if s.events != nil {
		_ = s.events.Free()
		s.events = nil
	}
	s.Unheard = s.GPUs()
	if !s.lib.has(eventSymbols...) {
		return
	}
	set, ret := s.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	s.Unheard = nil
	for _, g := range s.gpus {
		types, ret := g.handle.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || types&eventTypes == 0 || g.handle.RegisterEvents(types&eventTypes, set) != nvml.SUCCESS {
			s.Unheard = append(s.Unheard, g.pci)
		}
	}
	if len(s.Unheard) == len(s.gpus) {
		_ = set.Free()
		return
	}
	s.events = set
}

// Wait waits for the next event, at most for the time given, which it waits
// out where no GPU can tell of events. ok is false where none came. An error
// says that events may have been missed: a GPU fell off the bus, or NVML is
// broken.
func (s *Session) Wait(most time.Duration) (e Event, ok bool, err error) {
	if s.events == nil {
		time.Sleep(most)
		return Event{}, false, nil
	}
	data, ret := s.events.Wait(uint32(most.Milliseconds()))
	switch ret {
	case nvml.SUCCESS:
	case nvml.ERROR_TIMEOUT:
		return Event{}, false, nil
	default:
		// With a lost GPU in the set NVML would tell that and nothing else.
		s.listen()
		return Event{}, false, failed("wait for events", ret)
	}
	for _, g := range s.gpus {
		if g.handle == data.Device {
			e.PCI = g.pci
		}
	}
	switch data.EventType {
	case nvml.EventTypeXidCriticalError:
		e.XID = data.EventData
	case nvml.EventTypeGpuRecoveryAction:
		e.Recovery = true
	}
	return e, true, nil
}

// Sample asks for one of the GPUs, by its place in GPUs.
func (s *Session) Sample(i int) Sample {
	g := s.gpus[i]
	out := Sample{PCI: g.pci}
	if s.temperature {
		if t, ret := g.handle.GetTemperature(nvml.TEMPERATURE_GPU); out.tells(ret) {
			out.Temperature = new(int(t))
		}
	}
	if s.utilisation {
		if u, ret := g.handle.GetUtilizationRates(); out.tells(ret) {
			out.Utilisation = new(int(u.Gpu))
		}
	}
	if s.fields {
		values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
		if ret := g.handle.GetFieldValues(values); out.tells(ret) && out.tells(nvml.Return(values[0].NvmlReturn)) {
			// An unsigned int in the first bytes of a union.
			out.Recovery = new(Recovery(binary.NativeEndian.Uint32(values[0].Value[:])))
		}
	}
	return out
}

// tells reports whether a call told what it was asked for, and notes why it
// did not where that says something of the GPU.
func (s *Sample) tells(ret nvml.Return) bool {
	switch ret {
	case nvml.SUCCESS:
		return true
	case nvml.ERROR_GPU_IS_LOST:
		s.Lost = true
	case nvml.ERROR_RESET_REQUIRED:
		s.NeedsReset = true
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_NO_PERMISSION, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_DATA:
		// This GPU, or this driver, does not know.
	default:
		s.Err = ret.Error()
	}
	return false
}
