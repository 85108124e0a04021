// Package gpuhealth tells the herd how the machine's GPUs are. Which there are
// stands in the inventory that gpuherd-setup writes; how they are NVML tells,
// by samples and by its events.
//
// NVML may take seconds and may never return, so one goroutine calls it and
// another one tells what is known: where NVML hangs, that a GPU's health is
// unknown.
package gpuhealth

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/monitor/pulse"
	"gpuherd/monitor/state"
)

// ReleasePath is a file, below the root, that asks the monitor to let go of
// all GPUs while it exists: one that is in use can neither be reset nor have
// its MIG mode switched.
const ReleasePath = "run/gpuherd/release-gpus"

// Times, where a Watch does not have its own.
const (
	lookEvery   = 2 * time.Second
	sampleEvery = 5 * time.Second
	retryAfter  = 30 * time.Second
	reopenEvery = time.Minute
	hangAfter   = 30 * time.Second
	letGo       = 2 * time.Second // that NVML has to close at the end
)

// A Watch follows the inventory and the GPUs in it.
type Watch struct {
	Root string // of the file system: "/"
	// Open opens NVML. Nil: that of this machine.
	Open func() (*nvml.Session, error)
	Set  func([]state.GPU) // takes all GPUs, by index
	Log  *slog.Logger

	LookEvery   time.Duration // at files; 0: 2 s
	SampleEvery time.Duration // of temperature and utilisation; 0: 5 s
	RetryAfter  time.Duration // that NVML could not be opened; 0: 30 s
	ReopenEvery time.Duration // while a GPU is lost: NVML tells of its return only then; 0: 1 min
	HangAfter   time.Duration // that NVML does not return; 0: 30 s

	file      inventoryFile
	inventory []gpu.GPU
	records   map[string]*record // by PCI address
	reports   chan report

	reader   *reader           // nil: NVML is not open
	quitting bool              // the reader was told to quit
	opened   time.Time         // when the reader was started
	retry    time.Time         // not before this is NVML opened again
	released bool              // ReleasePath exists
	letting  bool              // the reader was told to quit for that
	closed   string            // why NVML could not be opened; empty: it was
	said     map[string]string // the last log line of each kind, so that it is not repeated
	told     []state.GPU
	asked    map[string]bool // by PCI address: a rescan was asked for because it is lost, or is back

	mu   sync.Mutex
	xids []XIDErrors
}

// XIDErrors counts the errors of one kind of a GPU since the monitor started.
type XIDErrors struct {
	GPU   int // index
	UUID  string
	XID   uint64
	Count uint64
}

// String names the task.
func (w *Watch) String() string { return "GPU health" }

// Run watches until ctx ends, and returns nil then.
func (w *Watch) Run(ctx context.Context) error {
	w.init()
	t := pulse.NewTicker(w.LookEvery)
	defer t.Stop()
	defer w.close()
	for w.look(time.Now()); ; {
		w.tell()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			w.look(time.Now())
		case r := <-w.reports:
			w.take(r, time.Now())
		}
	}
}

func (w *Watch) init() {
	w.LookEvery = cmp.Or(w.LookEvery, lookEvery)
	w.SampleEvery = cmp.Or(w.SampleEvery, sampleEvery)
	w.RetryAfter = cmp.Or(w.RetryAfter, retryAfter)
	w.ReopenEvery = cmp.Or(w.ReopenEvery, reopenEvery)
	w.HangAfter = cmp.Or(w.HangAfter, hangAfter)
	if w.Open == nil {
		w.Open = func() (*nvml.Session, error) { return nvml.Open("") }
	}
	w.file = inventoryFile{root: w.Root, log: w.Log}
	w.records, w.asked, w.said = map[string]*record{}, map[string]bool{}, map[string]string{}
	w.reports = make(chan report)
}

// close has NVML closed, but does not wait for ever.
func (w *Watch) close() {
	if w.reader == nil {
		return
	}
	w.quit()
	select {
	case <-w.reader.done:
	case <-time.After(letGo):
	}
}

// look brings the reader to what the files ask for.
func (w *Watch) look(now time.Time) {
	if inv, ok := w.file.look(); ok {
		w.use(inv.GPUs)
	}
	_, err := os.Stat(filepath.Join(w.Root, ReleasePath))
	if released := err == nil; released != w.released {
		w.released = released
		w.retry = time.Time{}
		if released {
			w.Log.Info("letting go of the GPUs", "because of", "/"+ReleasePath)
			w.letting = true
			w.quit()
		}
	}
	if w.reader != nil && w.reader.ended() {
		w.reader, w.quitting = nil, false
	}
	if w.reader == nil && w.letting {
		w.letting = false
		w.Log.Info("the GPUs are released")
		// Whatever was wrong with them may be over when they come back.
		clear(w.records)
	}
	switch {
	case w.reader == nil && len(hardware(w.inventory)) > 0 && !w.released && !now.Before(w.retry):
		w.reader, w.opened = startReader(w.Open, w.SampleEvery, w.reports), now
	case w.reader != nil && w.lost() && now.Sub(w.opened) >= w.ReopenEvery:
		w.quit()
	}
}

