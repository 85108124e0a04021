package state

import (
	"maps"
	"slices"
)

// A Past is a phase that a unit entered unseen, as the journal tells it
// afterwards.
type Past struct {
	Unit      Unit   // as far as the journal tells
	Event     string // the phase
	AtUS      int64  // unix time, µs
	Uncertain bool   // changes before it may be missing
}

// A Window is a time in which changes may have been missed. It opens with
// Hold or Lost, and is complete with the next Sync.
type Window struct {
	// Initial: nothing was told before, so an earlier monitor's seeds count.
	Initial bool
	// Seeds is what was told before it opened; nil if Initial.
	Seeds map[string]Seed
	// FromUS is since when changes may have been missed, unix time in µs; 0 if
	// Initial.
	FromUS int64

	number int // tells windows apart
}

// held is what a Herd keeps back while a window is open.
type held struct {
	Window
	found  map[string]found // each unit as the Sync told it that completed the window; nil: none yet
	events []Event          // of units, since that or since the window opened; without numbers

	// early are those that came before that Sync, by unit: others may lack
	// before the first.
	early map[string][]Event
}

type found struct {
	member
	counter counter
}

// Hold makes the Herd keep back what it is told in a window, for what was
// missed in it comes first: from now on until the first Release, and whenever
// changes are lost. complete is called, with the Herd locked, when a window
// is: it must not block and must not call the Herd, and is to lead to a
// Release. Units and the other methods that ask work meanwhile. Hold must be
// called before anything is told.
func (h *Herd) Hold(complete func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.complete = complete
	h.held = &held{Window: Window{Initial: true}}
}

// Lost says that changes may have been missed since the given unix time in µs,
// and may be until the next Sync.
func (h *Herd) Lost(sinceUS int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.held != nil:
		h.held.number++
		h.held.found = nil
	case h.synced:
		seeds := make(map[string]Seed, len(h.units))
		for name, m := range h.units {
			seeds[name] = Seed{Restarts: m.unit.Restarts, InvocationID: m.invocation, Phase: m.phase, SinceMS: m.unit.SinceMS}
		}
		h.held = &held{Window: Window{Seeds: seeds, FromUS: sinceUS}}
	}
}

// open reports whether a window is open that no Sync has completed yet.
func (k *held) open() bool { return k != nil && k.found == nil }

// closeWindow notes what the Sync found that completes the window.
func (h *Herd) closeWindow() {
	k := h.held
	k.early = map[string][]Event{}
	for _, e := range k.events {
		name := e.Data.(*UnitEvent).Name
		k.early[name] = append(k.early[name], e)
	}
	k.events = nil
	k.found = make(map[string]found, len(h.units))
	for name, m := range h.units {
		k.found[name] = found{*m, *h.counters[name]}
	}
	if h.complete != nil {
		h.complete()
	} else {
		h.release(k.Seeds, nil)
	}
}

// raise adds to the restarts in an open window, of which the past has then to
// be asked for once more.
func (k *held) raise(by map[string]uint64, complete func()) {
	if k == nil || len(by) == 0 {
		return
	}
	k.Seeds = maps.Clone(k.Seeds) // a Release may be under way with the old ones
	for name, n := range by {
		if s, ok := k.Seeds[name]; ok {
			s.Restarts += n
			k.Seeds[name] = s
		}
		if f, ok := k.found[name]; ok {
			f.unit.Restarts += n
			f.counter.restarts += n
			k.found[name] = f
		}
	}
	for _, e := range k.events {
		u := e.Data.(*UnitEvent)
		u.Restarts += by[u.Name]
	}
	k.number++
	if k.found != nil {
		complete()
	}
}

// Window returns the open window, if it is complete.
func (h *Herd) Window() (w Window, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil || h.held.found == nil {
		return Window{}, false
	}
	return h.held.Window, true
}

// Changed reports whether any unit entered a phase since seeds, as far as the
// end of the open window shows.
func (h *Herd) Changed(seeds map[string]Seed) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		return false
	}
	for _, f := range h.held.found {
		if f.moved(seeds) {
			return true
		}
	}
	return false
}

// moved reports whether f entered its phase since seeds. A unit that is new and
// was never started has not.
func (f *found) moved(seeds map[string]Seed) bool {
	_, old := seeds[f.unit.Name]
	return f.differs(seeds) && (old || f.invocation != "")
}

// Release ends a window. What it sends are the past, as far as it happened
// before the Sync that completed the window; of each unit that the past does
// not bring to where that Sync found it, what was told of it before that Sync
// and where it was found, the first marked as resynced; and what was kept back
// since. seeds is where past begins: the window's own, or what an earlier
// monitor of this boot left; nil: there was none. It reports false, and does
// nothing, where changes were lost once more meanwhile.
func (h *Herd) Release(w Window, seeds map[string]Seed, past []Past) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil || h.held.found == nil || h.held.number != w.number {
		return false
	}
	h.release(seeds, past)
	return true
}

