// Package loss holds what the monitor told against what the journal has: for
// each unit every start and every end, once and in order, and whatever lacks
// covered by a mark.
//
// It knows the monitor by its documented stream alone and shares no code with
// it: the journal is read here once more.
package loss

import (
	"fmt"
	"slices"
)

// A Told is one entry of the event stream.
type Told struct {
	BootID     string
	Epoch, Seq uint64
	Type       string // unit, gap, …

	// Of type unit.
	Unit                 string
	Event                string // starting, running, stopping, stopped, failed
	Invocation           string
	Restarts             uint64
	Resynced, Backfilled bool

	// Of type gap: the numbers that it stands for.
	From, To uint64
}

// A Logged is one start or end of a unit in the journal.
type Logged struct {
	Unit       string
	Invocation string
	End        bool
	AtUS       int64 // unix time, µs
}

// A Count is how often a unit started.
type Count struct {
	Starts  int // in the journal
	Lacking int // of them the stream lacks, covered by a mark
}

// A Report is what Check found.
type Report struct {
	Units map[string]Count

	Starts, Ends               int // in the journal
	Events                     int // starts and ends in the stream
	Backfilled, Resynced, Gaps int // events so marked
	Explained                  int // starts and ends that the stream lacks, covered by a mark
	Epochs                     int
	Unexplained                []string // what is wrong, for people
	restarts                   map[string]uint64
	order                      map[[2]uint64]bool
	covered                    map[uint64][]span // by epoch
}

type span struct{ from, to uint64 }

// Check holds the stream, in the order in which it was read, against the
// journal's record of the units in it that the stream tells of.
func Check(stream []Told, journal []Logged) *Report {
	r := &Report{Units: map[string]Count{}, restarts: map[string]uint64{}, order: map[[2]uint64]bool{}, covered: map[uint64][]span{}}
	r.numbers(stream)
	truth := map[string][]Logged{}
	for _, l := range journal {
		truth[l.Unit] = append(truth[l.Unit], l)
		if l.End {
			r.Ends++
		} else {
			r.Starts++
			c := r.Units[l.Unit]
			c.Starts++
			r.Units[l.Unit] = c
		}
	}
	at := map[string]*walk{}
	for name, t := range truth {
		at[name] = &walk{unit: name, truth: t, told: map[step]bool{}, phases: map[string]bool{}}
	}
	for _, e := range stream {
		switch e.Type {
		case "gap":
			r.Gaps++
			for _, w := range at {
				w.covered = true
			}
		case "unit":
			if w := at[e.Unit]; w != nil {
				w.take(e, r)
			}
		}
	}
	for _, w := range at {
		rest := w.truth[w.next:]
		switch {
		case len(rest) > 0 && w.covered:
			r.cover(w.unit, rest)
		case len(rest) > 0:
			r.wrong("%s: the stream ends before %d more, the first of them %v", w.unit, len(rest), rest[0])
		}
	}
	slices.Sort(r.Unexplained)
	return r
}

// cover counts what the stream lacks and a mark covers.
func (r *Report) cover(unit string, lacking []Logged) {
	r.Explained += len(lacking)
	c := r.Units[unit]
	for _, l := range lacking {
		if !l.End {
			c.Lacking++
		}
	}
	r.Units[unit] = c
}

func (r *Report) wrong(format string, args ...any) {
	r.Unexplained = append(r.Unexplained, fmt.Sprintf(format, args...))
}

// numbers checks boot, epoch and seq: rising, each once, and what lacks
// covered by a gap.
func (r *Report) numbers(stream []Told) {
	for _, e := range stream {
		if e.Type == "gap" {
			r.covered[e.Epoch] = append(r.covered[e.Epoch], span{e.From, e.To})
		}
	}
	var last Told
	for i, e := range stream {
		key := [2]uint64{e.Epoch, e.Seq}
		expected := e.Seq // where nothing can be said: reading begins somewhere
		switch {
		case i == 0:
		case e.BootID != last.BootID:
			r.wrong("%d.%d is of boot %s, the one before of %s", e.Epoch, e.Seq, e.BootID, last.BootID)
		case e.Type == "gap" && e.Epoch == last.Epoch && e.Seq == last.Seq:
			// Redis lost what was read of it already, up to here.
			delete(r.order, key)
		case e.Epoch < last.Epoch || e.Epoch == last.Epoch && e.Seq <= last.Seq:
			r.wrong("%d.%d comes after %d.%d", e.Epoch, e.Seq, last.Epoch, last.Seq)
		case e.Epoch == last.Epoch:
			expected = last.Seq + 1
		default:
			expected = 1
		}
		if i == 0 || e.Epoch != last.Epoch {
			r.Epochs++
		}
		if r.order[key] {
			r.wrong("%d.%d is told twice", e.Epoch, e.Seq)
		}
		r.order[key] = true
		for n := expected; n < e.Seq; n++ {
			if !r.covers(e.Epoch, n) {
				r.wrong("%d.%d lacks, and no gap tells of it", e.Epoch, n)
				break
			}
		}
		last = e
	}
}

func (r *Report) covers(epoch, seq uint64) bool {
	return slices.ContainsFunc(r.covered[epoch], func(s span) bool { return s.from <= seq && seq <= s.to })
}

type step struct {
	invocation string
	end        bool
}

// A walk goes along one unit's truth as the stream tells it.
type walk struct {
	unit    string
	truth   []Logged
	next    int
	told    map[step]bool   // steps
	phases  map[string]bool // invocation and phase
	covered bool            // by a gap, since the last step
}

func (w *walk) take(e Told, r *Report) {
	if n := r.restarts[w.unit]; e.Restarts < n {
		r.wrong("%s: %d.%d counts %d restarts after %d", w.unit, e.Epoch, e.Seq, e.Restarts, n)
	}
	r.restarts[w.unit] = e.Restarts
	if e.Backfilled {
		r.Backfilled++
	}
	if e.Resynced {
		r.Resynced++
	}
	phase := e.Invocation + " " + e.Event
	if w.phases[phase] {
		r.wrong("%s: %d.%d tells once more: %s of %s", w.unit, e.Epoch, e.Seq, e.Event, e.Invocation)
	}
	w.phases[phase] = true
	var s step
	switch e.Event {
	case "starting", "running":
		s = step{e.Invocation, false}
	case "stopped", "failed":
		s = step{e.Invocation, true}
	default:
		return
	}
	if w.told[s] {
		// Running after starting, or the end of a restart that was called off.
		return
	}
	w.told[s] = true
	r.Events++
	found := slices.IndexFunc(w.truth, func(l Logged) bool { return l.Invocation == s.invocation && l.End == s.end })
	switch {
	case found < 0:
		r.wrong("%s: the journal knows nothing of %d.%d: %s of %s", w.unit, e.Epoch, e.Seq, e.Event, e.Invocation)
		return
	case found < w.next:
		r.wrong("%s: %d.%d comes late: %s of %s", w.unit, e.Epoch, e.Seq, e.Event, e.Invocation)
		return
	}
	if lacking := found - w.next; lacking > 0 {
		if e.Resynced || w.covered {
			r.cover(w.unit, w.truth[w.next:found])
		} else {
			r.wrong("%s: before %d.%d (%s of %s) lack %d, the first of them %v", w.unit, e.Epoch, e.Seq, e.Event, e.Invocation, lacking, w.truth[w.next])
		}
	}
	w.next = found + 1
	w.covered = false
}
