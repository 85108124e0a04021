// Package explanation arranges the generator's decisions by what people ask
// about: the devices with their units, the services, the machine. It does no
// I/O.
package explanation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator"
	"gpuherd/generator/gpu"
	"gpuherd/generator/plan"
	"gpuherd/generator/service"
)

// maxNamed bounds how many services one line names.
const maxNamed = 10

// A Line is one decision, with the device that it is about.
type Line struct {
	generator.Decision
	GPU    *int   `json:"gpu,omitempty"`    // index of the GPU; nil: none, or it has no index
	Source string `json:"source,omitempty"` // how the device is known; decisions of kind gpu
}

// A Device is a GPU, or a display device that is none to gpuherd.
type Device struct {
	Index  int    // −1: not numbered
	PCI    string // "0000:17:00.0"
	Source string // "NVML", "PCI", "PCI and driver", "simulation"
	Lines  []Line // about the device
	Units  []Line // about the units on it
	// Idle says why no unit is on a GPU that is to be used, where no unit of
	// its own says so.
	Idle string
}

// String returns what people call the device: "GPU 0, 0000:17:00.0".
func (d *Device) String() string {
	if d.Index < 0 {
		return d.PCI
	}
	return fmt.Sprintf("GPU %d, %s", d.Index, d.PCI)
}

// An Explanation is everything that was decided, or a selection of it.
type Explanation struct {
	Notes    []string  // what is to be said first
	Devices  []*Device // GPUs by index, then what is not numbered
	Services []Line    // each service, and behind it its units that are on no device
	Machine  []Line    // the machine and the settings

	all []Line // in the order in which it was decided
}

// Of arranges the decisions of r.
func Of(r *generator.Result) *Explanation {
	e := &Explanation{}
	if quiet := r.Quiet(); quiet != "" {
		e.Notes = append(e.Notes, quiet)
	}
	e.devices(r)
	for _, d := range r.Decisions {
		e.place(d)
	}
	slices.SortStableFunc(e.Services, func(a, b Line) int { return cmp.Compare(serviceOf(a), serviceOf(b)) })
	off := map[string]bool{}
	for _, l := range e.Services {
		off[l.Subject] = off[l.Subject] || l.Kind == plan.KindService && l.Verdict == plan.Off
	}
	for _, g := range r.GPUs {
		if d := e.at(g.PCI); len(d.Units) == 0 {
			d.Idle = idle(r.Services, off, g)
		}
	}
	return e
}

func (e *Explanation) devices(r *generator.Result) {
	for _, gpus := range [][]gpu.GPU{r.GPUs, r.Found} {
		for _, g := range gpus {
			if e.at(g.PCI) == nil {
				e.Devices = append(e.Devices, &Device{Index: g.Index, PCI: g.PCI, Source: source(r, g)})
			}
		}
	}
	slices.SortStableFunc(e.Devices, func(a, b *Device) int { return cmp.Compare(a.Index, b.Index) })
}

// source says how a GPU is known.
func source(r *generator.Result, g gpu.GPU) string {
	switch {
	case g.Simulated:
		return "simulation"
	case r.Source == gpu.SourceInventory:
		return "NVML"
	case r.Source == gpu.SourcePCI && (g.UUID != "" || g.Name != ""):
		return "PCI and driver"
	case r.Source == gpu.SourcePCI:
		return "PCI"
	}
	return r.Source
}

func (e *Explanation) at(pci string) *Device {
	i := slices.IndexFunc(e.Devices, func(d *Device) bool { return d.PCI == pci })
	if i < 0 {
		return nil
	}
	return e.Devices[i]
}

func (e *Explanation) numbered(index int) *Device {
	i := slices.IndexFunc(e.Devices, func(d *Device) bool { return d.Index == index })
	if i < 0 || index < 0 {
		return nil
	}
	return e.Devices[i]
}

// place puts one decision where it belongs.
func (e *Explanation) place(d generator.Decision) {
	line := Line{Decision: d}
	switch d.Kind {
	case plan.KindGPU:
		device := e.at(d.Subject)
		if device == nil {
			device = &Device{Index: -1, PCI: d.Subject, Source: "PCI"}
			e.Devices = append(e.Devices, device)
		}
		line.Source = device.Source
		line.GPU = device.index()
		device.Lines = append(device.Lines, line)
	case plan.KindUnit:
		if device := e.under(d.Subject); device != nil {
			line.GPU = device.index()
			device.Units = append(device.Units, line)
		} else {
			e.Services = append(e.Services, line)
		}
	case plan.KindService:
		e.Services = append(e.Services, line)
	default:
		e.Machine = append(e.Machine, line)
	}
	e.all = append(e.all, line)
}

func (d *Device) index() *int {
	if d.Index < 0 {
		return nil
	}
	return &d.Index
}

// under returns the device that an instance runs on, or nil.
func (e *Explanation) under(unit string) *Device {
	_, instance, _ := service.ParseUnit(unit)
	in, err := service.ParseInstance(instance)
	if err != nil {
		return nil
	}
	return e.numbered(in.GPU)
}

// serviceOf returns the service that a decision is about.
func serviceOf(l Line) string {
	if l.Kind == plan.KindUnit {
		name, _, _ := service.ParseUnit(l.Subject)
		return name
	}
	return l.Subject
}

// idle says why no unit is on a GPU; off has the services that are.
func idle(services []*service.Service, off map[string]bool, g gpu.GPU) string {
	var why []string
	for _, s := range services {
		switch {
		case s.Per == service.PerHost:
		case len(why) == maxNamed:
			return strings.Join(append(why, "and more"), "; ")
		case off[s.Name]:
			why = append(why, s.Name+" is off")
		case s.Per == service.PerMIG && len(g.MIG) == 0:
			why = append(why, s.Name+" runs on MIG devices, of which it has none")
		}
	}
	if len(why) == 0 {
		return "no service file runs on a GPU"
	}
	return strings.Join(why, "; ")
}

// Lines returns the decisions in the order in which they were made.
func (e *Explanation) Lines() []Line { return slices.Clip(e.all) }
