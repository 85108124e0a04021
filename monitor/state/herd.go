package state

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Herd is the current state of all units and GPUs. What is told to it
// becomes Deltas for its sink, with events numbered from 1. Its methods may be
// called concurrently.
type Herd struct {
	now  func() time.Time
	sink func(Delta)

	mu       sync.Mutex
	units    map[string]*member
	counters map[string]*counter // also of units that left: they may come back
	gpus     []GPU
	gpusSet  bool // the GPUs were told once
	seq      uint64
	synced   bool // a first Sync was told

	earlier map[string]Seed // of Resync, for the first Sync; nil: none

	held     *held  // nil: what is told is sent at once
	complete func() // of Hold; nil: a complete window is released at once
}

type member struct {
	unit       Unit
	seen       Observation
	phase      string
	invocation string // of the phase
}

// A counter counts the starts of a unit after the first. systemd's NRestarts
// counts automatic ones only, and forgets.
type counter struct {
	first      string // invocation that this monitor saw first
	invocation string // the last
	restarts   uint64
	automatic  uint32 // automatic restarts as last told
	told       bool   // automatic is known
	since      uint64 // starts counted after first
}

// NewHerd returns an empty Herd. sink is called with the Herd locked, so that
// Deltas come in order: it must not block and must not call the Herd.
func NewHerd(sink func(Delta), now func() time.Time) *Herd {
	return &Herd{now: now, sink: sink, units: map[string]*member{}, counters: map[string]*counter{}}
}

// Observe takes one change of one unit. Units outside the herd, as the last
// Sync told it, are ignored.
func (h *Herd) Observe(o Observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.units[o.Name]
	if !ok {
		return
	}
	var d Delta
	h.step(m, unmeasured(o), false, &d)
	h.send(d)
}

// Sync takes the whole herd. Units not in it leave; where a unit is not as it
// was, the event of its phase is marked as resynced.
func (h *Herd) Sync(herd []Observation, _ string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var d Delta
	first, completes := !h.synced, h.held.open()
	h.synced = true
	present := map[string]bool{}
	for _, o := range herd {
		o = unmeasured(o)
		present[o.Name] = true
		m, ok := h.units[o.Name]
		if ok {
			h.step(m, o, true, &d)
			continue
		}
		m = &member{seen: o, phase: phase("", o), invocation: o.InvocationID}
		h.units[o.Name] = m
		m.unit = o.Unit()
		m.unit.Restarts = h.count(o, true)
		switch {
		case !first:
			// Configuration brought it while we watched: that is news.
			h.event(m, false, &d)
		case h.earlier != nil && m.differs(h.earlier):
			h.event(m, true, &d)
		}
		d.Units = append(d.Units, m.unit)
	}
	for _, name := range slices.Sorted(maps.Keys(h.units)) {
		if !present[name] {
			delete(h.units, name)
			d.Gone = append(d.Gone, name)
		}
	}
	if completes {
		h.closeWindow()
		return
	}
	h.send(d)
}

// unmeasured returns o without its figures. They come from the control groups
// alone: systemd's are as old as the last resync.
func unmeasured(o Observation) Observation {
	o.Memory, o.MemoryPeak, o.CPUNS = nil, nil, nil
	return o
}

// step brings m to o.
func (h *Herd) step(m *member, o Observation, resynced bool, d *Delta) {
	before := m.unit
	if !resynced { // signals do not carry these
		o.ControlGroup, o.Slice, o.MemoryMax = m.seen.ControlGroup, m.seen.Slice, m.seen.MemoryMax
	}
	m.unit = o.Unit()
	m.unit.Seq = before.Seq
	m.unit.Restarts = h.count(o, resynced || h.held.open())
	if o.InvocationID == before.InvocationID && m.unit.PID == before.PID {
		keep(&m.unit.MemoryBytes, before.MemoryBytes)
		keep(&m.unit.MemoryPeakBytes, before.MemoryPeakBytes)
		keep(&m.unit.CPUNS, before.CPUNS)
	}
	m.seen = o
	p := phase(m.phase, o)
	// A new invocation enters its phase anew, also where the one before it
	// was in the same. No id means that systemd unloaded the unit.
	again := o.InvocationID != "" && o.InvocationID != m.invocation
	switch {
	case p != m.phase || again:
		m.phase = p
		m.invocation = o.InvocationID
		h.event(m, resynced, d)
	case m.unit.StatusText != before.StatusText:
		d.Hints = append(d.Hints, Event{Seq: m.unit.Seq, AtUS: o.ReceivedUS, Type: TypeStatus, Data: &UnitEvent{Unit: m.unit, Event: Status}})
	}
	if !reflect.DeepEqual(m.unit, before) {
		d.Units = append(d.Units, m.unit)
	}
}

func keep(to **uint64, old *uint64) {
	if *to == nil {
		*to = old
	}
}

// event appends the event of m's phase.
func (h *Herd) event(m *member, resynced bool, d *Delta) {
	if h.held == nil {
		m.unit.Seq = h.next()
	}
	e := m.event()
	e.Data.(*UnitEvent).Resynced = resynced
	if h.held != nil {
		h.held.events = append(h.held.events, e)
		return
	}
	d.Events = append(d.Events, e)
}

// event returns the event of m's phase.
func (m *member) event() Event {
	e := &UnitEvent{Unit: m.unit, Event: m.phase}
	if e.PID == 0 && (m.phase == Failed || m.phase == Stopped) {
		e.PID = m.seen.ExecMainPID
	}
	return Event{Seq: m.unit.Seq, AtUS: m.at(), Type: TypeUnit, Data: e}
}

