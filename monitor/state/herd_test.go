package state

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// told collects a Herd's deltas.
type told struct{ deltas []Delta }

func newHerd() (*Herd, *told) {
	t := &told{}
	return NewHerd(func(d Delta) { t.deltas = append(t.deltas, d) }, func() time.Time { return time.UnixMicro(42) }), t
}

// events returns the events since the last call, one line each.
func (t *told) events() []string {
	var lines []string
	for _, d := range t.deltas {
		for _, e := range d.Events {
			switch x := e.Data.(type) {
			case *UnitEvent:
				l := fmt.Sprintf("%d %s %s restarts=%d", e.Seq, x.Name, x.Event, x.Restarts)
				if x.Resynced {
					l += " resynced"
				}
				lines = append(lines, l)
			default:
				lines = append(lines, fmt.Sprintf("%d %s", e.Seq, e.Type))
			}
		}
	}
	t.deltas = nil
	return lines
}

func want(t *testing.T, got []string, lines ...string) {
	t.Helper()
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// in returns a.service in a state ("active/running") of an invocation.
func in(state, invocation string) Observation {
	active, sub, _ := strings.Cut(state, "/")
	o := Observation{Name: "a.service", Active: active, Sub: sub, Result: "success", InvocationID: invocation, ChangedUS: 7_000}
	if active == "active" {
		o.MainPID, o.ExecMainPID = 9, 9
	}
	return o
}

func TestPhases(t *testing.T) {
	t.Parallel()
	signal := func(o Observation) Observation {
		o.Result, o.ExecMainCode, o.ExecMainStatus, o.ExecMainPID = "signal", cldKilled, 9, 9
		return o
	}
	for _, tt := range []struct {
		name  string
		steps []Observation
		want  []string
	}{
		{"killed on 252", []Observation{signal(in("failed/failed", "1")), signal(in("activating/auto-restart", "1")), in("active/running", "2")},
			[]string{"failed 0", "running 1"}},
		{"killed on 257", []Observation{signal(in("failed/failed-before-auto-restart", "1")), signal(in("activating/auto-restart", "1")),
			signal(in("activating/auto-restart-queued", "1")), in("activating/start", "2"), in("active/running", "2")},
			[]string{"failed 0", "starting 1", "running 1"}},
		{"killed, with children left", []Observation{signal(in("deactivating/stop-sigkill", "1")), signal(in("deactivating/final-sigterm", "1")),
			signal(in("failed/failed", "1")), signal(in("activating/auto-restart", "1")), in("active/running", "2")},
			[]string{"failed 0", "running 1"}},
		{"stopped, but too slow", []Observation{in("deactivating/stop-sigterm", "1"), func() Observation {
			o := in("deactivating/stop-sigkill", "1")
			o.Result, o.MainPID = "timeout", 9
			return o
		}(), signal(in("failed/failed", "1"))},
			[]string{"stopping 0", "failed 0"}},
		{"killed with RestartMode=direct", []Observation{signal(in("activating/auto-restart", "1")), in("active/running", "2")},
			[]string{"failed 0", "running 1"}},
		{"ended well with Restart=always", []Observation{in("inactive/dead-before-auto-restart", "1"), in("activating/auto-restart", "1"), in("active/running", "2")},
			[]string{"stopped 0", "running 1"}},
		{"stopped while it waits for its restart", []Observation{signal(in("failed/failed", "1")), signal(in("activating/auto-restart", "1")), in("inactive/dead", "1")},
			[]string{"failed 0", "stopped 0"}},
		{"reset-failed", []Observation{signal(in("failed/failed", "1")), in("inactive/dead", "1")}, []string{"failed 0", "stopped 0"}},
		{"stopped, unloaded, started", []Observation{in("deactivating/stop-sigterm", "1"), in("inactive/dead", "1"), in("inactive/dead", ""), in("active/running", "2")},
			[]string{"stopping 0", "stopped 0", "running 1"}},
		{"sub-states are no events", []Observation{in("deactivating/stop", "1"), in("deactivating/stop-sigterm", "1"), in("deactivating/final-sigkill", "1"), in("inactive/dead", "1")},
			[]string{"stopping 0", "stopped 0"}},
		{"reload is running", []Observation{in("reloading/reload", "1"), in("refreshing/refresh", "1"), in("active/running", "1")}, nil},
		{"a sub-state nobody knows yet", []Observation{in("activating/dreaming", "2"), in("active/dancing", "2")}, []string{"starting 1", "running 1"}},
		{"a crash unseen", []Observation{in("active/running", "2")}, []string{"running 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, told := newHerd()
			h.Sync([]Observation{in("active/running", "1")}, "connected")
			for _, o := range tt.steps {
				h.Observe(o)
			}
			var got []string
			for _, d := range told.deltas {
				for _, e := range d.Events {
					u := e.Data.(*UnitEvent)
					if e.AtUS != 7_000 || u.Seq != e.Seq {
						t.Errorf("event at %d with seq %d, %d", e.AtUS, e.Seq, u.Seq)
					}
					if u.Event == Failed && (u.Result != "signal" || u.ExitCode != "killed" || u.ExitStatus != 9 || u.PID != 9) {
						t.Errorf("failed does not say how: %+v", u)
					}
					got = append(got, fmt.Sprint(u.Event, " ", u.Restarts))
				}
			}
			want(t, got, tt.want...)
			last := tt.steps[len(tt.steps)-1]
			if u := h.Units()[0]; u.Active != last.Active || u.Sub != last.Sub || u.PID != last.MainPID {
				t.Errorf("the unit is %+v", u)
			}
		})
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	other := in("active/running", "x")
	other.Name = "b.service"
	h.Sync([]Observation{in("active/running", "1"), other}, "connected")
	want(t, told.events()) // how it was found is no event
	h.Sync([]Observation{in("active/running", "1"), other}, "reload")
	if len(told.deltas) != 0 {
		t.Errorf("nothing changed, but %+v", told.deltas)
	}
	fresh := in("inactive/dead", "")
	fresh.Name = "c.service"
	h.Sync([]Observation{in("active/running", "2"), fresh}, "reload")
	if gone := told.deltas[0].Gone; len(gone) != 1 || gone[0] != "b.service" {
		t.Errorf("gone are %v", gone)
	}
	want(t, told.events(), "1 a.service running restarts=1 resynced", "2 c.service stopped restarts=0")
	h.Observe(other)
	want(t, told.events()) // not of the herd
	h.Snapshot("connected")
	if d := told.deltas[0]; !d.Reset || len(d.Units) != 2 || d.Events[0].AtUS != 42 {
		t.Errorf("snapshot is %+v", d)
	}
	want(t, told.events(), "3 snapshot")
}

func TestRestarts(t *testing.T) {
	t.Parallel()
	automatic := func(o Observation, n uint32) Observation { o.NRestarts = n; return o }
	for _, tt := range []struct {
		name  string
		steps []Observation
		want  uint64
	}{
		{"first sight takes systemd's count", []Observation{automatic(in("active/running", "a"), 4)}, 4},
		{"first sight just before a start", []Observation{func() Observation {
			o := automatic(in("activating/auto-restart-queued", "a"), 4)
			o.Job = 7
			return o
		}(), automatic(in("active/running", "b"), 4)}, 4},
		{"systemd forgets at a start by hand", []Observation{automatic(in("active/running", "a"), 4), automatic(in("active/running", "b"), 0)}, 5},
		{"and counts anew", []Observation{automatic(in("active/running", "a"), 4), in("active/running", "b"), automatic(in("active/running", "c"), 1)}, 6},
		{"some were not seen", []Observation{automatic(in("active/running", "a"), 4), automatic(in("active/running", "d"), 7)}, 7},
		{"never started, then started", []Observation{in("inactive/dead", ""), in("active/running", "a")}, 0},
		{"unloaded in between", []Observation{in("active/running", "a"), in("inactive/dead", ""), in("active/running", "b")}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, _ := newHerd()
			for _, o := range tt.steps {
				h.Sync([]Observation{o}, "test")
			}
			if got := h.Units()[0].Restarts; got != tt.want {
				t.Errorf("%d restarts, want %d", got, tt.want)
			}
			h.Sync(nil, "test") // leaves the herd, and comes back
			h.Sync([]Observation{tt.steps[len(tt.steps)-1]}, "test")
			if got := h.Units()[0].Restarts; got != tt.want {
				t.Errorf("%d restarts after coming back, want %d", got, tt.want)
			}
		})
	}
}

func TestSeed(t *testing.T) {
	t.Parallel()
	automatic := func(o Observation, n uint32) Observation { o.NRestarts = n; return o }
	queued := func(o Observation, n uint32) Observation { o.NRestarts, o.Job = n, 9; return o }
	for _, tt := range []struct {
		name   string
		before []Observation
		seed   Seed
		after  []Observation
		want   uint64
		raised uint64
	}{
		{"same invocation", []Observation{in("active/running", "a")}, Seed{5, "a", Running, 0}, nil, 5, 5},
		{"another invocation", []Observation{in("active/running", "b")}, Seed{5, "a", Running, 0}, nil, 6, 6},
		{"starts seen before the seed", []Observation{in("active/running", "b"), in("active/running", "c")}, Seed{5, "a", Running, 0}, nil, 7, 6},
		{"systemd counted more", []Observation{automatic(in("active/running", "b"), 9)}, Seed{5, "a", Running, 0}, nil, 9, 0},
		{"seed before anything is seen", nil, Seed{5, "a", Running, 0}, []Observation{in("active/running", "a")}, 5, 0},
		{"seed before, then another", nil, Seed{5, "a", Running, 0}, []Observation{automatic(in("active/running", "b"), 6)}, 6, 0},
		{"waiting for a restart that systemd has counted", nil, Seed{5, "a", Running, 0},
			[]Observation{queued(in("activating/auto-restart", "b"), 7), automatic(in("active/running", "c"), 7)}, 7, 0},
		{"and the next one not seen", nil, Seed{5, "a", Running, 0},
			[]Observation{queued(in("activating/auto-restart", "b"), 7), automatic(in("active/running", "d"), 8)}, 8, 0},
		{"not started then", nil, Seed{0, "", Running, 0}, []Observation{in("active/running", "a")}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, _ := newHerd()
			for _, o := range tt.before {
				h.Sync([]Observation{o}, "test")
			}
			if got := h.Seed(map[string]Seed{"a.service": tt.seed})["a.service"]; got != tt.raised {
				t.Errorf("raised by %d, want %d", got, tt.raised)
			}
			for _, o := range tt.after {
				h.Sync([]Observation{o}, "test")
			}
			if got := h.Units()[0].Restarts; got != tt.want {
				t.Errorf("%d restarts, want %d", got, tt.want)
			}
		})
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	n, limit := uint64(5), uint64(10)
	o := in("active/running", "1")
	o.Slice, o.MemoryMax = "gpuherd.slice", &limit
	h.Sync([]Observation{o}, "connected")
	if got := h.ControlGroups()["a.service"].Path; got != "/gpuherd.slice/a.service" {
		t.Errorf("control group is %s", got)
	}
	told.deltas = nil
	h.Use(map[string]Figures{"a.service": {Memory: &n, CPUNS: &n}})
	h.Use(map[string]Figures{"a.service": {Memory: &n, CPUNS: &n}})
	h.Use(map[string]Figures{"nobody.service": {Memory: &n}})
	if len(told.deltas) != 1 || len(told.deltas[0].Units) != 1 || len(told.deltas[0].Events) != 0 {
		t.Errorf("told %+v", told.deltas)
	}
	o.StatusText = "job-1"
	o.Memory, o.CPUNS = &limit, &limit // of the last resync
	h.Observe(o)
	if u := h.Units()[0]; u.MemoryBytes == nil || *u.MemoryBytes != 5 || *u.CPUNS != 5 || *u.MemoryMaxBytes != 10 {
		t.Errorf("a status took the figures away: %+v", u)
	}
	h.Observe(in("failed/failed", "1"))
	if u := h.Units()[0]; u.MemoryBytes != nil || u.CPUNS != nil || *u.MemoryMaxBytes != 10 {
		t.Errorf("the dead has figures: %+v", u)
	}
}

func TestControlGroup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ group, slice, want string }{
		{"/x/a.service", "gpuherd.slice", "/x/a.service"},
		{"", "gpuherd.slice", "/gpuherd.slice/a.service"},
		{"", "gpuherd-big.slice", "/gpuherd.slice/gpuherd-big.slice/a.service"},
		{"", "-.slice", "/a.service"},
		{"", "", ""},
	} {
		o := Observation{Name: "a.service", ControlGroup: tt.group, Slice: tt.slice}
		if got := o.group(); got != tt.want {
			t.Errorf("group %q in %q is %q, want %q", tt.group, tt.slice, got, tt.want)
		}
	}
}

