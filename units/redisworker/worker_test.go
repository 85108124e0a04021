package redisworker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

// A script is an Executor whose jobs are functions.
type script func(ctx context.Context, a Attempt, progress func(string)) Outcome

func (s script) Check(context.Context) error { return nil }

func (s script) Run(ctx context.Context, a Attempt, progress func(string)) Outcome {
	return s(ctx, a, progress)
}

type fixture struct {
	t     *testing.T
	ctx   context.Context
	srv   *redistest.Server
	redis redis.UniversalClient
	queue *queue.Queue
}

func setup(t *testing.T, opts queue.Options) *fixture {
	t.Helper()
	srv := redistest.Start(t)
	f := &fixture{t: t, srv: srv, redis: srv.Client(t)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	f.ctx = ctx
	var err error
	if f.queue, err = queue.New(f.redis, "gpuherd", "gpu", opts); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) add(id string) {
	f.t.Helper()
	if _, err := f.queue.Enqueue(f.ctx, queue.Job{ID: id}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) until(what string, ok func() bool) {
	f.t.Helper()
	for !ok() {
		if f.ctx.Err() != nil {
			f.t.Fatalf("it did not come to this: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (f *fixture) record(id string) queue.Record {
	f.t.Helper()
	r, _, err := f.queue.Get(f.ctx, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// start runs a worker; stop drains it and returns what Run did.
func (f *fixture) start(o Options) (log *lines, stop func() error) {
	f.t.Helper()
	log = &lines{}
	client := f.srv.Client(f.t)
	q, err := queue.New(client, "gpuherd", "gpu", queue.Options{Lease: f.queue.Lease(), Block: 50 * time.Millisecond})
	if err != nil {
		f.t.Fatal(err)
	}
	if o.Queue == nil {
		o.Queue = q
	}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	o.Ping = func(ctx context.Context) error { return client.Ping(ctx).Err() }
	drain, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- New(o).Run(f.ctx, drain) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		close(drain)
		return <-ended
	}
	f.t.Cleanup(func() { stop() })
	return log, stop
}

func TestLostLeaseEndsTheJobAndWritesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Lease: 600 * time.Millisecond, Block: 50 * time.Millisecond})
	f.add("j")
	causes := make(chan error, 1)
	begun := make(chan struct{})
	log, stop := f.start(Options{Consumer: "a", Executor: script(func(ctx context.Context, _ Attempt, _ func(string)) Outcome {
		close(begun)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return Outcome{Verdict: Stopped}
	})})
	<-begun
	// A second worker of the same name, which no configuration should make.
	c, err := f.queue.Consumer("a").Claim(f.ctx)
	if err != nil || c == nil {
		t.Fatalf("claim: %v, %v", c, err)
	}
	if cause := <-causes; !errors.Is(cause, ErrNow) {
		t.Errorf("cause %v", cause)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if r := f.record("j"); r.State != queue.Running || r.Attempts != 2 {
		t.Errorf("record %+v", r)
	}
	if err := c.Finish(f.ctx, []byte("second")); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "lease is lost") {
		t.Errorf("log says nothing of it:\n%s", log)
	}
}

func TestLeaseIsRenewedWithProgress(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Lease: 300 * time.Millisecond, Block: 50 * time.Millisecond})
	f.add("j")
	end := make(chan struct{})
	_, stop := f.start(Options{Consumer: "a", Executor: script(func(_ context.Context, _ Attempt, progress func(string)) Outcome {
		progress("50")
		<-end
		return Outcome{Result: []byte("r")}
	})})
	f.until("progress", func() bool { return f.record("j").Progress == "50" })
	other := f.queue.Consumer("b")
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		if c, err := other.Claim(f.ctx); err != nil || c != nil {
			t.Fatalf("another claimed it: %v, %v", c, err)
		}
	}
	close(end)
	f.until("result", func() bool { return f.record("j").Result == "r" })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestProgressIsInRedisBeforeARenewalIsDue: who waits for a job sees it at once.
func TestProgressIsInRedisBeforeARenewalIsDue(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: 50 * time.Millisecond})
	f.add("j")
	begun, end := make(chan time.Time, 1), make(chan struct{})
	_, stop := f.start(Options{Consumer: "a", Executor: script(func(_ context.Context, _ Attempt, progress func(string)) Outcome {
		begun <- time.Now()
		progress("50")
		<-end
		return Outcome{Result: []byte("r")}
	})})
	f.until("progress", func() bool { return f.record("j").Progress == "50" })
	if took, due := time.Since(<-begun), f.queue.Lease()/6; took >= due {
		t.Errorf("it took %v, and a renewal is due after %v", took, due)
	}
	close(end)
	f.until("result", func() bool { return f.record("j").Result == "r" })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestOutageLongerThanTheLease: as Redis comes back its clock says that the
