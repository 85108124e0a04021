package relay

import "gpuherd/monitor/state"

// pending is what waits for Redis: events in a bounded queue, and of units and
// GPUs only the latest state, which always survives.
type pending struct {
	capacity int
	events   []state.Event
	reset    bool
	units    map[string]*state.Unit // nil: to be dropped
	gpus     []state.GPU
	gpusSet  bool
	hints    map[string]state.Event // of type status, the latest by unit

	dropped uint64 // events dropped since the start
}

func newPending(capacity int) pending {
	return pending{capacity: capacity, units: map[string]*state.Unit{}, hints: map[string]state.Event{}}
}

func (p *pending) len() int { return len(p.events) }

func (p *pending) empty() bool {
	return len(p.events) == 0 && len(p.units) == 0 && len(p.hints) == 0 && !p.reset && !p.gpusSet
}

func (p *pending) add(d state.Delta) {
	if d.Reset {
		p.reset = true
		clear(p.units)
	}
	for i := range d.Units {
		p.units[d.Units[i].Name] = &d.Units[i]
	}
	for _, name := range d.Gone {
		p.units[name] = nil
	}
	if d.Reset || d.GPUsChanged {
		p.gpus, p.gpusSet = d.GPUs, true
	}
	for _, h := range d.Hints {
		if e, ok := h.Data.(*state.UnitEvent); ok {
			p.hints[e.Name] = h
		}
	}
	p.events = append(p.events, d.Events...)
	for len(p.events) > p.capacity && len(p.events) > 1 {
		p.merge()
	}
}

// merge makes the two oldest events one gap. It carries the seq of the last
// event lost, so the stream stays in order and no number is used twice.
func (p *pending) merge() {
	a, b := extent(p.events[0]), extent(p.events[1])
	for _, e := range p.events[:2] {
		if e.Type != state.TypeGap {
			p.dropped++
		}
	}
	a.ToSeq = b.ToSeq
	a.Count += b.Count
	a.Reason = gapOverflow
	p.events[1] = state.Event{Seq: a.ToSeq, AtUS: p.events[1].AtUS, Type: state.TypeGap, Data: &a}
	p.events[0] = state.Event{}
	p.events = p.events[1:]
}

// extent returns what would be lost with e.
func extent(e state.Event) state.GapEvent {
	if g, ok := e.Data.(*state.GapEvent); ok {
		return *g
	}
	return state.GapEvent{Count: 1, FromSeq: e.Seq, ToSeq: e.Seq}
}

// Reasons of a gap.
const (
	gapOverflow = "overflow"
	gapLost     = "redis-lost-writes"
)

// requeue puts events back in front, behind a gap for those before them that
// Redis confirmed and lost: from (not included) to to.
func (p *pending) requeue(events []state.Event, from, to uint64, atUS int64) {
	var all []state.Event
	if to > from {
		p.dropped += to - from
		all = append(all, state.Event{Seq: to, AtUS: atUS, Type: state.TypeGap,
			Data: &state.GapEvent{Count: to - from, FromSeq: from + 1, ToSeq: to, Reason: gapLost}})
	}
	p.events = append(append(all, events...), p.events...)
}

// raise adds to the restarts of waiting events what a seed has shown them to
// lack. Others hold the events, too, so each is replaced and not changed.
func (p *pending) raise(by map[string]uint64) {
	for i := range p.events {
		if e, ok := p.events[i].Data.(*state.UnitEvent); ok && by[e.Name] > 0 {
			raised := *e
			raised.Restarts += by[e.Name]
			p.events[i].Data = &raised
		}
	}
}
