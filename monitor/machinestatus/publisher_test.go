package machinestatus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fleet is what a reader of the channels makes of them. It is written from
// the description of the form alone: it knows JSON, and nothing of this
// package's types.
type fleet struct {
	t      *testing.T
	sub    *redis.PubSub
	phase  map[string]string            // of each machine
	worker map[string]map[string]string // status of its workers; a job stands behind it
	online map[string]bool              // services that are active
	heard  []string                     // kinds of messages, in order
}

func listen(t *testing.T, client redis.UniversalClient) *fleet {
	t.Helper()
	sub := client.PSubscribe(t.Context(), "machine:status:*")
	t.Cleanup(func() { _ = sub.Close() })
	if err := sub.Subscribe(t.Context(), "machine:startup:events"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return &fleet{t: t, sub: sub, phase: map[string]string{}, worker: map[string]map[string]string{}, online: map[string]bool{}}
}

// field walks down objects.
func (f *fleet) field(v any, path ...string) any {
	f.t.Helper()
	for _, p := range path {
		object, ok := v.(map[string]any)
		if !ok {
			f.t.Fatalf("no object around %s in %v", p, path)
		}
		if v, ok = object[p]; !ok {
			f.t.Fatalf("there is no %s of %v in %v", p, path, object)
		}
	}
	return v
}

// until reads messages until ok.
func (f *fleet) until(what string, ok func() bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		m, err := f.sub.ReceiveMessage(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			f.t.Fatalf("it does not come about that %s; heard %q", what, f.heard)
		}
		if err != nil { // Redis is away
			time.Sleep(time.Millisecond)
			continue
		}
		f.take(m)
	}
}

func (f *fleet) take(m *redis.Message) {
	f.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(m.Payload), &v); err != nil {
		f.t.Fatalf("%s: %q: %v", m.Channel, m.Payload, err)
	}
	id := f.field(v, "machine_id").(string)
	if m.Channel == "machine:startup:events" {
		kind := f.field(v, "event_type").(string)
		switch kind {
		case "startup_begin":
			f.phase[id] = "starting"
		case "startup_step":
			kind = f.field(v, "step_name").(string)
		case "startup_failed", "shutdown":
			f.phase[id] = "offline"
		}
		if _, err := time.Parse(time.RFC3339, f.field(v, "timestamp").(string)); err != nil {
			f.t.Error(err)
		}
		f.heard = append(f.heard, kind)
		return
	}
	if m.Channel != "machine:status:"+id {
		f.t.Errorf("the machine %s is told of on %s", id, m.Channel)
	}
	f.heard = append(f.heard, f.field(v, "update_type").(string))
	f.field(v, "structure", "gpu_count")
	f.field(v, "status", "machine", "uptime_ms")
	f.phase[id] = f.field(v, "status", "machine", "phase").(string)
	f.worker[id] = map[string]string{}
	for name := range f.field(v, "structure", "workers").(map[string]any) {
		w := f.field(v, "status", "workers", name)
		f.field(w, "last_activity")
		f.worker[id][name] = f.field(w, "status").(string)
		if job, ok := f.field(w, "current_job_id").(string); ok {
			f.worker[id][name] += " " + job
		}
	}
	clear(f.online)
	for name := range f.field(v, "structure", "services").(map[string]any) {
		f.online[name] = f.field(v, "status", "services", name, "status") == "active"
	}
}

func (f *fleet) hears(kind string) {
	f.t.Helper()
	f.until("it hears "+kind, func() bool { return len(f.heard) > 0 && f.heard[len(f.heard)-1] == kind })
}

// A log takes lines of a logger.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), what)
}

// A scene is a herd, its publisher and a reader.
type scene struct {
	*fleet
	herd  *state.Herd
	pub   *Publisher
	redis *redistest.Server
	log   *log
	stop  func()
	at    uint64
}