// use takes the GPUs of a new inventory.
func (w *Watch) use(gpus []gpu.GPU) {
	same := func(a, b gpu.GPU) bool { return a.PCI == b.PCI && a.UUID == b.UUID }
	if !slices.EqualFunc(hardware(gpus), hardware(w.inventory), same) {
		// NVML knows the GPUs that were there when it was opened.
		w.quit()
		w.retry = time.Time{}
	}
	for _, g := range w.inventory {
		if !slices.ContainsFunc(gpus, func(n gpu.GPU) bool { return same(g, n) }) {
			delete(w.records, g.PCI)
		}
	}
	w.inventory = gpus
}

// hardware returns the GPUs that are not simulated.
func hardware(gpus []gpu.GPU) (all []gpu.GPU) {
	for _, g := range gpus {
		if !g.Simulated {
			all = append(all, g)
		}
	}
	return all
}

// quit has the reader let go of NVML. One that hangs does so when it returns.
func (w *Watch) quit() {
	if w.reader != nil && !w.quitting {
		close(w.reader.quit)
		w.quitting = true
	}
}

// of returns the record of a GPU.
func (w *Watch) of(pci string) *record {
	r := w.records[pci]
	if r == nil {
		r = &record{}
		w.records[pci] = r
	}
	return r
}

// lost reports whether a GPU is away that NVML would have to be opened anew
// for to be found again.
func (w *Watch) lost() bool {
	return slices.ContainsFunc(hardware(w.inventory), func(g gpu.GPU) bool {
		lost, _ := w.of(g.PCI).lost()
		return lost
	})
}

// take takes what the reader has to say.
func (w *Watch) take(r report, now time.Time) {
	switch {
	case r.closed != nil:
		w.closed, w.retry = r.closed.Error(), now.Add(w.RetryAfter)
		if errors.Is(r.closed, nvml.ErrAbsent) {
			w.closed = nvml.ErrAbsent.Error()
		}
	case r.opened != nil:
		w.closed = ""
		w.open(*r.opened)
	case r.event != nil:
		w.hear(*r.event, now)
	case r.missed != nil:
		w.once("events", slog.LevelWarn, "XID errors may have been missed", "error", r.missed)
	default:
		for _, s := range r.samples {
			w.of(s.PCI).sampled(s, now)
		}
	}
}

// open takes which GPUs NVML has.
func (w *Watch) open(o opening) {
	delete(w.said, "events")
	w.once("opened", slog.LevelInfo, "watching GPUs", "count", len(o.gpus))
	var faults []string
	for _, f := range o.faults {
		faults = append(faults, f.String())
	}
	if len(faults) > 0 {
		w.once("faults", slog.LevelWarn, "NVML does not tell of every GPU", "error", strings.Join(faults, "; "))
	}
	if len(o.unheard) > 0 {
		w.once("unheard", slog.LevelWarn, "the driver tells no XID errors of some GPUs", "pci", strings.Join(o.unheard, " "))
	}
	for _, g := range hardware(w.inventory) {
		if !slices.Contains(o.gpus, g.PCI) {
			w.of(g.PCI).missing = true
		}
	}
}

// hear takes an event.
func (w *Watch) hear(e nvml.Event, now time.Time) {
	r := w.of(e.PCI)
	if e.Recovery {
		r.recovering()
	}
	if e.XID == 0 {
		return
	}
	counts := r.failed(e.XID, now)
	i := slices.IndexFunc(w.inventory, func(g gpu.GPU) bool { return g.PCI == e.PCI })
	if i < 0 {
		return
	}
	g := w.inventory[i]
	level := slog.LevelWarn
	if counts {
		level = slog.LevelError
	}
	w.Log.Log(context.Background(), level, "XID error", "gpu", g.Index, "pci", g.PCI, "error", xidText(e.XID), "fault of the application", !counts)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.xids {
		if x := &w.xids[i]; x.GPU == g.Index && x.UUID == g.UUID && x.XID == e.XID {
			x.Count++
			return
		}
	}
	w.xids = append(w.xids, XIDErrors{GPU: g.Index, UUID: g.UUID, XID: e.XID, Count: 1})
}

// XIDErrors returns the errors since the monitor started.
func (w *Watch) XIDErrors() []XIDErrors {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.xids)
}
