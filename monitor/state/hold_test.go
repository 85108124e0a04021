package state

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// at returns o changed at a time, in µs.
func at(us uint64, o Observation) Observation {
	o.ChangedUS = us
	return o
}

// past returns what the journal tells of a.service.
func past(us int64, event, invocation string, restarts uint64) Past {
	return Past{AtUS: us, Event: event, Unit: Unit{Name: "a.service", InvocationID: invocation, Restarts: restarts}}
}

// What happened between two monitors comes once and in order: what the journal
// tells, where it ends short of what is found, and what was told meanwhile.
func TestRelease(t *testing.T) {
	t.Parallel()
	killed := func(us uint64, invocation string) Observation {
		o := at(us, in("failed/failed", invocation))
		o.Result, o.ExecMainPID, o.ExecMainCode, o.ExecMainStatus = "signal", 9, cldKilled, 9
		return o
	}
	running := map[string]Seed{"a.service": {3, "a", Running, 1}}
	for _, tt := range []struct {
		name  string
		seeds map[string]Seed
		found Observation
		past  []Past
		held  []Observation
		want  []string
	}{
		{"nothing happened", running, at(100, in("active/running", "a")), nil, nil, nil},
		{"no earlier monitor", nil, at(100, in("active/running", "a")), nil, []Observation{killed(200, "a")},
			[]string{"1 a.service failed a pid=9 restarts=0 @200"}},
		{"killed and started", running, at(120, in("active/running", "b")),
			[]Past{past(110, Failed, "a", 3), past(125, Running, "b", 4)}, nil,
			[]string{"1 a.service failed a pid=0 restarts=3 @110 backfilled", "2 a.service running b pid=9 restarts=4 @125 backfilled"}},
		{"and killed while the journal was read", running, at(120, in("active/running", "b")),
			[]Past{past(110, Failed, "a", 3), past(125, Running, "b", 4), past(135, Failed, "b", 4), past(145, Running, "c", 5)},
			[]Observation{killed(130, "b"), at(140, in("active/running", "c"))},
			[]string{"1 a.service failed a pid=0 restarts=3 @110 backfilled", "2 a.service running b pid=9 restarts=4 @125 backfilled",
				"3 a.service failed b pid=9 restarts=4 @130", "4 a.service running c pid=9 restarts=5 @140"}},
		{"only while the journal was read", running, at(100, in("active/running", "a")),
			[]Past{past(135, Failed, "a", 3), past(145, Running, "c", 4)},
			[]Observation{killed(130, "a"), at(140, in("active/running", "c"))},
			[]string{"1 a.service failed a pid=9 restarts=3 @130", "2 a.service running c pid=9 restarts=4 @140"}},
		{"the journal knows nothing", running, at(120, in("active/running", "b")), nil, []Observation{killed(130, "b")},
			[]string{"1 a.service running b pid=9 restarts=4 @120 resynced", "2 a.service failed b pid=9 restarts=4 @130"}},
		{"the journal knows half", running, at(120, in("active/running", "b")), []Past{past(110, Failed, "a", 3)}, nil,
			[]string{"1 a.service failed a pid=0 restarts=3 @110 backfilled", "2 a.service running b pid=9 restarts=4 @120 resynced"}},
		{"the journal knows half, and what came later", running, at(120, in("active/running", "b")),
			[]Past{past(110, Failed, "a", 3), past(140, Failed, "b", 3)}, []Observation{killed(130, "b")},
			[]string{"1 a.service failed a pid=0 restarts=3 @110 backfilled", "2 a.service running b pid=9 restarts=4 @120 resynced",
				"3 a.service failed b pid=9 restarts=4 @130"}},
		{"the journal has a hole", running, at(120, in("active/running", "d")),
			[]Past{{AtUS: 110, Event: Running, Uncertain: true, Unit: Unit{Name: "a.service", InvocationID: "d", Restarts: 6}}}, nil,
			[]string{"1 a.service running d pid=9 restarts=6 @110 backfilled resynced"}},
		{"a phase twice in one invocation", running, at(120, in("failed/failed", "a")),
			[]Past{past(100, Failed, "a", 3), past(110, Stopped, "a", 3), past(121, Failed, "a", 3)}, nil,
			[]string{"1 a.service failed a pid=0 restarts=3 @100 backfilled", "2 a.service stopped a pid=0 restarts=3 @110 backfilled",
				"3 a.service failed a pid=0 restarts=3 @121 backfilled"}},
		{"of another unit", running, at(100, in("active/running", "a")),
			[]Past{{AtUS: 110, Event: Failed, Unit: Unit{Name: "b.service"}}}, nil, nil},
		{"new in the herd", map[string]Seed{}, at(120, in("active/running", "b")), []Past{past(121, Running, "b", 0)}, nil,
			[]string{"1 a.service running b pid=9 restarts=0 @121 backfilled"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, told := newHerd()
			complete := 0
			h.Hold(func() { complete++ })
			if _, ok := h.Window(); ok || h.Synced() {
				t.Error("the window counts as complete")
			}
			h.Sync([]Observation{tt.found}, "connected")
			for _, o := range tt.held {
				h.Observe(o)
			}
			if len(told.deltas) != 0 || h.Synced() {
				t.Fatalf("told too early: %+v", told.deltas)
			}
			w, ok := h.Window()
			if !ok || !w.Initial || complete != 1 {
				t.Fatalf("the window is %+v, %v, %d times complete", w, ok, complete)
			}
			if !h.Release(w, tt.seeds, tt.past) || h.Release(w, tt.seeds, tt.past) || !h.Synced() {
				t.Error("it is not released once")
			}
			got := told.detail(t)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			u := h.Units()[0]
			if u.Seq != uint64(len(tt.want)) {
				t.Errorf("the unit is %+v", u)
			}
			if diff := cmp.Diff([]Unit{u}, told.deltas[len(told.deltas)-1].Units); diff != "" {
				t.Errorf("told units (-want +got):\n%s", diff)
			}
			told.deltas = nil
			h.Observe(killed(300, "z"))
			if len(told.events()) != 1 {
				t.Error("what comes later is not told at once")
			}
		})
	}
}

