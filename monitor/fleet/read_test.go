package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// rights has those that a user of Redis needs.
const rights = "../../packaging/redis/gpuherd.rights"

// A monitor is the writing side of one host.
type monitor struct {
	client redis.UniversalClient
	cancel context.CancelFunc
	done   chan error
}

// start lets the monitor of host tell of a herd and of GPUs, and waits until
// Redis has it all.
func start(t *testing.T, d *redistest.Deployment, host string, gpus []state.GPU, herd ...state.Observation) *monitor {
	t.Helper()
	m := &monitor{client: d.Client(t), done: make(chan error, 1)}
	r := relay.New(m.client, slog.New(slog.DiscardHandler), relay.Config{
		Prefix: "gpuherd", Host: host, BootID: "boot-of-" + host, Epoch: 3, Version: "1.2.3",
		Alive: func() bool { return true }, Uptime: func() time.Duration { return time.Hour },
	})
	h := state.NewHerd(r.Push, time.Now)
	r.From(h)
	h.SetGPUs(gpus)
	h.Sync(herd, "connected")
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { m.done <- r.Run(ctx) }()
	t.Cleanup(m.stop)
	eventually(t, "Redis has "+host, func() bool {
		key := func(name string) string { return relay.Key("gpuherd", host, name) }
		c := d.Admin(t)
		return c.Exists(t.Context(), key("heartbeat")).Val() == 1 && c.HLen(t.Context(), key("units")).Val() == int64(len(herd)) &&
			c.ZScore(t.Context(), "gpuherd:hosts", host).Err() == nil
	})
	return m
}

// stop lets it go in good order.
func (m *monitor) stop() {
	if m.cancel != nil {
		m.cancel()
		<-m.done
		m.cancel = nil
	}
}

