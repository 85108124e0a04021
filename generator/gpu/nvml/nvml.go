// Package nvml asks NVIDIA's management library which GPUs the driver has.
//
// The library is part of the driver and is loaded when asked, so that programs
// with this package start on machines without one. A library that is missing,
// or too old to have a symbol, is an error and never a crash. Without cgo the
// package builds and always answers ErrAbsent.
package nvml

import (
	"errors"
	"fmt"

	"gpuherd/generator/gpu"
)

// ErrAbsent says that there is no NVML on this machine: no NVIDIA driver is
// installed, or a container was not given its libraries.
var ErrAbsent = errors.New("NVML is not installed")

// ErrUnusable says that NVML is there and will never answer: it is no library,
// or older than any that is known.
var ErrUnusable = errors.New("cannot use NVML of this driver")

// An Answer is what NVML said at one moment.
type Answer struct {
	DriverVersion string   // "550.54.15"; empty where the library does not tell
	Devices       []Device // in NVML's order, which may change between boots
	// Faults are the GPUs that could not be read: one that fell off the bus
	// must not hide the others.
	Faults []Fault
}

// A Fault is a GPU that NVML counts and does not tell of.
type Fault struct {
	Index int    // NVML's
	PCI   string // as Device has it; empty where not even that could be read
	Lost  bool   // NVML says that it fell off the bus
	Err   string // "cannot open it: GPU is lost"
}

// String returns the fault as a sentence.
func (f Fault) String() string {
	if f.PCI == "" {
		return fmt.Sprintf("NVML device %d: %s", f.Index, f.Err)
	}
	return fmt.Sprintf("NVML device %d at %s: %s", f.Index, f.PCI, f.Err)
}

// A Device is one GPU as NVML knows it.
type Device struct {
	PCI         string // as sysfs writes it, "0000:17:00.0"
	UUID        string
	Minor       int // the N of /dev/nvidiaN; −1 where NVML does not tell
	Name        string
	MemoryBytes uint64
	MIGMode     bool
	MIG         []gpu.MIG // GIMinor and CIMinor are −1: NVML does not know them
	// Virtualisation is one of the constants below, or empty where NVML does
	// not tell.
	Virtualisation string
}

// How a GPU is shared between a host and its guests.
const (
	VirtualisationNone        = "none"        // not at all: bare metal
	VirtualisationPassthrough = "passthrough" // given whole to this guest
	VirtualisationVGPU        = "vgpu"        // a part of one, in a guest
	VirtualisationHostVGPU    = "host-vgpu"   // divided on this host among guests
	VirtualisationHostVSGA    = "host-vsga"   // rendering for guests of this host
)
