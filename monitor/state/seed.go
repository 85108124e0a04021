package state

import (
	"cmp"
	"maps"
	"slices"
)

// A Seed is what an earlier monitor of this boot knew of a unit.
type Seed struct {
	Restarts     uint64 `json:"restarts"`
	InvocationID string `json:"invocation_id"`
	Phase        string `json:"phase"`    // Starting, …
	SinceMS      int64  `json:"since_ms"` // unix time of the last state change; 0: unknown
}

// NewSeed returns the Seed of a unit as an earlier monitor left it.
func NewSeed(u Unit) Seed {
	o := Observation{Active: u.Active, Sub: u.Sub, Result: u.Result, MainPID: u.PID}
	if u.ExitCode != "" {
		o.ExecMainCode = cldExited // which of them does not matter to the phase
	}
	return Seed{Restarts: u.Restarts, InvocationID: u.InvocationID, Phase: phase("", o), SinceMS: u.SinceMS}
}

// Seed raises the counters to where an earlier monitor of the same boot had
// them, and returns by how much each rose: events already made lack it.
func (h *Herd) Seed(seeds map[string]Seed) map[string]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seed(seeds)
}

func (h *Herd) seed(seeds map[string]Seed) map[string]uint64 {
	raised := map[string]uint64{}
	var d Delta
	for name, s := range seeds {
		c := h.counters[name]
		if c == nil || c.invocation == "" {
			if c == nil {
				c = &counter{}
				h.counters[name] = c
			}
			// Not started yet in what we know: the next start follows s.
			c.first, c.invocation, c.restarts = s.InvocationID, s.InvocationID, s.Restarts
		} else {
			n := s.Restarts + c.since
			if s.InvocationID != "" && s.InvocationID != c.first {
				n++
			}
			if n > c.restarts {
				raised[name] = n - c.restarts
				c.restarts = n
			}
		}
		if m := h.units[name]; m != nil && m.unit.Restarts != c.restarts {
			m.unit.Restarts = c.restarts
			d.Units = append(d.Units, m.unit)
		}
	}
	slices.SortFunc(d.Units, func(a, b Unit) int { return cmp.Compare(a.Name, b.Name) })
	h.send(d)
	h.held.raise(raised, h.complete)
	return raised
}

// Resync makes an event, marked as resynced, of each unit that is not as an
// earlier monitor of the same boot left it: what happened between the two was
// seen by none. A unit that had an event since has told its phase already.
// Where nothing is known of the herd yet, the first Sync does it. Without
// seeds there was no earlier monitor, and nothing is made.
func (h *Herd) Resync(seeds map[string]Seed) {
	if seeds == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.synced {
		h.earlier = seeds
		return
	}
	var d Delta
	for _, name := range slices.Sorted(maps.Keys(h.units)) {
		if m := h.units[name]; m.unit.Seq == 0 && m.differs(seeds) {
			h.event(m, true, &d)
			d.Units = append(d.Units, m.unit)
		}
	}
	h.send(d)
}

// differs reports whether m entered its phase after an earlier monitor left
// the seeds.
func (m *member) differs(seeds map[string]Seed) bool {
	s, ok := seeds[m.unit.Name]
	again := m.unit.InvocationID != "" && m.unit.InvocationID != s.InvocationID
	return !ok || again || m.phase != s.Phase
}
