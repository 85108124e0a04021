package relay

import (
	"slices"

	"gpuherd/monitor/state"
)

// pending is what waits for Redis: events in a bounded queue, and of units and
// GPUs only the latest state, which always survives.
type pending struct {
	capacity int
	events   []state.Event
	reset    bool
	units    map[string]*state.Unit // nil: to be dropped
	gpus     []state.GPU
	gpusSet  bool
	hints    map[hint]state.Event // the latest of each kind

	dropped uint64 // events dropped since the start
}

// A hint is what hints of one kind are about.
type hint struct{ kind, unit string }

func newPending(capacity int) pending {
	return pending{capacity: capacity, units: map[string]*state.Unit{}, hints: map[hint]state.Event{}}
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
		p.heard(&d.Units[i])
	}
	for _, name := range d.Gone {
		p.units[name] = nil
		p.heard(&state.Unit{Name: name})
	}
	if d.Reset || d.GPUsChanged {
		p.gpus, p.gpusSet = d.GPUs, true
	}
	for _, h := range d.Hints {
		if e, ok := h.Data.(*state.UnitEvent); ok {
			p.hints[hint{h.Type, e.Name}] = h
		}
	}
	p.events = append(p.events, d.Events...)
	for len(p.events) > p.capacity && len(p.events) > 1 {
		p.merge()
	}
}

// heard drops the hint that a main process has ended where systemd has said so
// itself by now, or that the unit goes on with another one.
func (p *pending) heard(u *state.Unit) {
	end := hint{state.TypeExit, u.Name}
	if h, ok := p.hints[end].Data.(*state.UnitEvent); ok && h.PID != u.PID {
		delete(p.hints, end)
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
	gapLost     = "redis-lost-writes" // of the snapshot that follows, too
)

// Reasons of a snapshot.
const (
	snapshotConnected = "connected"
	snapshotPeriodic  = "periodic"
)

// requeue puts the events that were in flight back in front. Redis has those up
// to has, and had confirmed those up to acked: what lies between becomes a gap.
// A gap that waits already, of a loss before, becomes part of it.
func (p *pending) requeue(flight []state.Event, has, acked uint64, atUS int64) {
	waiting := slices.DeleteFunc(slices.Concat(flight, p.events), func(e state.Event) bool { return e.Seq <= has })
	gap := state.GapEvent{FromSeq: has + 1, ToSeq: max(has, acked), Reason: gapLost}
	known := uint64(0) // counted as dropped
	for len(waiting) > 0 {
		g, ok := waiting[0].Data.(*state.GapEvent)
		if !ok || g.FromSeq > max(has, acked) {
			break
		}
		if acked <= has {
			gap.Reason = g.Reason
		}
		gap.ToSeq = max(gap.ToSeq, g.ToSeq)
		known += g.Count
		waiting = waiting[1:]
	}
	if gap.ToSeq >= gap.FromSeq {
		gap.Count = gap.ToSeq - has
		waiting = slices.Insert(waiting, 0, state.Event{Seq: gap.ToSeq, AtUS: atUS, Type: state.TypeGap, Data: &gap})
	}
	p.dropped += gap.Count
	p.dropped -= known
	p.events = waiting
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