// lease ran out, but nobody else took the job, so it is still the worker's.
func TestOutageLongerThanTheLease(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Lease: 300 * time.Millisecond, Block: 50 * time.Millisecond})
	f.add("j")
	begun, end := make(chan struct{}), make(chan struct{})
	var log *lines
	log, stop := f.start(Options{Consumer: "a", Executor: script(func(ctx context.Context, _ Attempt, _ func(string)) Outcome {
		close(begun)
		select {
		case <-end:
			return Outcome{Result: []byte("r")}
		case <-ctx.Done():
			return Outcome{Verdict: Stopped}
		}
	})})
	<-begun
	f.srv.Kill()
	f.until("a failed renewal", func() bool { return strings.Contains(log.String(), "cannot renew the lease") })
	time.Sleep(2 * f.queue.Lease()) // the lease runs out
	f.srv.Restart()
	f.until("renewal", func() bool { return strings.Contains(log.String(), "the lease still holds") })
	close(end)
	f.until("result", func() bool { return f.record("j").Result == "r" })
	if r := f.record("j"); r.Attempts != 1 {
		t.Errorf("record %+v", r)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	for _, id := range []string{"succeeds", "fails", "cannot"} {
		f.add(id)
	}
	_, stop := f.start(Options{Consumer: "a", Executor: script(func(_ context.Context, a Attempt, _ func(string)) Outcome {
		switch a.ID {
		case "fails":
			return Outcome{Verdict: Failed, Error: fmt.Sprint("no ", a.Number), Stderr: "e"}
		case "cannot":
			return Outcome{Verdict: Permanent, Error: "never", Stderr: "e"}
		}
		return Outcome{Result: []byte("r")}
	})})
	for id, want := range map[string]queue.Record{
		"succeeds": {State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r"},
		"fails":    {State: queue.Dead, Attempts: 3, Worker: "a", Error: "no 3", Reason: queue.Failed, Stderr: "e"},
		"cannot":   {State: queue.Dead, Attempts: 1, Worker: "a", Error: "never", Reason: queue.Permanent, Stderr: "e"},
	} {
		f.until(id, func() bool { return f.record(id).State == want.State })
		got := f.record(id)
		got.Enqueued, got.Started, got.Finished = want.Enqueued, want.Started, want.Finished
		if got != want {
			t.Errorf("%s: %+v, want %+v", id, got, want)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestDuplicateIDIsLogged: who puts a job in under an id that has a result
// would else look for it in vain.
func TestDuplicateIDIsLogged(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	log, stop := f.start(Options{Consumer: "a", Executor: script(func(context.Context, Attempt, func(string)) Outcome {
		return Outcome{Result: []byte("r")}
	})})
	f.add("j")
	f.until("result", func() bool { return f.record("j").State == queue.Succeeded })
	if err := f.redis.XAdd(f.ctx, &redis.XAddArgs{Stream: f.queue.Key("jobs"), Values: []string{"id", "j", "payload", "other"}}).Err(); err != nil {
		t.Fatal(err)
	}
	const want = `level=INFO msg="duplicate id, acknowledged without running" job=j`
	f.until(want, func() bool { return strings.Contains(log.String(), want) })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if r := f.record("j"); r.Attempts != 1 || r.Result != "r" {
		t.Errorf("record %+v", r)
	}
}

func TestUnableEndsTheWorkerAndCostsNoAttempt(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.add("j")
	log, stop := f.start(Options{Consumer: "a", Executor: script(func(context.Context, Attempt, func(string)) Outcome {
		return Outcome{Verdict: Unable, Error: "no such program"}
	})})
	f.until("release", func() bool { return strings.Contains(log.String(), "handed back") })
	if err := stop(); err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("Run returned %v", err)
	}
	if r := f.record("j"); r.State != queue.Waiting || r.Attempts != 0 {
		t.Errorf("record %+v", r)
	}
}

// TestDrainWithoutRedis: with nobody to tell, the worker still ends in time.
func TestDrainWithoutRedis(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.add("j")
	begun := make(chan struct{})
	log, stop := f.start(Options{Consumer: "a", DrainTimeout: 100 * time.Millisecond, Executor: script(func(ctx context.Context, _ Attempt, _ func(string)) Outcome {
		close(begun)
		<-ctx.Done()
		return Outcome{Verdict: Stopped}
	})})
	<-begun
	f.srv.Pause()
	start := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if !strings.Contains(log.String(), "cannot tell Redis before the end") {
		t.Errorf("log:\n%s", log)
	}
	f.srv.Resume()
}

// TestBeatOnlyWithWatchdog: systemd wants it a few times in its interval, not
// at every turn of the loop.
func TestBeatOnlyWithWatchdog(t *testing.T) {
	t.Parallel()
	var told []string
	w := New(Options{Queue: &queue.Queue{}, Notify: func(s string) { told = append(told, s) }})
	w.beat()
	w.Watchdog = time.Hour
	w.beat()
	w.beat() // too soon for another
	if len(told) != 1 || told[0] != "WATCHDOG=1" {
		t.Errorf("told %q", told)
	}
}

func TestJobStatus(t *testing.T) {
	t.Parallel()
	c := &queue.Claim{Job: queue.Job{ID: "j", MaxAttempts: 3}, Attempt: 1}
	for progress, want := range map[string]string{
		"40":                     "job j, attempt 1 of 3: 40%",
		`{"step":1}`:             `job j, attempt 1 of 3: {"step":1}`,
		"Inf":                    "job j, attempt 1 of 3: Inf",
		"step 3/10":              "job j, attempt 1 of 3: step 3/10",
		strings.Repeat("é", 101): "job j, attempt 1 of 3: " + strings.Repeat("é", 100) + "…",
	} {
		var l lease
		l.progress.Store(&progress)
		if got := jobStatus(c, &l, false); got != want {
			t.Errorf("%q: %q, want %q", progress, got, want)
		}
	}
}

func TestEcho(t *testing.T) {
	t.Parallel()
	env := map[string]string{"CUDA_VISIBLE_DEVICES": "GPU-1", "GPU_INDEX": "1", "JOB_ID": "j<>", "JOB_ATTEMPT": "2", "WORKER_ID": "w"}
	for payload, want := range map[string]string{
		" {\"a\":\n[1, \"<\"]} ":         `{"a":[1,"<"]}`,
		"":                               `""`,
		"a horse":                        `"a horse"`,
		"\x00\xff\n":                     `"\u0000\ufffd\n"`,
		"\"\xff\"":                       `"\"\ufffd\""`,
		strings.Repeat("[", 20000):       `"` + strings.Repeat("[", 20000) + `"`,
		"12345678901234567890.123456789": `12345678901234567890.123456789`,
	} {
		var out strings.Builder
		if err := Echo(strings.NewReader(payload), &out, func(s string) string { return env[s] }); err != nil {
			t.Errorf("%.40q: %v", payload, err)
		}
		want = `{"payload":` + want + `,"gpu":"GPU-1","gpu_index":1,"job":"j<>","attempt":2,"worker":"w"}` + "\n"
		if out.String() != want {
			t.Errorf("%.40q: answered %.200q, want %.200q", payload, out.String(), want)
		}
	}
}

// TestIdleWorkerStopsAtOnce, however long it waits for a job.
func TestIdleWorkerStopsAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	client := f.srv.Client(t)
	q, err := queue.New(client, "gpuherd", "gpu", queue.Options{Block: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		drain, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- New(Options{
				Queue: q, Consumer: "a", Log: slog.New(slog.DiscardHandler),
				Ping:     func(ctx context.Context) error { return client.Ping(ctx).Err() },
				Executor: script(func(context.Context, Attempt, func(string)) Outcome { return Outcome{} }),
			}).Run(f.ctx, drain)
		}()
		f.until("it waits", func() bool {
			info, err := f.redis.InfoMap(f.ctx, "clients").Result()
			return err == nil && info["Clients"]["blocked_clients"] == "1"
		})
		close(drain)
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-f.ctx.Done():
			t.Fatal("it does not stop")
		}
	}
}

// TestStopLeavesNoSeat: one of a crowd of idle workers stops, and another waits
// for jobs in its stead.
func TestStopLeavesNoSeat(t *testing.T) {
	t.Parallel()
	for _, transient := range []bool{false, true} {
		t.Run(fmt.Sprint("transient ", transient), func(t *testing.T) {
			t.Parallel()
			f := setup(t, queue.Options{})
			if err := f.redis.XGroupCreateMkStream(f.ctx, f.queue.Key("jobs"), queue.Group, "0").Err(); err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if err := f.redis.XGroupCreateConsumer(f.ctx, f.queue.Key("jobs"), queue.Group, fmt.Sprint("other-", i)).Err(); err != nil {
					t.Fatal(err)
				}
			}
			_, stop := f.start(Options{Queue: f.queue, Consumer: "a", Transient: transient, Executor: script(nil)})
			f.until("a seat", func() bool { return f.redis.ZScore(f.ctx, f.queue.Key("idle"), "a").Err() == nil })
			if err := stop(); err != nil {
				t.Error(err)
			}
			if f.redis.Exists(f.ctx, f.queue.Key("idle")).Val() != 0 || f.redis.LLen(f.ctx, f.queue.Key("standby")).Val() != 1 {
				t.Error("it has its seat still, or calls nobody")
			}
		})
	}
}
