package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/gpuhealth"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/resources"
	"gpuherd/monitor/state"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sources() Sources {
	gpu, celsius, percent, memory, cpu := 0, 41, 93, uint64(1<<20), uint64(2.5e9)
	n := func(v uint64) *uint64 { return &v }
	return Sources{
		Version: "1.2.3",
		Units: func() []state.Unit {
			return []state.Unit{
				{Name: "redis-worker@0.service", Service: "redis-worker", Instance: "0", GPU: &gpu, Active: "active",
					Restarts: 3, MemoryBytes: &memory, MemoryPeakBytes: &memory, MemoryMaxBytes: &memory, CPUNS: &cpu},
				{Name: "hello-world.service", Service: "hello-world", Active: "failed"},
				{Name: "new.service", Service: "new", Active: "inactive"},
			}
		},
		GPUs: func() []state.GPU {
			return []state.GPU{
				{Index: 0, UUID: "GPU-a", Health: state.Healthy, Temperature: &celsius, Utilisation: &percent},
				{Index: 1, UUID: "GPU-b", Health: state.Unhealthy, Temperature: &celsius},
				{Index: 2, UUID: "GPU-c", Health: state.HealthUnknown},
			}
		},
		XIDs: func() []gpuhealth.XIDErrors {
			return []gpuhealth.XIDErrors{{GPU: 1, UUID: "GPU-b", XID: 31, Count: 12}, {GPU: 1, UUID: "GPU-b", XID: 79, Count: 1}}
		},
		Bus: func() bus.Stats {
			return bus.Stats{Signals: 7, Resyncs: map[string]uint64{bus.ReasonConnected: 1, bus.ReasonReload: 2}}
		},
		Relay: func() relay.Stats {
			return relay.Stats{Connected: true, Epoch: 5, Pending: 4, Errors: map[string]uint64{"timeout": 2}}
		},
		Samples: func() map[string]resources.Sample {
			return map[string]resources.Sample{
				"hello-world.service": {Err: fmt.Errorf("%w: gone", resources.ErrNotAvailable)},
				"redis-worker@0.service": {Usage: resources.Usage{
					Version: resources.V2, Tasks: n(7), OOMKills: n(1), LimitHits: n(17),
					Pressure: resources.Pressure{Memory: &resources.Stalls{Some: resources.Stall{Avg10: 1.5, TotalUS: 2_500_000}, Full: resources.Stall{TotalUS: 500_000}}},
				}},
			}
		},
		Feed: func() FeedStats { return FeedStats{Clients: 2, Evicted: 1} },
	}
}