// at is when m last changed, unix time in µs.
func (m *member) at() int64 {
	if m.seen.ChangedUS != 0 {
		return int64(m.seen.ChangedUS)
	}
	return m.seen.ReceivedUS
}

// phase returns the phase of a unit that was in the phase before.
func phase(before string, o Observation) string {
	switch o.Active {
	case "activating":
		if !strings.HasPrefix(o.Sub, "auto-restart") {
			return Starting
		}
		switch {
		case before == Failed || before == Stopped:
			return before
		case o.Result == "success":
			return Stopped
		}
		return Failed // RestartMode=direct passes no failed state
	case "deactivating":
		if o.Result != "success" && o.Result != "" && o.MainPID == 0 && o.ExecMainCode != 0 {
			// The main process has failed; only what it left behind is still
			// to be killed.
			return Failed
		}
		return Stopping
	case "failed":
		return Failed
	case "inactive":
		return Stopped
	}
	return Running // active, reloading, refreshing and what may come
}

// count notes o's invocation and returns the restarts. missed says that some
// may not have been seen.
func (h *Herd) count(o Observation, missed bool) uint64 {
	c := h.counters[o.Name]
	if c == nil {
		c = &counter{}
		h.counters[o.Name] = c
	}
	begun := o.begun()
	switch o.InvocationID {
	case "", c.invocation:
	default:
		if c.invocation == "" {
			c.first = o.InvocationID
			c.restarts = uint64(begun)
		} else {
			n := uint64(1)
			if missed && c.told && begun > c.automatic+1 {
				n = uint64(begun - c.automatic)
			}
			c.restarts += n
			c.since += n
			if !c.told {
				c.restarts = max(c.restarts, uint64(begun))
			}
		}
		c.invocation = o.InvocationID
	}
	c.automatic, c.told = begun, true
	return c.restarts
}

// Figures are what a unit uses; nil is not available.
type Figures struct {
	Memory, MemoryPeak, MemoryMax, CPUNS *uint64
}

// Use takes what units use now, by name. It makes no event, and one Delta of
// all that changed.
func (h *Herd) Use(figures map[string]Figures) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var d Delta
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		m, ok := h.units[name]
		if !ok {
			continue
		}
		f, before := figures[name], m.unit
		m.unit.MemoryBytes, m.unit.MemoryPeakBytes, m.unit.CPUNS = f.Memory, f.MemoryPeak, f.CPUNS
		if f.MemoryMax != nil {
			m.unit.MemoryMaxBytes = f.MemoryMax
		}
		if !reflect.DeepEqual(m.unit, before) {
			d.Units = append(d.Units, m.unit)
		}
	}
	h.send(d)
}

// Ended takes that a main process has ended, from who knows it before systemd
// says so. It makes a hint, and none where systemd was faster.
func (h *Herd) Ended(name string, pid uint32, atUS int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.units[name]
	if !ok || pid == 0 || m.unit.PID != pid {
		return
	}
	h.send(Delta{Hints: []Event{{Seq: m.unit.Seq, AtUS: atUS, Type: TypeExit, Data: &UnitEvent{Unit: m.unit, Event: Exited}}}})
}

// Snapshot sends everything, with an event of type snapshot.
func (h *Herd) Snapshot(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := Delta{Reset: true, Units: h.list(), GPUs: h.gpus}
	d.Events = []Event{{Seq: h.next(), AtUS: h.now().UnixMicro(), Type: TypeSnapshot,
		Data: &SnapshotEvent{Units: len(d.Units), GPUs: len(d.GPUs), Reason: reason}}}
	h.sink(d)
}

// Host sends an event of type host.
func (h *Herd) Host(e HostEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sink(Delta{Events: []Event{{Seq: h.next(), AtUS: h.now().UnixMicro(), Type: TypeHost, Data: &e}}})
}

// Units returns all units by name.
func (h *Herd) Units() []Unit {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list()
}

// A Tally counts units, and those of some of systemd's ActiveStates.
type Tally struct{ Units, Active, Failed int }

// Tally counts the units.
func (h *Herd) Tally() Tally {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := Tally{Units: len(h.units)}
	for _, m := range h.units {
		switch m.unit.Active {
		case "active":
			t.Active++
		case "failed":
			t.Failed++
		}
	}
	return t
}

// A ControlGroup is where the processes of a unit are.
type ControlGroup struct {
	Path       string // below the root of control groups; "": the unit has none now
	Invocation string // of the unit: with another one the figures begin anew
}

// ControlGroups returns the control group of each unit by name.
func (h *Herd) ControlGroups() map[string]ControlGroup {
	h.mu.Lock()
	defer h.mu.Unlock()
	groups := make(map[string]ControlGroup, len(h.units))
	for name, m := range h.units {
		groups[name] = ControlGroup{m.seen.group(), m.unit.InvocationID}
	}
	return groups
}

// Synced reports whether systemd has told the herd, and nothing of it is kept
// back.
func (h *Herd) Synced() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.synced && h.held == nil
}

// Seq returns the number of the last event.
func (h *Herd) Seq() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seq
}

func (h *Herd) list() []Unit {
	units := make([]Unit, 0, len(h.units))
	for _, m := range h.units {
		units = append(units, m.unit)
	}
	slices.SortFunc(units, func(a, b Unit) int { return cmp.Compare(a.Name, b.Name) })
	return units
}

func (h *Herd) next() uint64 {
	h.seq++
	return h.seq
}

// send hands on what was told, unless it is held back.
func (h *Herd) send(d Delta) {
	if h.held != nil {
		return
	}
	if d.Reset || d.GPUsChanged || len(d.Units)+len(d.Gone)+len(d.Events)+len(d.Hints) > 0 {
		h.sink(d)
	}
}