// die ends it without a farewell; the heartbeat goes as its time would take it.
func (m *monitor) die(t *testing.T, d *redistest.Deployment, host string) {
	t.Helper()
	_ = m.client.Close()
	m.stop()
	if n, err := d.Admin(t).Del(t.Context(), relay.Key("gpuherd", host, "heartbeat")).Result(); n != 1 || err != nil {
		t.Fatalf("there was no heartbeat of %s: %v", host, err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

func unit(name, active string, status string) state.Observation {
	return state.Observation{Name: name, Active: active, Sub: active, Result: "success", MainPID: 7, InvocationID: strings.Repeat("0", 32), StatusText: status, ChangedMonoUS: 1}
}

const hostile = "\x1b[2J{a}:<script>\u202e\n"

// A reader's user reads the fleet, a queue and the events: that, and nothing
// else.
func TestReadersRights(t *testing.T) {
	t.Parallel()
	d := redistest.ACL(t, redistest.Rights(t, "../../packaging/redis/reader.rights"))
	start(t, redistest.Alone(d.Servers[0]), "gpu1", nil, unit("redis-worker@0.service", "active", ""))
	c := d.Client(t)
	r := &Reader{Client: c, Prefix: "gpuherd"}
	l, err := r.List(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Read(t.Context(), l)
	if err != nil || f.Total.Alive != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	if r.AddQueue(t.Context(), &f, "gpu"); f.QueueError != "" {
		t.Error(f.QueueError)
	}
	key := func(name string) string { return relay.Key("gpuherd", "gpu1", name) }
	if events, err := c.XRead(t.Context(), &redis.XReadArgs{Streams: []string{key("events"), "0"}, Block: -1}).Result(); err != nil || len(events) != 1 {
		t.Errorf("%v, %v", events, err)
	}
	s := c.Subscribe(t.Context(), key("notify"))
	defer func() { _ = s.Close() }()
	if _, err := s.Receive(t.Context()); err != nil {
		t.Error(err)
	}
	for _, args := range [][]any{
		{"DEL", key("units")}, {"HSET", key("units"), "a", "b"}, {"XADD", key("events"), "*", "a", "b"}, {"PUBLISH", key("notify"), "a"},
		{"EVAL", "return redis.call('DEL', KEYS[1])", "1", key("units")}, {"GET", "another"}, {"KEYS", "*"},
	} {
		if err := c.Do(t.Context(), args...).Err(); err == nil || redisclient.Diagnose(err).Reason != redisclient.Forbidden {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// Three monitors in every form of Redis, with the rights that the manual asks
// for: one is well, one dies, one goes in good order.
func TestRead(t *testing.T) {
	t.Parallel()
	for _, form := range redistest.Forms(redistest.Rights(t, rights)) {
		t.Run(form.Name, func(t *testing.T) {
			t.Parallel()
			d := form.Start(t)
			start(t, d, "gpu2", []state.GPU{{Index: 0, Health: state.Healthy}, {Index: 1, Health: state.Unhealthy, Reasons: []string{"XID 79"}}},
				unit("redis-worker@0.service", "active", "job horse, attempt 1 of 3: 40%"), unit("redis-worker@1.service", "failed", ""))
			start(t, d, "gpu10", []state.GPU{{Index: 0, Health: state.Healthy}}, unit("redis-worker@0.service", "active", "")).die(t, d, "gpu10")
			start(t, d, hostile, nil, unit(hostile+".service", "failed", hostile)).stop()

			r := &Reader{Client: d.Client(t), Prefix: "gpuherd"}
			l, err := r.List(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			f, err := r.Read(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			want := []Host{
				{Host: hostile, State: Offline, Units: Units{Total: 1, Failed: 1}, Failed: []string{hostile + ".service"}},
				{
					Host: "gpu2", State: Alive, Version: "1.2.3", BootID: "boot-of-gpu2", Epoch: 3, Uptime: 3600, Jobs: 1,
					Units: Units{Total: 2, Active: 1, Failed: 1}, Failed: []string{"redis-worker@1.service"},
					GPUs: GPUs{Total: 2, Healthy: 1, Unhealthy: 1}, Unhealthy: []Ailing{{1, []string{"XID 79"}}},
				},
				{Host: "gpu10", State: Lost, Units: Units{Total: 1, Active: 1}, GPUs: GPUs{Total: 1, Healthy: 1}},
			}
			if diff := cmp.Diff(want, f.Hosts, cmpopts.IgnoreFields(Host{}, "SeenMS", "AgoMS")); diff != "" {
				t.Errorf("hosts (-want +got):\n%s", diff)
			}
			for _, h := range f.Hosts {
				if h.SeenMS <= 0 || h.AgoMS != max(0, f.AtMS-h.SeenMS) {
					t.Errorf("%q was seen at %d, %d ms before %d", h.Host, h.SeenMS, h.AgoMS, f.AtMS)
				}
			}
			if l, err := r.List(t.Context(), 1); err != nil || len(l.Hosts) != 1 || l.Omitted != 2 {
				t.Errorf("one of them is %+v, %v", l, err)
			}
		})
	}
}

// A host whose keys are of another type does not spoil the others; where none
// can be read that is an error with its mend.
func TestRefusals(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	d := redistest.Alone(srv)
	c := srv.Client(t)
	ctx := t.Context()
	start(t, d, "gpu1", nil, unit("a.service", "active", ""))
	set := func(key string) {
		if err := c.Set(ctx, key, "somebody's", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.ZAdd(ctx, "gpuherd:hosts", redis.Z{Score: 1, Member: "gpu2"}, redis.Z{Score: 2, Member: "gpu3"}, redis.Z{Score: 3, Member: "gpu4"})
	set("gpuherd:{gpu2}:units")
	set("gpuherd:{gpu3}:events")
	r := &Reader{Client: c, Prefix: "gpuherd"}
	read := func() (Fleet, error) {
		l, err := r.List(ctx, 0)
		if err != nil {
			return Fleet{}, err
		}
		return r.Read(ctx, l)
	}
	f, err := read()
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, h := range f.Hosts {
		states = append(states, h.Host+" "+h.State)
	}
	if diff := cmp.Diff([]string{"gpu1 alive", "gpu2 unread", "gpu3 unread", "gpu4 lost"}, states); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e := f.Hosts[1].Error; !strings.HasPrefix(e, "gpuherd:{gpu2}:units: WRONGTYPE ") || !strings.Contains(e, "somebody else's key") {
		t.Errorf("the error is %q", e)
	}

	if _, err := r.Read(ctx, List{Hosts: []Seen{{"gpu2", 1}}}); err == nil || redisclient.Diagnose(err).Reason != redisclient.WrongType {
		t.Errorf("of one that cannot be read: %v", err)
	}
	set("gpuherd:hosts")
	if _, err := read(); err == nil || redisclient.Diagnose(err).Reason != redisclient.WrongType || !strings.Contains(err.Error(), "list of hosts") {
		t.Errorf("without a list: %v", err)
	}
	srv.Kill()
	if _, err := read(); err == nil || redisclient.Diagnose(err).Reason != redisclient.Unreachable {
		t.Errorf("without Redis: %v", err)
	}
	if _, err := r.Read(ctx, List{Hosts: []Seen{{"gpu1", 1}}}); err == nil || redisclient.Diagnose(err).Reason != redisclient.Unreachable {
		t.Errorf("without Redis: %v", err)
	}
	if _, err := r.Queue(ctx, "gpu"); err == nil || redisclient.Diagnose(err).Reason != redisclient.Unreachable {
		t.Errorf("without Redis: %v", err)
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	c := redistest.Start(t).Client(t)
	r := &Reader{Client: c, Prefix: "gpuherd"}
	ctx := t.Context()
	if got, err := r.Queue(ctx, "gpu"); err != nil || got != (Queue{Name: "gpu", AtMS: got.AtMS}) || got.AtMS <= 0 {
		t.Errorf("an empty one is %+v, %v", got, err)
	}
	q, err := queue.New(c, "gpuherd", "gpu", queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := c.XAdd(ctx, &redis.XAddArgs{Stream: q.Key("jobs"), Values: []string{"id", id, "payload", "{}"}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if claim, err := q.Consumer("h/redis-worker@0").Claim(ctx); claim == nil || err != nil {
		t.Fatalf("no claim: %v", err)
	}
	if err := q.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := r.Queue(ctx, "gpu")
	want := Queue{Name: "gpu", AtMS: got.AtMS, Paused: true, Waiting: 2, Running: 1, OldestMS: got.OldestMS}
	if err != nil || got != want || got.OldestMS <= 0 || got.OldestMS > got.AtMS {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := r.Queue(ctx, "{"); err == nil {
		t.Error("a name with a brace was taken")
	}
}

// fill fills Redis with hosts of 8 units and GPUs, as their monitors would.
func fill(tb testing.TB, c redis.UniversalClient, hosts int) {
	tb.Helper()
	ctx := tb.Context()
	names := []string{"shared-setup.service", "gpuherd-monitor.service", "hello-world.service"}
	pipe := c.Pipeline()
	for i := range hosts {
		host := fmt.Sprintf("gpu%d", i)
		key := func(name string) string { return relay.Key("gpuherd", host, name) }
		var units, gpus []any
		for n := range 8 {
			name := fmt.Sprintf("redis-worker@%d.service", n)
			units = append(units, name, fmt.Sprintf(`{"unit":%q,"service":"redis-worker","instance":"%d","gpu":%d,"active":"active","sub":"running","result":"success","pid":4711,`+
				`"restarts":1,"invocation_id":"0123456789abcdef0123456789abcdef","since_ms":1732471234567,"exit_status":0,"status_text":"job horse-%d, attempt 1 of 3: 41%%",`+
				`"job":"horse-%d","memory_bytes":1234567890,"memory_peak_bytes":1334567890,"memory_max_bytes":2147483648,"cpu_ns":123456789012,"seq":17}`, name, n, n, n, n))
			gpus = append(gpus, n, fmt.Sprintf(`{"index":%d,"uuid":"GPU-01234567-89ab-cdef-0123-456789abcdef","name":"NVIDIA H100 80GB HBM3","pci":"00000000:17:00.0","minor":%d,`+
				`"numa":0,"memory":85899345920,"health":"healthy","temperature":41,"utilisation":93}`, n, n))
		}
		for _, name := range names {
			units = append(units, name, fmt.Sprintf(`{"unit":%q,"service":"x","active":"active","sub":"running","result":"success","pid":1,"restarts":0,"invocation_id":"","since_ms":1,"exit_status":0,"seq":1}`, name))
		}
		pipe.HSet(ctx, key("units"), units...)
		pipe.HSet(ctx, key("gpus"), gpus...)
		if i%10 != 9 { // else it is dead
			pipe.Set(ctx, key("heartbeat"), beat, time.Hour)
		}
		pipe.ZAdd(ctx, "gpuherd:hosts", redis.Z{Score: float64(i), Member: host})
		if pipe.Len() > 400 || i == hosts-1 {
			if _, err := pipe.Exec(ctx); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// A large fleet takes few round trips, and none that is long.
func TestManyHosts(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendonly", "no")
	fill(t, srv.Client(t), 300)
	c := srv.Client(t, redisclient.WithPoolSize(1))
	trips := &counter{}
	c.AddHook(trips)
	r := &Reader{Client: c, Prefix: "gpuherd"}
	l, err := r.List(t.Context(), 256)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Read(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if f.Total.Hosts != 256 || f.Omitted != 44 || f.Total.Lost != 26 || f.Total.Alive != 230 || f.Total.Units.Active != 230*11 || f.Total.Jobs != 230*8 {
		t.Errorf("%+v, %d omitted", f.Total, f.Omitted)
	}
	if slices.Max(trips.sizes) > 3*hostsAtOnce || len(trips.sizes) != 2*256/hostsAtOnce {
		t.Errorf("pipelines of %v", trips.sizes)
	}
}

// A counter notes how many commands each pipeline had.
type counter struct{ sizes []int }

func (*counter) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() != "hello" { // of a new connection
			c.sizes = append(c.sizes, len(cmds))
		}
		return next(ctx, cmds)
	}
}

func TestShared(t *testing.T) {
	t.Parallel()
	clock := time.Unix(0, 0)
	begun, answers := make(chan int, 10), make(chan error)
	n := 0
	s := NewShared(func(ctx context.Context) (int, error) {
		n++
		begun <- n
		select {
		case err := <-answers:
			return n, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
	s.now = func() time.Time { return clock }

	// Two who ask at once wait for one reading.
	type result struct {
		n   int
		err error
	}
	results := make(chan result)
	ask := func(ctx context.Context) {
		n, err := s.Get(ctx)
		results <- result{n, err}
	}
	for range 2 {
		go ask(t.Context())
	}
	<-begun
	answers <- nil
	for range 2 {
		if got := <-results; got != (result{1, nil}) {
			t.Errorf("got %+v", got)
		}
	}
	// It is fresh, then it is not.
	if got, err := s.Get(t.Context()); got != 1 || err != nil {
		t.Errorf("kept are %d, %v", got, err)
	}
	clock = clock.Add(minFresh)
	ctx, cancel := context.WithCancel(t.Context())
	go ask(ctx)
	<-begun
	cancel() // who asked goes, and the reading goes on
	if got := <-results; !errors.Is(got.err, context.Canceled) {
		t.Errorf("got %+v", got)
	}
	bad := errors.New("away")
	go ask(t.Context())
	answers <- bad
	if got := <-results; got.n != 2 || !errors.Is(got.err, bad) {
		t.Errorf("got %+v", got)
	}
	// An error is kept, too.
	if _, err := s.Get(t.Context()); !errors.Is(err, bad) {
		t.Errorf("kept is %v", err)
	}
	// A reading ends by itself.
	clock = clock.Add(minFresh)
	s.limit = time.Millisecond
	if _, err := s.Get(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a reading that does not end gave %v", err)
	}
}

// A reading that takes long is handed out for longer.
func TestSharedIsSeldom(t *testing.T) {
	t.Parallel()
	for took, fresh := range map[time.Duration]time.Duration{
		0: 2 * time.Second, 50 * time.Millisecond: 2 * time.Second, 500 * time.Millisecond: 10 * time.Second, 4 * time.Second: 15 * time.Second,
	} {
		clock := time.Unix(0, 0)
		n := 0
		s := NewShared(func(context.Context) (int, error) {
			n++
			clock = clock.Add(took)
			return n, nil
		})
		s.now = func() time.Time { return clock }
		get := func() int {
			got, err := s.Get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		if got := get(); got != 1 {
			t.Errorf("first %d", got)
		}
		clock = clock.Add(fresh - 1)
		if got := get(); got != 1 {
			t.Errorf("%v: read anew before %v", took, fresh)
		}
		clock = clock.Add(1)
		if got := get(); got != 2 {
			t.Errorf("%v: still kept after %v", took, fresh)
		}
	}
}

// BenchmarkRead reads a fleet of 2,000 hosts with 11 units and 8 GPUs each.
func BenchmarkRead(b *testing.B) {
	srv := redistest.Start(b, "--appendonly", "no")
	fill(b, srv.Client(b), 2000)
	r := &Reader{Client: srv.Client(b, redisclient.WithPoolSize(1)), Prefix: "gpuherd"}
	b.ReportAllocs()
	for b.Loop() {
		l, err := r.List(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		f, err := r.Read(b.Context(), l)
		if err != nil || f.Total.Hosts != 2000 || f.Total.Lost != 200 {
			b.Fatalf("%+v, %v", f.Total, err)
		}
	}
}
