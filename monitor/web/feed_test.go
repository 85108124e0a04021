package web

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

// change is a Delta of one event of a unit, whose state it changes.
func change(seq uint64, unit, active string) state.Delta {
	u := state.Unit{Name: unit, Active: active, Seq: seq}
	return state.Delta{Units: []state.Unit{u}, Events: []state.Event{{Seq: seq, Type: state.TypeUnit, Data: &state.UnitEvent{Unit: u, Event: state.Running}}}}
}

// line tells a batch in one line.
func line(b batch) string {
	var parts []string
	for _, e := range b.events {
		parts = append(parts, fmt.Sprint(e.Seq))
	}
	if b.snapshot != "" {
		parts = append(parts, fmt.Sprintf("%s@%d", b.snapshot, b.seq))
	}
	for _, u := range b.units {
		parts = append(parts, u.Name+"="+u.Active)
	}
	for _, name := range b.gone {
		parts = append(parts, "-"+name)
	}
	if b.gpusSet {
		parts = append(parts, fmt.Sprintf("%d GPUs", len(b.gpus)))
	}
	return strings.Join(parts, " ")
}

func take(t *testing.T, r *reader, want string) {
	t.Helper()
	b, err := r.take()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, line(b)); diff != "" {
		t.Errorf("batch (-want +got):\n%s", diff)
	}
}

func TestFeed(t *testing.T) {
	t.Parallel()
	f := NewFeed()
	early := f.join("", 10)
	take(t, early, "new@0 0 GPUs")
	take(t, early, "")

	f.Push(state.Delta{Units: []state.Unit{{Name: "a", Active: "active"}, {Name: "b", Active: "active"}}})
	f.Push(change(1, "a", "failed"))
	f.Push(change(2, "a", "active"))
	f.Push(state.Delta{Gone: []string{"b"}, GPUs: make([]state.GPU, 2), GPUsChanged: true})
	take(t, early, "1 2 a=active -b 2 GPUs") // the state only as it is in the end
	take(t, early, "")
	if v := f.View(); v.Seq != 2 || len(v.Units) != 1 || len(v.GPUs) != 2 {
		t.Errorf("view is %+v", v)
	}

	// A snapshot of the herd names all there is.
	f.Push(state.Delta{Reset: true, Units: []state.Unit{{Name: "c", Active: "active"}}})
	take(t, early, "c=active -a 0 GPUs")

	f.Push(change(3, "c", "failed"))
	for _, tt := range []struct{ last, want string }{
		{"", "new@3 c=failed 0 GPUs"},
		{f.id(3), "resumed@3 c=failed 0 GPUs"},
		{f.id(1), "2 3 resumed@3 c=failed 0 GPUs"},
		{f.id(0), "1 2 3 resumed@3 c=failed 0 GPUs"},
		{f.id(4), "lost@3 c=failed 0 GPUs"}, // never told
		{NewFeed().id(1), "lost@3 c=failed 0 GPUs"},
		{"nonsense", "lost@3 c=failed 0 GPUs"},
		{f.id(3) + "x", "lost@3 c=failed 0 GPUs"},
	} {
		r := f.join(tt.last, 10)
		take(t, r, tt.want)
		take(t, r, "")
		r.close()
	}
	early.close()
	if s := f.Stats(); s.Clients != 0 || s.Evicted != 0 {
		t.Errorf("stats are %+v", s)
	}
}

// A client that is as far behind as the ring is long has missed nothing; one
// event more, and it is sent away.
func TestFeedBehind(t *testing.T) {
	t.Parallel()
	f := NewFeed()
	slow := f.join("", 1)
	take(t, slow, "new@0 0 GPUs")
	if f.join("", 1) != nil {
		t.Error("a second client was let in")
	}
	for seq := uint64(1); seq <= feedEvents; seq++ {
		f.Push(change(seq, "a", fmt.Sprint(seq)))
	}
	told := uint64(0)
	for {
		b, err := slow.take()
		if err != nil {
			t.Fatal(err)
		}
		if b.empty() {
			break
		}
		if len(b.events) > batchEvents {
			t.Fatalf("%d events at once", len(b.events))
		}
		for _, e := range b.events {
			if told++; e.Seq != told {
				t.Fatalf("event %d follows %d", e.Seq, told-1)
			}
		}
		if last := told == feedEvents; last != (len(b.units) == 1) {
			t.Errorf("after event %d: %d units", told, len(b.units))
		}
	}
	if told != feedEvents {
		t.Errorf("told %d events", told)
	}
	for seq := uint64(feedEvents + 1); seq <= 2*feedEvents+1; seq++ {
		f.Push(change(seq, "a", fmt.Sprint(seq)))
	}
	if _, err := slow.take(); !errors.Is(err, errBehind) {
		t.Errorf("error %v", err)
	}
	slow.close()
	if s := f.Stats(); s.Clients != 0 || s.Evicted != 1 {
		t.Errorf("stats are %+v", s)
	}
	// What was just dropped can't be resumed, what is kept can.
	for last, want := range map[uint64]string{feedEvents: snapshotLost, feedEvents + 1: snapshotResumed} {
		r := f.join(f.id(last), 1)
		if r.snapshot != want {
			t.Errorf("after %d: %s, want %s", last, r.snapshot, want)
		}
		r.close()
	}
}

// What a client that follows adds to each change of a unit.
func BenchmarkPush(b *testing.B) {
	f := NewFeed()
	r := f.join("", 1)
	defer r.close()
	seq := uint64(0)
	for b.Loop() {
		seq++
		f.Push(change(seq, "redis-worker@0.service", "active"))
		if _, err := r.take(); err != nil {
			b.Fatal(err)
		}
	}
}
