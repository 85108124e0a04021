package machinestatus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

func config() Config {
	return Config{
		ID: "gpu1", WorkerPrefix: "box", Hostname: "box.example", Version: "1.2.3", Self: "gpuherd-monitor.service",
		Uptime: func() time.Duration { return 90 * time.Second },
	}
}

// unit returns a unit in a state: "active/running", "inactive/dead". Its
// invocation is 1, and 0 means that it was never started.
func unit(name, in string, invocation int) state.Unit {
	active, sub, _ := strings.Cut(in, "/")
	u := state.Observation{Name: name, Active: active, Sub: sub, Result: "success"}.Unit()
	if invocation > 0 {
		u.InvocationID = fmt.Sprint(invocation)
		u.SinceMS = int64(invocation) * 1000
	}
	if active == "active" {
		u.PID = 9
	}
	if active == "failed" || strings.HasPrefix(sub, "auto-restart") {
		u.Result = "signal"
	}
	return u
}

const (
	setup = "shared-setup.service"
	w0    = "redis-worker@0.service"
	w1    = "redis-worker@1.service"
	hello = "hello-world.service"
	self  = "gpuherd-monitor.service"
)

func units(u ...state.Unit) state.Delta { return state.Delta{Units: u} }

func TestStart(t *testing.T) {
	t.Parallel()
	boot := units(unit(setup, "active/exited", 1), unit(self, "activating/start", 1), unit(w0, "inactive/dead", 0), unit(w1, "inactive/dead", 0))
	for _, tt := range []struct {
		name  string
		steps []state.Delta
		wait  time.Duration // before the last look
		want  string
		phase string
	}{
		{
			"all come up",
			[]state.Delta{boot, units(unit(w0, "activating/start", 1)), units(unit(w1, "active/running", 1)), units(unit(w0, "active/running", 1))},
			0, "startup_begin service_started_shared-setup service_started_redis-worker-gpu1 service_started_redis-worker-gpu0 startup_complete", phaseReady,
		},
		{
			"one fails and stays away",
			[]state.Delta{boot, units(unit(w0, "failed/failed", 1)), units(unit(w0, "activating/auto-restart", 1)), units(unit(w0, "failed/failed", 2)), units(unit(w1, "active/running", 1))},
			0, "startup_begin service_started_shared-setup service_failed_redis-worker-gpu0 service_started_redis-worker-gpu1 startup_complete", phaseReady,
		},
		{
			"none comes up, until one does",
			[]state.Delta{boot, units(unit(w0, "failed/failed", 1)), units(unit(w1, "failed/failed", 1)), units(unit(w1, "failed/failed", 2)), units(unit(w1, "active/running", 3))},
			0, "startup_begin service_started_shared-setup service_failed_redis-worker-gpu0 service_failed_redis-worker-gpu1 " +
				"startup_failed(redis-worker-gpu0 is errored (signal), redis-worker-gpu1 is errored (signal)) service_started_redis-worker-gpu1 startup_complete", phaseReady,
		},
		{
			"setup fails",
			[]state.Delta{units(unit(setup, "failed/failed", 1), unit(w0, "inactive/dead", 0))},
			quiet, "startup_begin service_failed_shared-setup startup_failed(redis-worker-gpu0 is stopped (success), shared-setup is errored (signal))", phaseStarting,
		},
		{
			"one that nobody starts",
			[]state.Delta{boot, units(unit(w0, "active/running", 1))},
			quiet - 1, "startup_begin service_started_shared-setup service_started_redis-worker-gpu0", phaseStarting,
		},
		{
			"one that nobody starts, after a while",
			[]state.Delta{boot, units(unit(w0, "active/running", 1))},
			quiet, "startup_begin service_started_shared-setup service_started_redis-worker-gpu0 startup_complete", phaseReady,
		},
		{
			"one that takes long",
			[]state.Delta{boot, units(unit(w0, "active/running", 1)), units(unit(w1, "activating/start", 1))},
			time.Hour, "startup_begin service_started_shared-setup service_started_redis-worker-gpu0", phaseStarting,
		},
		{"only the monitor was started", []state.Delta{units(unit(setup, "active/exited", 1), unit(w0, "active/running", 1), unit(w1, "failed/failed", 7), unit(hello, "inactive/dead", 3))}, 0, "", phaseReady},
		{"the same, while one comes up", []state.Delta{units(unit(w0, "active/running", 1), unit(w1, "activating/start", 7))}, 0, "", phaseReady},
		{"no GPU", []state.Delta{units(unit(setup, "active/exited", 1), unit(self, "activating/start", 1))}, 0, "", phaseReady},
		{"nothing is known", []state.Delta{{}, {GPUs: make([]state.GPU, 2), GPUsChanged: true}}, time.Hour, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(config())
			now := time.Unix(1_000_000, 0)
			for _, d := range tt.steps {
				now = now.Add(time.Second)
				m.apply(d, now)
			}
			m.progress(now.Add(tt.wait))
			var told []string
			for _, e := range m.waiting {
				what := e.EventType
				if what == startupStep {
					what = e.StepName
				}
				if e.Error != "" {
					what += "(" + e.Error + ")"
				}
				told = append(told, what)
				if e.MachineID != "gpu1" || e.MachineConfig.MachineID != "gpu1" || e.Timestamp == "" {
					t.Errorf("event %+v", e)
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(told, " ")); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if m.phase != tt.phase || m.ready != (tt.phase == phaseReady) {
				t.Errorf("phase %q, ready %v, want %q", m.phase, m.ready, tt.phase)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	m := newMachine(config())
	busy := unit(w0, "active/running", 1)
	busy.Job = "horse"
	d := units(busy, unit(w1, "activating/auto-restart", 2), unit("redis-worker@2:1.2.service", "inactive/dead", 0),
		unit("comfyui@0.service", "active/running", 1), unit(hello, "failed/failed", 1), unit(self, "active/running", 1))
	d.GPUs, d.GPUsChanged = make([]state.GPU, 3), true
	m.apply(d, time.UnixMilli(5000))
	got, err := json.MarshalIndent(m.status(updatePeriodic, time.UnixMilli(6000)), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
 "machine_id": "gpu1",
 "timestamp": 6000,
 "update_type": "periodic",
 "structure": {
  "gpu_count": 3,
  "workers": {
   "box-gpu0": {
    "worker_id": "box-gpu0",
    "pm2_name": "redis-worker-gpu0",
    "gpu_id": 0,
    "services": [
     "comfyui"
    ]
   },
   "box-gpu1": {
    "worker_id": "box-gpu1",
    "pm2_name": "redis-worker-gpu1",
    "gpu_id": 1,
    "services": []
   },
   "box-gpu2:1.2": {
    "worker_id": "box-gpu2:1.2",
    "pm2_name": "redis-worker-gpu2:1.2",
    "gpu_id": 2,
    "services": []
   }
  },
  "services": {
   "box-gpu0.comfyui": {
    "worker_id": "box-gpu0",
    "service_type": "comfyui",
    "pm2_name": "comfyui-gpu0"
   },
   "hello-world": {
    "service_type": "hello-world",
    "pm2_name": "hello-world"
   }
  }
 },
 "status": {
  "machine": {
   "phase": "starting",
   "uptime_ms": 90000
  },
  "workers": {
   "box-gpu0": {
    "is_connected": true,
    "status": "busy",
    "current_job_id": "horse",
    "last_activity": 1000
   },
   "box-gpu1": {
    "is_connected": false,
    "status": "offline",
    "current_job_id": null,
    "last_activity": 2000
   },
   "box-gpu2:1.2": {
    "is_connected": false,
    "status": "offline",
    "current_job_id": null,
    "last_activity": null
   }
  },
  "services": {
   "box-gpu0.comfyui": {
    "worker_id": "box-gpu0",
    "service_type": "comfyui",
    "pm2_name": "comfyui-gpu0",
    "status": "active",
    "health": "healthy",
    "pm2_status": "online"
   },
   "hello-world": {
    "service_type": "hello-world",
    "pm2_name": "hello-world",
    "status": "inactive",
    "health": "unhealthy",
    "pm2_status": "errored"
   }
  }
 }
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// What does not show in the status is no reason to publish it.
func TestWhatShows(t *testing.T) {
	t.Parallel()
	m := newMachine(config())
	base := unit(w0, "active/running", 1)
	base.StatusText, base.Job = "job a, attempt 1 of 3: 1%", "a"
	m.apply(units(base), time.UnixMilli(1))
	n := uint64(5)
	with := func(change func(*state.Unit)) state.Delta {
		u := m.units[w0].unit
		change(&u)
		return units(u)
	}
	gpu := state.GPU{UUID: "GPU-1", Health: "unknown"}
	hot := gpu
	hot.Temperature = new(int)
	for i, tt := range []struct {
		name string
		d    state.Delta
		want bool
	}{
		{"memory", with(func(u *state.Unit) { u.MemoryBytes = &n }), false},
		{"progress", with(func(u *state.Unit) { u.StatusText = "job a, attempt 1 of 3: 2%" }), false},
		{"another job", with(func(u *state.Unit) { u.Job = "b" }), true},
		{"idle", with(func(u *state.Unit) { u.StatusText, u.Job = "idle", "" }), true},
		{"restarted", with(func(u *state.Unit) { u.InvocationID = "2" }), true},
		{"failed", with(func(u *state.Unit) { u.Active = "failed" }), true},
		{"the monitor", units(unit(self, "active/running", 1)), false},
		{"a GPU", state.Delta{GPUs: []state.GPU{gpu}, GPUsChanged: true}, true},
		{"its temperature", state.Delta{GPUs: []state.GPU{hot}, GPUsChanged: true}, false},
		{"a new unit", units(unit(w1, "inactive/dead", 0)), true},
		{"all anew", state.Delta{Reset: true, Units: []state.Unit{unit(w1, "inactive/dead", 0)}, GPUs: []state.GPU{hot}}, true},
		{"the same", state.Delta{Reset: true, Units: []state.Unit{unit(w1, "inactive/dead", 0)}, GPUs: []state.GPU{hot}}, false},
		{"gone", state.Delta{Gone: []string{w1}}, true},
		{"gone twice", state.Delta{Gone: []string{w1}}, false},
	} {
		if got := m.apply(tt.d, time.UnixMilli(int64(100+i))); got != tt.want {
			t.Errorf("%s: shows is %v", tt.name, got)
		}
		if tt.name == "another job" {
			if w := m.status(updateEvent, time.Now()).Status.Workers["box-gpu0"]; w.LastActivity == nil || *w.LastActivity != int64(100+i) {
				t.Errorf("%s: worker is %+v", tt.name, w)
			}
		}
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"active/running": "online active healthy idle", "reloading/reload": "online active healthy idle",
		"activating/start": "launching inactive unknown initializing", "activating/auto-restart": "waiting restart inactive unhealthy offline",
		"deactivating/stop-sigterm": "stopping inactive unknown offline", "inactive/dead": "stopped inactive unknown offline",
		"failed/failed": "errored inactive unhealthy offline",
	} {
		u := unit(w0, in, 1)
		s := service(u, servicePlace{})
		if got := fmt.Sprintf("%s %s %s %s", s.PM2Status, s.Status, s.Health, worker(u, 0).Status); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	draining := unit(w0, "deactivating/stop-sigterm", 1)
	draining.Job = "a"
	if w := worker(draining, 0); w.Status != "busy" || *w.CurrentJobID != "a" {
		t.Errorf("draining: %+v", w)
	}
	draining.Job = ""
	if w := worker(draining, 0); w.Status != "offline" || w.CurrentJobID != nil {
		t.Errorf("drained: %+v", w)
	}
}

// A long outage of Redis costs the oldest events, not the memory.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	m := newMachine(config())
	for range maxWaiting + 5 {
		m.end(startupFailed, "x", time.Now())
	}
	if len(m.waiting) != maxWaiting || m.taken != 5 {
		t.Errorf("%d wait, %d are taken", len(m.waiting), m.taken)
	}
	m.take(4) // was dropped while it was published
	if len(m.waiting) != maxWaiting {
		t.Error("an event was taken in the place of another")
	}
	m.take(5)
	if len(m.waiting) != maxWaiting-1 {
		t.Error("the event still waits")
	}
}
