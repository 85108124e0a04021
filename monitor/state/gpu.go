package state

import (
	"reflect"
	"slices"
)

// SetGPUs takes the GPUs of the machine, by index. A change of health or of
// its reasons is an event, and so is a GPU that comes or goes; other figures
// change all the time and are not. The GPUs that are told first are no news.
func (h *Herd) SetGPUs(gpus []GPU) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gpusSet && reflect.DeepEqual(gpus, h.gpus) {
		return
	}
	before, first := h.gpus, !h.gpusSet
	h.gpus, h.gpusSet = slices.Clone(gpus), true
	d := Delta{GPUs: h.gpus, GPUsChanged: true}
	if !first {
		h.compareGPUs(before, &d)
	}
	h.send(d)
}

// compareGPUs appends the events of what changed since before.
func (h *Herd) compareGPUs(before []GPU, d *Delta) {
	event := func(g GPU, name string) {
		d.Events = append(d.Events, Event{Seq: h.next(), AtUS: h.now().UnixMicro(), Type: TypeGPU, Data: &GPUEvent{GPU: g, Event: name}})
	}
	for _, g := range before {
		if find(h.gpus, g) < 0 {
			event(g, Removed)
		}
	}
	for _, g := range h.gpus {
		switch i := find(before, g); {
		case i < 0:
			event(g, Added)
		case g.Health != before[i].Health || !slices.Equal(g.Reasons, before[i].Reasons):
			event(g, g.Health)
		}
	}
}

// find returns the place of the same GPU in all, or −1. A UUID may become
// known later than the GPU.
func find(all []GPU, g GPU) int {
	return slices.IndexFunc(all, func(other GPU) bool {
		return other.Index == g.Index && other.PCI == g.PCI && (other.UUID == g.UUID || other.UUID == "" || g.UUID == "")
	})
}

// GPUs returns all GPUs by index.
func (h *Herd) GPUs() []GPU {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.gpus)
}
