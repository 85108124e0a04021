package state

import (
	"maps"
	"slices"
)

// A Past is a phase that a unit entered while no monitor watched, as the
// journal tells it afterwards.
type Past struct {
	Unit      Unit   // as far as the journal tells
	Event     string // the phase
	AtUS      int64  // unix time, µs
	Uncertain bool   // changes before it may be missing
}

// held is what a Herd keeps back between Hold and Release.
type held struct {
	events []Event           // of units, without numbers yet
	first  map[string]member // each unit as the first Sync told it
}

// Hold keeps back what is told to the Herd until Release: what an earlier
// monitor did not see comes first, and is not known yet. Units and the other
// methods that ask work meanwhile. It must be called before anything is told.
func (h *Herd) Hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = &held{first: map[string]member{}}
}

// Release ends Hold. What it sends are the past, as far as it happened before
// the first Sync; an event marked as resynced of each unit that the past does
// not bring to where the first Sync found it; and what was kept back since.
// seeds is what an earlier monitor of this boot left, and where past begins;
// nil: there was none. It comes after the first Sync; without Hold it does
// nothing.
func (h *Herd) Release(seeds map[string]Seed, past []Past) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.held
	if kept == nil {
		return
	}

	var events []Event
	number := func(e Event) {
		u := e.Data.(*UnitEvent)
		e.Seq = h.next()
		u.Seq = e.Seq
		if m := h.units[u.Name]; m != nil {
			m.unit.Seq = e.Seq
		}
		events = append(events, e)
	}
	reached := map[string]Seed{}
	maps.Copy(reached, seeds)
	ends := kept.ends(seeds, past)
	for i, p := range past {
		name := p.Unit.Name
		if end, ok := ends[name]; !ok || i > end {
			continue
		}
		e := Event{AtUS: p.AtUS, Type: TypeUnit}
		if m := kept.first[name]; i == ends[name] && m.is(p) {
			// Here the unit itself was seen: it tells more than the journal.
			e = m.event()
			e.AtUS = p.AtUS
			e.Data.(*UnitEvent).Restarts = p.Unit.Restarts
		} else {
			e.Data = &UnitEvent{Unit: p.Unit, Event: p.Event}
		}
		u := e.Data.(*UnitEvent)
		u.Backfilled, u.Resynced = true, p.Uncertain
		number(e)
		reached[name] = Seed{Restarts: p.Unit.Restarts, InvocationID: p.Unit.InvocationID, Phase: p.Event, SinceMS: p.AtUS / 1000}
	}
	raised := h.seed(reached)
	h.held = nil
	raise := func(e Event) {
		u := e.Data.(*UnitEvent)
		u.Restarts += raised[u.Name]
	}
	if seeds != nil {
		for _, name := range slices.Sorted(maps.Keys(kept.first)) {
			if m := kept.first[name]; m.differs(reached) {
				e := m.event()
				e.Data.(*UnitEvent).Resynced = true
				raise(e)
				number(e)
			}
		}
	}
	for _, e := range kept.events {
		raise(e)
		number(e)
	}
	h.send(Delta{Units: h.list(), GPUs: h.gpus, GPUsChanged: h.gpus != nil, Events: events})
}

// Unreached returns the units that past does not bring to where the first Sync
// found them, by name: a journal that has not been written to its end yet, or
// a change that it does not tell. Without Hold there are none.
func (h *Herd) Unreached(seeds map[string]Seed, past []Past) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		return nil
	}
	var names []string
	ends := h.held.ends(seeds, past)
	for _, name := range slices.Sorted(maps.Keys(h.held.first)) {
		m := h.held.first[name]
		end, ok := ends[name]
		if (!ok || !m.is(past[end])) && m.differs(seeds) {
			names = append(names, name)
		}
	}
	return names
}

// ends returns for each unit the index of the last of past that happened
// before the first Sync: the phase in which that found the unit, else whatever
// is older than that phase. What follows was told to the Herd itself.
func (k *held) ends(seeds map[string]Seed, past []Past) map[string]int {
	ends := map[string]int{}
	for i, p := range past {
		m, ok := k.first[p.Unit.Name]
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
		case p.AtUS <= m.at():
			ends[p.Unit.Name] = i
		}
	}
	return ends
}

// is reports whether p is m's phase.
func (m *member) is(p Past) bool {
	return p.Unit.InvocationID == m.invocation && p.Event == m.phase
}

// distance is the time between m's last change and p, in µs.
func (m *member) distance(p Past) int64 { return max(p.AtUS-m.at(), m.at()-p.AtUS) }
