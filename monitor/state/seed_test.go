package state

import "testing"

// What happened between two monitors is told once, and what did not is not.
func TestResync(t *testing.T) {
	t.Parallel()
	failed := func(o Observation) Observation {
		o.Result, o.MainPID, o.ExecMainCode, o.ExecMainStatus = "signal", 0, cldKilled, 9
		return o
	}
	for _, tt := range []struct {
		name   string
		before Observation // as the earlier monitor left it; without a name: unknown to it
		now    Observation
		want   []string
	}{
		{"unchanged", in("active/running", "a"), in("active/running", "a"), nil},
		{"another phase", in("activating/start", "a"), in("active/running", "a"), []string{"1 a.service running restarts=3 resynced"}},
		{"another invocation", in("active/running", "a"), in("active/running", "b"), []string{"1 a.service running restarts=4 resynced"}},
		{"ended", in("active/running", "a"), in("inactive/dead", "a"), []string{"1 a.service stopped restarts=3 resynced"}},
		{"failed", in("active/running", "a"), failed(in("failed/failed", "a")), []string{"1 a.service failed restarts=3 resynced"}},
		{"sub-states only", in("active/running", "a"), in("active/exited", "a"), nil},
		{"told as failed, now waiting", failed(in("failed/failed", "a")), failed(in("activating/auto-restart", "a")), nil},
		{"told as failed, still being killed", failed(in("deactivating/stop-sigterm", "a")), failed(in("failed/failed", "a")), nil},
		{"unloaded", in("inactive/dead", "a"), in("inactive/dead", ""), nil},
		{"new in the herd", Observation{}, in("active/running", "a"), []string{"1 a.service running restarts=0 resynced"}},
	} {
		seeds := map[string]Seed{}
		if tt.before.Name != "" {
			u := tt.before.Unit()
			u.Restarts = 3
			seeds[u.Name] = NewSeed(u)
		}
		for _, order := range []string{"after the herd is known", "before"} {
			t.Run(tt.name+" "+order, func(t *testing.T) {
				t.Parallel()
				h, told := newHerd()
				if order == "before" {
					h.Seed(seeds)
					h.Resync(seeds)
					h.Sync([]Observation{tt.now}, "connected")
				} else {
					h.Sync([]Observation{tt.now}, "connected")
					h.Seed(seeds)
					h.Resync(seeds)
				}
				var last Unit
				for _, d := range told.deltas {
					for _, u := range d.Units {
						last = u
					}
				}
				if last.Seq != uint64(len(tt.want)) {
					t.Errorf("the unit was told with seq %d, want that of its event", last.Seq)
				}
				want(t, told.events(), tt.want...)
			})
		}
	}
}

// A unit that had an event has told its phase: nothing is told twice.
func TestResyncAfterEvents(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	h.Sync([]Observation{in("activating/start", "b")}, "connected")
	h.Observe(in("active/running", "b"))
	seeds := map[string]Seed{"a.service": {3, "a", Running, 0}}
	h.Seed(seeds)
	h.Resync(seeds)
	h.Sync([]Observation{in("active/running", "b")}, "again")
	want(t, told.events(), "1 a.service running restarts=0") // the relay raises it
}