func TestMetricsKeepToTheConventions(t *testing.T) {
	t.Parallel()
	m := NewMetrics(sources())
	m.Push(state.Delta{Units: sources().Units()})
	problems, err := testutil.GatherAndLint(m.Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	want := `
# HELP gpuherd_unit_failed 1 while the unit has failed, else 0.
# TYPE gpuherd_unit_failed gauge
gpuherd_unit_failed{gpu="",service="hello-world",unit="hello-world.service"} 1
gpuherd_unit_failed{gpu="",service="new",unit="new.service"} 0
gpuherd_unit_failed{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 0
# HELP gpuherd_unit_restarts_total Starts of the unit after the first in this boot.
# TYPE gpuherd_unit_restarts_total counter
gpuherd_unit_restarts_total{gpu="",service="hello-world",unit="hello-world.service"} 0
gpuherd_unit_restarts_total{gpu="",service="new",unit="new.service"} 0
gpuherd_unit_restarts_total{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 3
# HELP gpuherd_unit_cpu_seconds_total CPU time that this invocation of the unit used.
# TYPE gpuherd_unit_cpu_seconds_total counter
gpuherd_unit_cpu_seconds_total{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 2.5
# HELP gpuherd_gpu_healthy 1 while the GPU is healthy, 0 while it is unhealthy; absent while that is not known.
# TYPE gpuherd_gpu_healthy gauge
gpuherd_gpu_healthy{gpu="0",uuid="GPU-a"} 1
gpuherd_gpu_healthy{gpu="1",uuid="GPU-b"} 0
# HELP gpuherd_gpu_temperature_celsius Temperature of the GPU.
# TYPE gpuherd_gpu_temperature_celsius gauge
gpuherd_gpu_temperature_celsius{gpu="0",uuid="GPU-a"} 41
gpuherd_gpu_temperature_celsius{gpu="1",uuid="GPU-b"} 41
# HELP gpuherd_gpu_utilisation_ratio Part of the last moments, 0 to 1, in which something ran on the GPU.
# TYPE gpuherd_gpu_utilisation_ratio gauge
gpuherd_gpu_utilisation_ratio{gpu="0",uuid="GPU-a"} 0.93
# HELP gpuherd_gpu_xid_errors_total XID errors of the GPU since the monitor started, those of applications included.
# TYPE gpuherd_gpu_xid_errors_total counter
gpuherd_gpu_xid_errors_total{gpu="1",uuid="GPU-b",xid="31"} 12
gpuherd_gpu_xid_errors_total{gpu="1",uuid="GPU-b",xid="79"} 1
# HELP gpuherd_bus_resyncs_total Readings of the whole herd, by reason.
# TYPE gpuherd_bus_resyncs_total counter
gpuherd_bus_resyncs_total{reason="connected"} 1
gpuherd_bus_resyncs_total{reason="reload"} 2
# HELP gpuherd_redis_connected 1 while Redis takes what is written, else 0.
# TYPE gpuherd_redis_connected gauge
gpuherd_redis_connected 1
# HELP gpuherd_monitor_epoch Count of the monitor's starts.
# TYPE gpuherd_monitor_epoch gauge
gpuherd_monitor_epoch 5
# HELP gpuherd_unit_resources_available 1 if the unit's control group could be read when it was looked at last, else 0.
# TYPE gpuherd_unit_resources_available gauge
gpuherd_unit_resources_available{gpu="",service="hello-world",unit="hello-world.service"} 0
gpuherd_unit_resources_available{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 1
# HELP gpuherd_unit_tasks Processes and threads in the unit's control group (pids.current).
# TYPE gpuherd_unit_tasks gauge
gpuherd_unit_tasks{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 7
# HELP gpuherd_unit_oom_kills_total Processes of this invocation of the unit that the kernel killed for want of memory.
# TYPE gpuherd_unit_oom_kills_total counter
gpuherd_unit_oom_kills_total{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 1
# HELP gpuherd_unit_memory_limit_hits_total Times that this invocation of the unit was held at its memory limit.
# TYPE gpuherd_unit_memory_limit_hits_total counter
gpuherd_unit_memory_limit_hits_total{gpu="0",service="redis-worker",unit="redis-worker@0.service"} 17
# HELP gpuherd_unit_pressure_stalled_seconds_total Time that tasks of this invocation of the unit waited for a resource: some, or full where all did.
# TYPE gpuherd_unit_pressure_stalled_seconds_total counter
gpuherd_unit_pressure_stalled_seconds_total{gpu="0",level="full",resource="memory",service="redis-worker",unit="redis-worker@0.service"} 0.5
gpuherd_unit_pressure_stalled_seconds_total{gpu="0",level="some",resource="memory",service="redis-worker",unit="redis-worker@0.service"} 2.5
# HELP gpuherd_http_event_clients Clients that follow /api/v1/events.
# TYPE gpuherd_http_event_clients gauge
gpuherd_http_event_clients 2
# HELP gpuherd_http_event_clients_evicted_total Clients of /api/v1/events that were sent away since they did not keep up.
# TYPE gpuherd_http_event_clients_evicted_total counter
gpuherd_http_event_clients_evicted_total 1
`
	err := testutil.GatherAndCompare(NewMetrics(sources()).Gatherer(), strings.NewReader(want),
		"gpuherd_unit_failed", "gpuherd_unit_restarts_total", "gpuherd_unit_cpu_seconds_total",
		"gpuherd_gpu_healthy", "gpuherd_gpu_temperature_celsius", "gpuherd_gpu_utilisation_ratio", "gpuherd_gpu_xid_errors_total",
		"gpuherd_bus_resyncs_total", "gpuherd_redis_connected", "gpuherd_monitor_epoch",
		"gpuherd_unit_resources_available", "gpuherd_unit_tasks", "gpuherd_unit_oom_kills_total", "gpuherd_unit_memory_limit_hits_total",
		"gpuherd_unit_pressure_stalled_seconds_total", "gpuherd_http_event_clients", "gpuherd_http_event_clients_evicted_total")
	if err != nil {
		t.Error(err)
	}
}

func TestFailuresAreCounted(t *testing.T) {
	t.Parallel()
	m := NewMetrics(sources())
	failed := func(result string) state.Event {
		return state.Event{Type: state.TypeUnit, Data: &state.UnitEvent{Unit: state.Unit{Name: "a", Result: result}, Event: state.Failed}}
	}
	m.Push(state.Delta{Units: []state.Unit{{Name: "a"}, {Name: "b"}}})
	m.Push(state.Delta{Events: []state.Event{failed("oom-kill"), {Type: state.TypeUnit, Data: &state.UnitEvent{Unit: state.Unit{Name: "a"}, Event: state.Running}}, failed("oom-kill")}})
	m.Push(state.Delta{Events: []state.Event{failed("core-dump")}, Gone: []string{"b"}})
	want := `
# HELP gpuherd_unit_failures_total Times that the unit failed since the monitor started, by systemd's result: exit-code, signal, oom-kill, watchdog, …
# TYPE gpuherd_unit_failures_total counter
gpuherd_unit_failures_total{gpu="",result="core-dump",service="",unit="a"} 1
gpuherd_unit_failures_total{gpu="",result="exit-code",service="",unit="a"} 0
gpuherd_unit_failures_total{gpu="",result="oom-kill",service="",unit="a"} 2
gpuherd_unit_failures_total{gpu="",result="signal",service="",unit="a"} 0
gpuherd_unit_failures_total{gpu="",result="watchdog",service="",unit="a"} 0
`
	if err := testutil.GatherAndCompare(m.Gatherer(), strings.NewReader(want), "gpuherd_unit_failures_total"); err != nil {
		t.Error(err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	ok := func() error { return nil }
	bad := func() error { return errors.New("connection refused") }
	for _, tc := range []struct {
		name, path string
		server     Server
		status     int
		body       string
	}{
		{"alive", "/healthz", Server{Alive: ok}, 200, "loop: ok\n"},
		{"stuck", "/healthz", Server{Alive: func() error { return errors.New("no progress for 1m") }}, 503, "loop: no progress for 1m\n"},
		{"ready", "/readyz", Server{Checks: []Check{{"bus", ok}, {"redis", ok}}}, 200, "bus: ok\nredis: ok\n"},
		{"no Redis", "/readyz", Server{Checks: []Check{{"bus", ok}, {"redis", bad}}}, 503, "bus: ok\nredis: connection refused\n"},
		{"alive without Redis", "/healthz", Server{Alive: ok, Checks: []Check{{"redis", bad}}}, 200, "loop: ok\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.server.Metrics = http.NotFoundHandler()
			w := get(t, &tc.server, http.MethodGet, tc.path, nil)
			if w.Code != tc.status {
				t.Errorf("status %d, want %d", w.Code, tc.status)
			}
			if diff := cmp.Diff(tc.body, w.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

// An address that somebody else has costs nothing but HTTP, and not for ever.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	var conf net.ListenConfig
	other, err := conf.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := other.Addr().String()
	said := make(chan string, 10)
	s := server()
	s.Listen, s.Log = address, slog.New(slog.NewTextHandler(lines(said), nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	next := func(want string) {
		t.Helper()
		select {
		case line := <-said:
			if !strings.Contains(line, want) {
				t.Fatalf("logged %q, want %q", line, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("waited in vain for %q", want)
		}
	}
	next("trying again")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	next("serving HTTP")

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"/healthz": "loop: ok", "/metrics": "gpuherd_monitor_epoch 5"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v: %s", path, err, body)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// lines sends each line of a log to a channel.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}