// detail returns the events, one line each.
func (t *told) detail(tb testing.TB) []string {
	tb.Helper()
	var lines []string
	for _, d := range t.deltas {
		for _, e := range d.Events {
			u := e.Data.(*UnitEvent)
			line := fmt.Sprintf("%d %s %s %s pid=%d restarts=%d @%d", e.Seq, u.Name, u.Event, u.InvocationID, u.PID, u.Restarts, e.AtUS)
			if u.Seq != e.Seq {
				tb.Errorf("event %d says seq %d", e.Seq, u.Seq)
			}
			if u.Backfilled {
				line += " backfilled"
			}
			if u.Resynced {
				line += " resynced"
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// Changes that were lost while the herd was watched are told from the journal,
// and else as far as they were seen.
func TestLost(t *testing.T) {
	t.Parallel()
	failed := func(us uint64, invocation string) Observation { return at(us, in("failed/failed", invocation)) }
	running := func(us uint64, invocation string) Observation { return at(us, in("active/running", invocation)) }
	counted := func(o Observation, n uint32) Observation { o.NRestarts = n; return o }
	for _, tt := range []struct {
		name  string
		early []Observation // before the herd is read again
		found []Observation
		later []Observation // after
		past  []Past
		want  []string
	}{
		{"nothing happened", nil, []Observation{running(100, "a")}, nil, nil, nil},
		{"something after it", nil, []Observation{running(100, "a")}, []Observation{failed(130, "a")}, nil,
			[]string{"1 a.service failed a pid=0 restarts=0 @130"}},
		{"the journal tells all, and counts better than systemd", []Observation{failed(120, "b")},
			[]Observation{counted(running(130, "c"), 7)}, []Observation{failed(140, "c")},
			[]Past{past(105, Failed, "a", 0), past(110, Running, "b", 1), past(121, Failed, "b", 1), past(131, Running, "c", 2), past(141, Failed, "c", 2)},
			[]string{"1 a.service failed a pid=0 restarts=0 @105 backfilled", "2 a.service running b pid=0 restarts=1 @110 backfilled",
				"3 a.service failed b pid=0 restarts=1 @121 backfilled", "4 a.service running c pid=9 restarts=2 @131 backfilled",
				"5 a.service failed c pid=0 restarts=2 @140"}},
		{"no journal", []Observation{counted(failed(120, "b"), 3)}, []Observation{counted(running(130, "c"), 4)}, []Observation{failed(140, "c")}, nil,
			[]string{"1 a.service failed b pid=0 restarts=3 @120 resynced", "2 a.service running c pid=9 restarts=4 @130", "3 a.service failed c pid=0 restarts=4 @140"}},
		{"a journal that ends early", []Observation{failed(120, "b")}, []Observation{running(130, "c")}, nil,
			[]Past{past(105, Failed, "a", 0), past(121, Failed, "b", 1)},
			[]string{"1 a.service failed a pid=0 restarts=0 @105 backfilled", "2 a.service failed b pid=0 restarts=1 @120 resynced", "3 a.service running c pid=9 restarts=2 @130"}},
		{"only the state, by systemd's count", nil, []Observation{counted(running(130, "d"), 3)}, nil, nil,
			[]string{"1 a.service running d pid=9 restarts=3 @130 resynced"}},
	} {
		for _, journal := range []bool{true, false} { // without, nobody asks for a window
			if !journal && len(tt.past) > 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s %v", tt.name, journal), func(t *testing.T) {
				t.Parallel()
				h, told := newHerd()
				if journal {
					h.Hold(func() {})
				}
				h.Sync([]Observation{running(100, "a")}, "connected")
				if w, ok := h.Window(); ok {
					h.Release(w, nil, nil)
				}
				told.deltas = nil
				h.Lost(77)
				h.Lost(99)
				for _, o := range tt.early {
					h.Observe(o)
				}
				if len(told.deltas) > 0 || h.Synced() {
					t.Errorf("told too early: %+v", told.deltas)
				}
				h.Sync(tt.found, "reload")
				for _, o := range tt.later {
					h.Observe(o)
				}
				if w, ok := h.Window(); ok {
					if diff := cmp.Diff(map[string]Seed{"a.service": {0, "a", Running, 0}}, w.Seeds); diff != "" || w.FromUS != 77 || w.Initial {
						t.Errorf("the window is %+v", w)
					}
					if changed := tt.found[0].InvocationID != "a"; h.Changed(w.Seeds) != changed {
						t.Errorf("changed is %v", !changed)
					}
					h.Release(w, w.Seeds, tt.past)
				}
				if diff := cmp.Diff(tt.want, told.detail(t)); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if !h.Synced() {
					t.Error("it is not released")
				}
			})
		}
	}
}

// A window that opens once more while the past is read makes it void.
func TestLostAgain(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	complete := 0
	h.Hold(func() { complete++ })
	h.Sync([]Observation{at(100, in("active/running", "a"))}, "connected")
	w, _ := h.Window()
	h.Lost(1)
	if h.Release(w, nil, nil) {
		t.Error("released though changes were lost")
	}
	if _, ok := h.Window(); ok {
		t.Error("the window is complete though nothing was read")
	}
	h.Sync([]Observation{at(120, in("active/running", "b"))}, "reload")
	w, ok := h.Window()
	if !ok || !w.Initial || complete != 2 {
		t.Errorf("window %+v, %v, %d times complete", w, ok, complete)
	}
	seeds := map[string]Seed{"a.service": {3, "a", Running, 1}}
	h.Release(w, seeds, []Past{past(110, Failed, "a", 3), past(121, Running, "b", 4)})
	want := []string{"1 a.service failed a pid=0 restarts=3 @110 backfilled", "2 a.service running b pid=9 restarts=4 @121 backfilled"}
	if diff := cmp.Diff(want, told.detail(t)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Units come and go with a reload, and a seed that comes in the middle of it
// counts.
func TestLostMembers(t *testing.T) {
	t.Parallel()
	named := func(name string, o Observation) Observation { o.Name = name; return o }
	h, told := newHerd()
	complete := 0
	h.Hold(func() { complete++ })
	h.Sync([]Observation{in("active/running", "a"), named("old.service", in("active/running", "o"))}, "connected")
	w, _ := h.Window()
	h.Release(w, nil, nil)
	h.Observe(at(50, in("active/running", "b")))
	told.deltas = nil

	h.Lost(77)
	h.Sync([]Observation{at(100, in("active/running", "c")), named("new.service", in("inactive/dead", ""))}, "reload")
	w, _ = h.Window()
	if raised := h.Seed(map[string]Seed{"a.service": {5, "a", Running, 1}})["a.service"]; raised != 5 {
		t.Errorf("raised by %d, want 5", raised)
	}
	if h.Release(w, w.Seeds, nil) {
		t.Error("released with a past that lacks what the seed has shown")
	}
	w, _ = h.Window()
	if w.Seeds["a.service"].Restarts != 6 || complete != 3 {
		t.Errorf("the window is %+v, complete %d times", w, complete)
	}
	h.Release(w, w.Seeds, []Past{past(90, Failed, "b", 6), past(101, Running, "c", 7)})
	want := []string{"1 a.service failed b pid=0 restarts=6 @90 backfilled", "2 a.service running c pid=9 restarts=7 @101 backfilled",
		"3 new.service stopped  pid=0 restarts=0 @7000"}
	for i := range want {
		want[i] = fmt.Sprint(i+2, want[i][1:]) // one was told before
	}
	if diff := cmp.Diff(want, told.detail(t)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	d := told.deltas[len(told.deltas)-1]
	if diff := cmp.Diff([]string{"old.service"}, d.Gone); diff != "" || len(d.Units) != 2 {
		t.Errorf("gone (-want +got):\n%s\nunits %+v", diff, d.Units)
	}
}

// That the monitor is there is told at once.
func TestHostOnHold(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	h.Hold(func() {})
	h.Host(HostEvent{Event: "online"})
	want(t, told.events(), "1 host")
	h.Sync([]Observation{in("active/running", "a")}, "connected")
	h.Observe(in("failed/failed", "a"))
	w, _ := h.Window()
	h.Release(w, nil, nil)
	want(t, told.events(), "2 a.service failed restarts=0")
}

func TestUnreached(t *testing.T) {
	t.Parallel()
	h, _ := newHerd()
	seeds := map[string]Seed{"a.service": {3, "a", Running, 1}}
	h.Hold(func() {})
	h.Sync([]Observation{at(120, in("active/running", "b"))}, "connected")
	for _, tt := range []struct {
		name  string
		seeds map[string]Seed
		past  []Past
		want  []string
	}{
		{"nothing known", seeds, nil, []string{"a.service"}},
		{"short of it", seeds, []Past{past(110, Failed, "a", 3)}, []string{"a.service"}},
		{"reached", seeds, []Past{past(110, Failed, "a", 3), past(121, Running, "b", 4)}, nil},
		{"never left", map[string]Seed{"a.service": {3, "b", Running, 1}}, nil, nil},
	} {
		if diff := cmp.Diff(tt.want, h.Unreached(tt.seeds, tt.past)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	w, _ := h.Window()
	h.Release(w, seeds, nil)
	if got := h.Unreached(seeds, nil); got != nil {
		t.Errorf("after the end %q", got)
	}
}