// The names are a promise to every reader of Redis.
func TestEventJSON(t *testing.T) {
	t.Parallel()
	gpu, n := 0, uint64(7)
	got, err := json.Marshal(&UnitEvent{Event: Failed, Unit: Unit{
		Name: "redis-worker@0.service", Service: "redis-worker", Instance: "0", GPU: &gpu, Active: "failed", Sub: "failed", Result: "oom-kill",
		PID: 12, Restarts: 3, InvocationID: "ab", SinceMS: 5, ExitCode: "killed", ExitStatus: 9, StatusText: "job-1", Job: "1",
		MemoryBytes: &n, MemoryPeakBytes: &n, MemoryMaxBytes: &n, CPUNS: &n, Seq: 8,
	}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"unit":"redis-worker@0.service","service":"redis-worker","instance":"0","gpu":0,"active":"failed","sub":"failed",` +
		`"result":"oom-kill","pid":12,"restarts":3,"invocation_id":"ab","since_ms":5,"exit_code":"killed","exit_status":9,"status_text":"job-1","job":"1",` +
		`"memory_bytes":7,"memory_peak_bytes":7,"memory_max_bytes":7,"cpu_ns":7,"seq":8,"event":"failed"}`
	if string(got) != want {
		t.Errorf("JSON is\n%s, want\n%s", got, want)
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]string{
		"job horse, attempt 1 of 3":                            "horse",
		"job horse, attempt 2 of 3: 40% (draining)":            "horse",
		"job horse, attempt 1 of 3 (Redis does not answer)":    "horse",
		"job a horse, of course, attempt 1 of 12":              "a horse, of course",
		"job x, attempt 1 of 2, attempt 1 of 3":                "", // whose id is it?
		"job " + strings.Repeat("ä", 128) + ", attempt 1 of 3": strings.Repeat("ä", 128),
		"job horse finished, but Redis does not answer":        "",
		"job horse, attempt one of 3":                          "",
		"job horse, attempt 1 of 3rd":                          "",
		"idle":                                                 "", "": "", "job ": "", "job , attempt 1 of 3": "",
		"jobs: 3": "", "the job horse, attempt 1 of 3": "",
	} {
		o := in("active/running", "1")
		o.StatusText = status
		if got := o.Unit().Job; got != want {
			t.Errorf("%q is about job %q, want %q", status, got, want)
		}
		o.MainPID = 0
		if got := o.Unit(); got.Job != "" || got.StatusText != status {
			t.Errorf("what has ended has job %q in hand and said %q", got.Job, got.StatusText)
		}
	}
}

func TestStatusTextIsBounded(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("ä", 40_000), "\xff\xfe", "short", strings.Repeat("x", maxStatusText)} {
		got := clip(text)
		if len(got) > maxStatusText || !utf8.ValidString(got) {
			t.Errorf("%d bytes became %d, valid %v", len(text), len(got), utf8.ValidString(got))
		}
	}
	if got := clip("short"); got != "short" {
		t.Errorf("short became %q", got)
	}
}

// The end of a main process is a hint with the unit as it was told last, and
// none once systemd has told more.
func TestEnded(t *testing.T) {
	t.Parallel()
	h, told := newHerd()
	h.Sync([]Observation{in("active/running", "1")}, "connected")
	told.deltas = nil
	h.Ended("a.service", 8, 5) // an earlier one
	h.Ended("b.service", 9, 5) // not of the herd
	h.Ended("a.service", 0, 5) // none
	if len(told.deltas) != 0 {
		t.Errorf("told %+v", told.deltas)
	}
	h.Ended("a.service", 9, 5)
	want := []Delta{{Hints: []Event{{AtUS: 5, Type: TypeExit, Data: &UnitEvent{Unit: h.Units()[0], Event: Exited}}}}}
	if diff := cmp.Diff(want, told.deltas); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if u := h.Units()[0]; u.PID != 9 || u.Active != "active" {
		t.Errorf("the unit is %+v, but systemd has told nothing", u)
	}
	told.deltas = nil
	h.Observe(in("failed/failed", "1"))
	h.Ended("a.service", 9, 5)
	if len(told.deltas) != 1 || len(told.deltas[0].Hints) != 0 {
		t.Errorf("systemd was faster, but told %+v", told.deltas)
	}
}