func (h *Herd) release(seeds map[string]Seed, past []Past) {
	k := h.held
	h.held = nil
	t := &telling{reached: map[string]Seed{}, holes: map[string]bool{}}
	maps.Copy(t.reached, seeds)
	ends := k.ends(seeds, past)
	met := map[string]*UnitEvent{} // where the past meets what was found
	for i, p := range past {
		name := p.Unit.Name
		end, ok := ends[name]
		if !ok || i > end {
			continue
		}
		u := &UnitEvent{Unit: p.Unit, Event: p.Event}
		if f := k.found[name]; i == end && f.is(p) {
			// Here the unit itself was seen: it tells more than the journal.
			u = f.event().Data.(*UnitEvent)
			u.Restarts = p.Unit.Restarts
			met[name] = u
		}
		u.Backfilled, u.Resynced = true, p.Uncertain
		t.add(Event{AtUS: p.AtUS, Type: TypeUnit, Data: u})
	}

	raised := h.countOn(k, t)
	for name, u := range met {
		u.Restarts = k.found[name].counter.restarts + raised[name]
	}
	raise := func(e Event) *UnitEvent {
		u := e.Data.(*UnitEvent)
		u.Restarts += raised[u.Name]
		return u
	}
	if seeds != nil {
		for _, name := range slices.Sorted(maps.Keys(k.found)) {
			f := k.found[name]
			if !f.differs(t.reached) {
				continue
			}
			// What configuration brought while we watched is news.
			_, old := seeds[name]
			lacks := old || k.Initial
			for _, e := range append(k.early[name], f.event()) {
				u := raise(e)
				if s, ok := t.reached[name]; ok && s.Phase == u.Event && (s.InvocationID == u.InvocationID || u.InvocationID == "") {
					continue
				}
				u.Resynced, lacks = lacks, false
				t.add(e)
			}
		}
	}
	for _, e := range k.events {
		raise(e)
		t.add(e)
	}

	for i := range t.events {
		u := t.events[i].Data.(*UnitEvent)
		u.Seq = h.next()
		t.events[i].Seq = u.Seq
		if m := h.units[u.Name]; m != nil {
			m.unit.Seq = u.Seq
		}
	}
	for name, m := range h.units {
		m.unit.Restarts = h.counters[name].restarts
	}
	d := Delta{Units: h.list(), GPUs: h.gpus, GPUsChanged: h.gpus != nil, Events: t.events}
	for _, name := range slices.Sorted(maps.Keys(k.Seeds)) {
		if h.units[name] == nil {
			d.Gone = append(d.Gone, name)
		}
	}
	h.send(d)
}

// A telling is the events of a Release.
type telling struct {
	events  []Event
	reached map[string]Seed // where they leave each unit
	holes   map[string]bool // units of which some may lack
}

func (t *telling) add(e Event) {
	u := e.Data.(*UnitEvent)
	t.events = append(t.events, e)
	t.reached[u.Name] = Seed{Restarts: u.Restarts, InvocationID: u.InvocationID, Phase: u.Event, SinceMS: u.SinceMS}
	t.holes[u.Name] = t.holes[u.Name] || u.Resynced
}

// countOn makes the counters count on from where t leaves the units, and
// returns by how much each rose, modulo 2^64. Where nothing lacks, that is
// exact; else what systemd counted may be nearer.
func (h *Herd) countOn(k *held, t *telling) map[string]uint64 {
	raised := map[string]uint64{}
	later := maps.Clone(t.reached) // of units that may come yet
	for name, f := range k.found {
		s, ok := t.reached[name]
		if !ok {
			continue
		}
		delete(later, name)
		c := h.counters[name]
		before := c.restarts
		if f.differs(t.reached) {
			next := f.event().Data.(*UnitEvent)
			if early := k.early[name]; len(early) > 0 {
				next = early[0].Data.(*UnitEvent)
			}
			n := s.Restarts
			if s.InvocationID != "" && s.InvocationID != next.InvocationID && next.InvocationID != "" {
				n++
			}
			c.restarts += max(n, next.Restarts) - next.Restarts
		} else if n := s.Restarts + c.since - f.counter.since; !t.holes[name] || n > c.restarts {
			c.restarts = n
		}
		raised[name] = c.restarts - before
		if !k.Initial {
			c.since += raised[name]
		}
	}
	h.seed(later)
	return raised
}

// Unreached returns the units that past does not bring to where they were at
// the end of the window, by name: a journal that has not been written to its
// end yet, or a change that it does not tell.
func (h *Herd) Unreached(seeds map[string]Seed, past []Past) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		return nil
	}
	var names []string
	ends := h.held.ends(seeds, past)
	for _, name := range slices.Sorted(maps.Keys(h.held.found)) {
		m := h.held.found[name]
		end, ok := ends[name]
		if (!ok || !m.is(past[end])) && m.moved(seeds) {
			names = append(names, name)
		}
	}
	return names
}

// ends returns for each unit the index of the last of past that happened
// before the end of the window: the phase in which that found the unit, else
// whatever is older than that phase. What follows was told to the Herd itself.
func (k *held) ends(seeds map[string]Seed, past []Past) map[string]int {
	ends := map[string]int{}
	for i, p := range past {
		m, ok := k.found[p.Unit.Name]
		if !ok || !m.differs(seeds) {
			continue
		}
		last, ok := ends[p.Unit.Name]
		switch {
		case m.is(p):
			// A phase may come twice in one invocation.
			if !ok || !m.is(past[last]) || m.distance(p) < m.distance(past[last]) {
				ends[p.Unit.Name] = i
			}
		case ok && m.is(past[last]):
		case p.AtUS <= k.before(m):
			ends[p.Unit.Name] = i
		}
	}
	return ends
}

// before is up to when the past tells of a unit that it does not bring to where
// it was found, unix time in µs.
func (k *held) before(f found) int64 {
	if early := k.early[f.unit.Name]; len(early) > 0 {
		return early[0].AtUS - 1
	}
	return f.at()
}

// is reports whether p is m's phase.
func (m *member) is(p Past) bool {
	return p.Unit.InvocationID == m.invocation && p.Event == m.phase
}

// distance is the time between m's last change and p, in µs.
func (m *member) distance(p Past) int64 { return max(p.AtUS-m.at(), m.at()-p.AtUS) }
