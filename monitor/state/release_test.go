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
			h.Hold()
			h.Sync([]Observation{tt.found}, "connected")
			for _, o := range tt.held {
				h.Observe(o)
			}
			if len(told.deltas) != 0 {
				t.Fatalf("told too early: %+v", told.deltas)
			}
			h.Release(tt.seeds, tt.past)
			var got []string
			restarts := uint64(0)
			for _, d := range told.deltas {
				for _, e := range d.Events {
					u := e.Data.(*UnitEvent)
					line := fmt.Sprintf("%d %s %s %s pid=%d restarts=%d @%d", e.Seq, u.Name, u.Event, u.InvocationID, u.PID, u.Restarts, e.AtUS)
					if u.Seq != e.Seq {
						t.Errorf("event %d says seq %d", e.Seq, u.Seq)
					}
					if u.Backfilled {
						line += " backfilled"
					}
					if u.Resynced {
						line += " resynced"
					}
					got = append(got, line)
					restarts = u.Restarts
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			u := h.Units()[0]
			if u.Seq != uint64(len(tt.want)) || len(tt.want) > 0 && u.Restarts != restarts {
				t.Errorf("the unit is %+v", u)
			}
			if diff := cmp.Diff([]Unit{u}, told.deltas[len(told.deltas)-1].Units); diff != "" {
				t.Errorf("told units (-want +got):\n%s", diff)
			}
			told.deltas = nil
			h.Release(nil, nil) // has ended
			h.Observe(killed(300, "z"))
			if len(told.events()) != 1 {
				t.Error("what comes later is not told at once")
			}
		})
	}
}

// That the monitor is there is told at once.
func TestHostOnHold(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	h.Hold()
	h.Host(HostEvent{Event: "online"})
	want(t, told.events(), "1 host")
	h.Sync([]Observation{in("active/running", "a")}, "connected")
	h.Observe(in("failed/failed", "a"))
	h.Release(nil, nil)
	want(t, told.events(), "2 a.service failed restarts=0")
}

func TestUnreached(t *testing.T) {
	t.Parallel()
	h, _ := newHerd()
	seeds := map[string]Seed{"a.service": {3, "a", Running, 1}}
	h.Hold()
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
	h.Release(seeds, nil)
	if got := h.Unreached(seeds, nil); got != nil {
		t.Errorf("after the end %q", got)
	}
}
