package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/gpuhealth"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sources() Sources {
	gpu, celsius, percent, memory, cpu := 0, 41, 93, uint64(1<<20), uint64(2.5e9)
	return Sources{
		Version: "1.2.3",
		Units: func() []state.Unit {
			return []state.Unit{
				{Name: "redis-worker@0.service", Service: "redis-worker", Instance: "0", GPU: &gpu, Active: "active",
					Restarts: 3, MemoryBytes: &memory, MemoryPeakBytes: &memory, MemoryMaxBytes: &memory, CPUNS: &cpu},
				{Name: "hello-world.service", Service: "hello-world", Active: "failed"},
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
		Relay: func() relay.Stats { return relay.Stats{Connected: true, Epoch: 5, Pending: 4} },
	}
}

func TestMetricsKeepToTheConventions(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(NewMetrics(sources()).Gatherer())
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
gpuherd_unit_failed{gpu="",instance="",service="hello-world",unit="hello-world.service"} 1
gpuherd_unit_failed{gpu="0",instance="0",service="redis-worker",unit="redis-worker@0.service"} 0
# HELP gpuherd_unit_restarts_total Starts of the unit after the first in this boot.
# TYPE gpuherd_unit_restarts_total counter
gpuherd_unit_restarts_total{gpu="",instance="",service="hello-world",unit="hello-world.service"} 0
gpuherd_unit_restarts_total{gpu="0",instance="0",service="redis-worker",unit="redis-worker@0.service"} 3
# HELP gpuherd_unit_cpu_seconds_total CPU time that this invocation of the unit used.
# TYPE gpuherd_unit_cpu_seconds_total counter
gpuherd_unit_cpu_seconds_total{gpu="0",instance="0",service="redis-worker",unit="redis-worker@0.service"} 2.5
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
`
	err := testutil.GatherAndCompare(NewMetrics(sources()).Gatherer(), strings.NewReader(want),
		"gpuherd_unit_failed", "gpuherd_unit_restarts_total", "gpuherd_unit_cpu_seconds_total",
		"gpuherd_gpu_healthy", "gpuherd_gpu_temperature_celsius", "gpuherd_gpu_utilisation_ratio", "gpuherd_gpu_xid_errors_total",
		"gpuherd_bus_resyncs_total", "gpuherd_redis_connected", "gpuherd_monitor_epoch")
	if err != nil {
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
			w := httptest.NewRecorder()
			tc.server.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, tc.path, nil))
			if w.Code != tc.status {
				t.Errorf("status %d, want %d", w.Code, tc.status)
			}
			if diff := cmp.Diff(tc.body, w.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyLoopback(t *testing.T) {
	t.Parallel()
	for listen, served := range map[string]bool{
		"127.0.0.1:9720": true, "127.9.9.9:1": true, "[::1]:9720": true, "localhost:9720": true, "[::ffff:127.0.0.1]:80": true,
		"0.0.0.0:9720": false, ":9720": false, "[::]:9720": false, "10.0.0.1:9720": false, "example.org:80": false, "9720": false,
	} {
		if err := loopback(listen); (err == nil) != served {
			t.Errorf("%s: %v", listen, err)
		}
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
	s := &Server{
		Listen: address, Alive: func() error { return nil }, Metrics: NewMetrics(sources()).Handler(),
		Log: slog.New(slog.NewTextHandler(lines(said), nil)),
	}
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
