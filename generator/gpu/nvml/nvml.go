// Package nvml asks NVIDIA's management library which GPUs the driver has.
//
// The library is part of the driver and is loaded when asked, so that programs
// with this package start on machines without one. A library that is missing,
// or too old to have a symbol, is an error and never a crash. Without cgo the
// package builds and always answers ErrAbsent.
package nvml

import (
	"errors"

	"gpuherd/generator/gpu"
)

// ErrAbsent says that there is no NVML on this machine: no NVIDIA driver is
// installed, or a container was not given its libraries.
var ErrAbsent = errors.New("NVML is not installed")

// An Answer is what NVML said at one moment.
type Answer struct {
	DriverVersion string   // "550.54.15"; empty where the library does not tell
	Devices       []Device // in NVML's order, which may change between boots
	// Faults says what could not be read, a sentence each: a GPU that fell
	// off the bus must not hide the others.
	Faults []string
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
}
