package relay

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

// numbers writes events as their numbers, and gaps as what they stand for.
func numbers(events []state.Event) (all []string) {
	for _, e := range events {
		if g, ok := e.Data.(*state.GapEvent); ok {
			all = append(all, fmt.Sprintf("%d-%d(%d) %s", g.FromSeq, g.ToSeq, g.Count, g.Reason))
			if e.Seq != g.ToSeq {
				all = append(all, fmt.Sprintf("numbered %d", e.Seq))
			}
			continue
		}
		all = append(all, fmt.Sprint(e.Seq))
	}
	return all
}

func TestRequeue(t *testing.T) {
	t.Parallel()
	list := func(from, to uint64) (events []state.Event) {
		for ; from <= to; from++ {
			events = append(events, state.Event{Seq: from, Type: state.TypeUnit, Data: &state.UnitEvent{}})
		}
		return events
	}
	gap := func(from, to uint64, reason string) []state.Event {
		return []state.Event{{Seq: to, Type: state.TypeGap, Data: &state.GapEvent{Count: to - from + 1, FromSeq: from, ToSeq: to, Reason: reason}}}
	}
	for _, tt := range []struct {
		name           string
		flight, queued []state.Event
		has, acked     uint64
		want           []string
		dropped        uint64 // before it was 100
	}{
		{"nothing was lost", list(6, 7), list(8, 8), 5, 5, []string{"6", "7", "8"}, 100},
		{"all was lost", list(6, 7), list(8, 8), 0, 5, []string{"1-5(5) redis-lost-writes", "6", "7", "8"}, 105},
		{"some was lost", list(6, 6), nil, 3, 5, []string{"4-5(2) redis-lost-writes", "6"}, 102},
		{"what was in flight is there", list(6, 7), list(8, 8), 7, 5, []string{"8"}, 100},
		{"half of what was in flight is there", list(6, 7), nil, 6, 5, []string{"7"}, 100},
		{"lost again before the gap was told", append(gap(4, 5, gapLost), list(6, 6)...), list(7, 7), 3, 5, []string{"4-5(2) redis-lost-writes", "6", "7"}, 100},
		{"more was lost before the gap was told", append(gap(4, 5, gapLost), list(6, 6)...), nil, 1, 5, []string{"2-5(4) redis-lost-writes", "6"}, 102},
		{"less was lost than the gap would tell", append(gap(2, 5, gapLost), list(6, 6)...), nil, 4, 5, []string{"5-5(1) redis-lost-writes", "6"}, 97},
		{"the gap was told already", append(gap(4, 5, gapLost), list(6, 6)...), nil, 5, 5, []string{"6"}, 100},
		{"the gap has grown in the buffer", gap(4, 7, gapOverflow), list(8, 8), 1, 5, []string{"2-7(6) redis-lost-writes", "8"}, 102},
		{"the grown gap begins in what is there", gap(4, 7, gapOverflow), list(8, 8), 5, 5, []string{"6-7(2) overflow", "8"}, 98},
		{"a gap of events that were never sent", list(6, 6), gap(7, 9, gapOverflow), 3, 5, []string{"4-5(2) redis-lost-writes", "6", "7-9(3) overflow"}, 102},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPending(10)
			p.events, p.dropped = tt.queued, 100
			p.requeue(tt.flight, tt.has, tt.acked, 1)
			if diff := gocmp.Diff(tt.want, numbers(p.events)); diff != "" {
				t.Errorf("what waits (-want +got):\n%s", diff)
			}
			if p.dropped != tt.dropped {
				t.Errorf("%d count as dropped, want %d", p.dropped, tt.dropped)
			}
		})
	}
}

// The end of a process is told at once, and not after systemd's own word; a
// status may wait, and takes no end's place.
func TestHints(t *testing.T) {
	t.Parallel()
	about := func(kind, unit string) state.Event {
		return state.Event{Type: kind, Data: &state.UnitEvent{Unit: state.Unit{Name: unit, PID: 9}}}
	}
	has := func(unit string, pid uint32) state.Delta {
		return state.Delta{Units: []state.Unit{{Name: unit, PID: pid}}}
	}
	p := newPending(10)
	for _, tt := range []struct {
		name   string
		delta  state.Delta
		urgent bool
		want   []hint
	}{
		{"a status", state.Delta{Hints: []state.Event{about("status", "a.service")}}, false, []hint{{"status", "a.service"}}},
		{"ends", state.Delta{Hints: []state.Event{about("exit", "a.service"), about("exit", "b.service"), about("exit", "c.service")}}, true,
			[]hint{{"exit", "a.service"}, {"exit", "b.service"}, {"exit", "c.service"}, {"status", "a.service"}}},
		{"a figure", has("b.service", 9), false,
			[]hint{{"exit", "a.service"}, {"exit", "b.service"}, {"exit", "c.service"}, {"status", "a.service"}}},
		{"a failure", has("a.service", 0), false, []hint{{"exit", "b.service"}, {"exit", "c.service"}, {"status", "a.service"}}},
		{"another process", has("b.service", 10), false, []hint{{"exit", "c.service"}, {"status", "a.service"}}},
		{"a unit that is gone", state.Delta{Gone: []string{"c.service"}}, false, []hint{{"status", "a.service"}}},
	} {
		p.add(tt.delta)
		got := slices.SortedFunc(maps.Keys(p.hints), func(a, b hint) int {
			return cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(a.unit, b.unit))
		})
		if diff := gocmp.Diff(tt.want, got, gocmp.AllowUnexported(hint{})); diff != "" {
			t.Errorf("%s: what waits (-want +got):\n%s", tt.name, diff)
		}
		if got := urgent(tt.delta); got != tt.urgent {
			t.Errorf("%s: urgent is %v", tt.name, got)
		}
	}
}