func play(t *testing.T, every time.Duration) *scene {
	t.Helper()
	srv := redistest.Start(t)
	s := &scene{redis: srv, log: &log{}}
	s.fleet = listen(t, srv.Client(t))
	s.pub = New(srv.Client(t), slog.New(slog.NewTextHandler(s.log, nil)), config())
	s.pub.every = every
	s.herd = state.NewHerd(s.pub.Push, time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.pub.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// see has systemd tell that a unit is in a state.
func (s *scene) see(name, in string, invocation int) state.Observation {
	s.at++
	active, sub, _ := strings.Cut(in, "/")
	o := state.Observation{Name: name, Active: active, Sub: sub, Result: "success", ChangedMonoUS: s.at, ChangedUS: uint64(time.Now().UnixMicro())}
	if invocation > 0 {
		o.InvocationID = fmt.Sprint(invocation)
	}
	if active == "active" {
		o.MainPID = 9
	}
	if active == "failed" {
		o.Result = "signal"
	}
	return o
}

func TestLife(t *testing.T) {
	t.Parallel()
	s := play(t, time.Hour)
	// Boot.
	s.herd.Sync([]state.Observation{s.see(setup, "active/exited", 1), s.see(self, "activating/start", 1), s.see(w0, "inactive/dead", 0),
		s.see("comfyui@0.service", "inactive/dead", 0)}, "connected")
	s.until("the reader knows the machine", func() bool { return s.worker["gpu1"]["box-gpu0"] == "offline" && s.phase["gpu1"] == "starting" })
	s.herd.Observe(s.see(w0, "activating/start", 2))
	s.until("the worker starts", func() bool { return s.worker["gpu1"]["box-gpu0"] == "initializing" })
	s.herd.Observe(s.see("comfyui@0.service", "active/running", 3))
	s.herd.Observe(s.see(w0, "active/running", 2))
	s.hears("machine_ready")
	if s.phase["gpu1"] != "ready" || s.worker["gpu1"]["box-gpu0"] != "idle" || !s.online["box-gpu0.comfyui"] {
		t.Errorf("ready: %v %v %v", s.phase, s.worker, s.online)
	}
	var story []string
	for _, kind := range s.heard {
		if kind != "event_driven" {
			story = append(story, kind)
		}
	}
	if got, want := strings.Join(story, " "), "startup_begin service_started_shared-setup service_started_comfyui-gpu0 service_started_redis-worker-gpu0 startup_complete machine_ready"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}

	// A job, a crash, and the next start: nothing of it had to be polled.
	o := s.see(w0, "active/running", 2)
	o.StatusText = "job horse, attempt 1 of 3: 10%"
	s.herd.Observe(o)
	s.until("the job shows", func() bool { return s.worker["gpu1"]["box-gpu0"] == "busy horse" })
	s.herd.Observe(s.see(w0, "failed/failed", 2))
	s.until("the crash shows", func() bool { return s.worker["gpu1"]["box-gpu0"] == "offline" })
	s.herd.Observe(s.see(w0, "active/running", 4))
	s.until("the worker is back", func() bool { return s.worker["gpu1"]["box-gpu0"] == "idle" })
	if healthy, _, _ := s.pub.Health(); !healthy {
		t.Error("it is not healthy")
	}

	// The monitor alone is started again: the machine does not go.
	heard := len(s.heard)
	s.stop()
	again := New(s.redis.Client(t), slog.New(slog.DiscardHandler), config())
	herd := state.NewHerd(again.Push, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- again.Run(ctx) }()
	herd.Sync([]state.Observation{s.see(setup, "active/exited", 1), s.see(w0, "active/running", 4)}, "connected")
	s.hears("machine_ready")
	if got := s.heard[heard:]; len(got) != 1 {
		t.Errorf("heard %q of a monitor that was started again", got)
	}

	// The machine goes.
	herd.Observe(s.see(w0, "deactivating/stop-sigterm", 4))
	herd.Observe(s.see(w0, "inactive/dead", 4))
	s.until("the worker is stopped", func() bool { return s.worker["gpu1"]["box-gpu0"] == "offline" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.until("the machine goes", func() bool { return s.phase["gpu1"] == "shutdown" })
	if n := len(s.heard); s.heard[n-1] != "shutdown" || s.heard[n-2] != "shutdown" {
		t.Errorf("last it heard %q", s.heard[n-2:])
	}
}

func TestPeriodic(t *testing.T) {
	t.Parallel()
	s := play(t, 10*time.Millisecond)
	s.herd.Sync([]state.Observation{s.see(w0, "active/running", 1)}, "connected")
	s.until("it hears three", func() bool { return strings.Count(strings.Join(s.heard, " "), "periodic") == 3 })
	if s.heard[0] != "machine_ready" {
		t.Errorf("first it heard %s", s.heard[0])
	}
}

// A crash loop does not flood the readers, and its end shows.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	s := play(t, time.Hour)
	s.herd.Sync([]state.Observation{s.see(w0, "active/running", 1)}, "connected")
	s.hears("machine_ready")
	began := time.Now()
	for i := range 2000 {
		s.herd.Observe(s.see(w0, "failed/failed", 2*i+1))
		s.herd.Observe(s.see(w0, "active/running", 2*i+3))
	}
	s.herd.Observe(s.see(w0, "failed/failed", 10000))
	s.until("the end shows", func() bool { return s.worker["gpu1"]["box-gpu0"] == "offline" })
	if most := int(time.Since(began)/pause) + 2; len(s.heard) > most {
		t.Errorf("it heard %d messages, want at most %d", len(s.heard), most)
	}
}

// While Redis is away nothing is lost but what has changed since; why is told
// once, and over HTTP.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	s := play(t, 20*time.Millisecond)
	s.redis.Kill()
	s.herd.Sync([]state.Observation{s.see(setup, "active/exited", 1), s.see(w0, "inactive/dead", 0)}, "connected")
	s.herd.Observe(s.see(w0, "active/running", 2))
	for s.log.count("is not published") == 0 {
		time.Sleep(time.Millisecond)
	}
	healthy, _, full := s.pub.Health()
	if data, err := json.Marshal(full); healthy || err != nil || !strings.Contains(string(data), "cannot publish on machine:startup:events") {
		t.Errorf("healthy %v: %s %v", healthy, data, err)
	}
	if ready, _ := s.pub.Ready(); !ready {
		t.Error("the machine is ready, Redis or not")
	}
	s.redis.Restart()
	for s.log.count("publishing the machine's status") == 0 {
		time.Sleep(time.Millisecond)
	}
	s.herd.Observe(s.see(w0, "failed/failed", 2))
	s.until("the reader knows", func() bool { return s.worker["gpu1"]["box-gpu0"] == "offline" && s.phase["gpu1"] == "ready" })
	if n := s.log.count("is not published"); n > 3 {
		t.Errorf("it was logged %d times", n)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	p := New(nil, slog.New(slog.DiscardHandler), config())
	look := func(want string) {
		t.Helper()
		healthy, brief, full := p.Health()
		ready, body := p.Ready()
		var got []string
		for _, v := range []any{healthy, brief, full, ready, body, p.Status()} {
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(data))
		}
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("got\n%s\nwant\n%s", text, want)
		}
	}
	p.problem = nil
	look(`false
{"healthy":false,"uptime":90000}
{"healthy":false,"services":{"status-aggregator":{"healthy":true}},"uptime":90000}
false
{"ready":false}
{"machine_id":"gpu1","version":"1.2.3","phase":"","uptime":90000,"services":{}}`)
	p.Push(units(unit(w0, "active/running", 1)))
	look(`true
{"healthy":true,"uptime":90000}
{"healthy":true,"services":{"redis-worker-gpu0":{"healthy":true,"status":"online","pid":9},"status-aggregator":{"healthy":true}},"uptime":90000}
true
{"ready":true}
{"machine_id":"gpu1","version":"1.2.3","phase":"ready","uptime":90000,"services":{"redis-worker-gpu0":{"healthy":true,"status":"online","pid":9}}}`)
	p.Push(units(unit(w1, "failed/failed", 1)))
	p.problem = errors.New("away")
	look(`false
{"healthy":false,"uptime":90000}
{"healthy":false,"services":{"redis-worker-gpu0":{"healthy":true,"status":"online","pid":9},"redis-worker-gpu1":{"healthy":false,"status":"errored"},"status-aggregator":{"healthy":false,"error":"away"}},"uptime":90000}
true
{"ready":true}
{"machine_id":"gpu1","version":"1.2.3","phase":"ready","uptime":90000,"services":{"redis-worker-gpu0":{"healthy":true,"status":"online","pid":9},"redis-worker-gpu1":{"healthy":false,"status":"errored"}}}`)
}
