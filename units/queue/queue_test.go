package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
)

func plainXADDIsClaimedAndFinished(f *fixture) {
	t := f.t
	f.add("id", "job-1", "payload", `{"prompt":"a horse"}`, "timeout", "1.5", "trace", "t")
	c := f.claim(f.Consumer("a"))
	want := queue.Job{ID: "job-1", Payload: []byte(`{"prompt":"a horse"}`), Timeout: 1500 * time.Millisecond, MaxAttempts: 3, Trace: "t", Priority: queue.Normal}
	if diff := cmp.Diff(want, c.Job); diff != "" || c.Attempt != 1 {
		t.Errorf("attempt %d, job (-want +got):\n%s", c.Attempt, diff)
	}
	f.want("job-1", queue.Record{State: queue.Running, Attempts: 1, Worker: "a"})
	f.must(c.Renew(f.ctx, "42"))
	f.want("job-1", queue.Record{State: queue.Running, Attempts: 1, Worker: "a", Progress: "42"})
	f.must(c.Finish(f.ctx, []byte("done")))
	f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "done"})
	r := f.record("job-1")
	if r.Enqueued.IsZero() || r.Started.Before(r.Enqueued) || r.Finished.Before(r.Started) || time.Since(r.Enqueued) > time.Minute {
		t.Errorf("times %v, %v, %v", r.Enqueued, r.Started, r.Finished)
	}
	if ttl := f.redis.TTL(f.ctx, f.JobKey("job-1")).Val(); ttl < 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("hash lives %v", ttl)
	}
	f.empty()
	// An answer may have been lost: the same call again is well.
	f.must(c.Finish(f.ctx, []byte("done")))
}

func finishingClaimsTheNext(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	for _, id := range []string{"1", "2"} {
		f.add("id", id)
	}
	c := f.claim(w)
	if _, err := w.Finish(f.ctx, c, make([]byte, queue.MaxPayload+1)); err == nil {
		t.Error("a result above the limit is taken")
	}
	next, err := w.Finish(f.ctx, c, []byte("r"))
	f.must(err)
	if next == nil || next.ID != "2" || next.Attempt != 1 {
		t.Fatalf("the next is %+v", next)
	}
	f.want("1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r"})
	f.want("2", queue.Record{State: queue.Running, Attempts: 1, Worker: "a"})

	// What comes next is not fit, or must not be claimed.
	f.add("payload", "no id")
	f.must(f.Pause(f.ctx))
	last := next
	next, err = w.Finish(f.ctx, last, nil)
	f.must(err)
	if next != nil || len(f.dead()) != 0 {
		t.Errorf("%v is claimed in a pause, %d dead", next, len(f.dead()))
	}
	f.must(f.Resume(f.ctx))
	f.none(w)
	if n := len(f.dead()); n != 1 {
		t.Errorf("%d entries in dead", n)
	}

	// Who lost the lease gets nothing more.
	f.add("id", "3")
	f.add("id", "4")
	c = f.claim(w)
	successor := f.claim(f.Consumer("a"))
	next, err = w.Finish(f.ctx, c, nil)
	f.lost("finish", err)
	if next != nil {
		t.Errorf("%s is claimed", next.ID)
	}
	f.must(successor.Finish(f.ctx, nil))
	c = f.claim(w)
	if next, err = w.Finish(f.ctx, c, nil); c.ID != "4" || next != nil || err != nil {
		t.Errorf("after %s: %v, %v", c.ID, next, err)
	}
	f.empty()
}

func enqueueIsIdempotent(f *fixture) {
	t := f.t
	job := queue.Job{ID: "a:b\u00e9 {x}", Payload: []byte{0, 255, '\n'}, Timeout: 90 * time.Second, MaxAttempts: 7, Trace: "t", Priority: queue.Low}
	for i, want := range []bool{true, false} {
		if added, err := f.Enqueue(f.ctx, job); err != nil || added != want {
			t.Fatalf("call %d: %v, %v", i, added, err)
		}
	}
	f.want(job.ID, queue.Record{State: queue.Waiting})
	c := f.claim(f.Consumer("a"))
	if diff := cmp.Diff(job, c.Job); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	f.must(c.Finish(f.ctx, nil))
	if added, err := f.Enqueue(f.ctx, job); err != nil || added {
		t.Errorf("after its end: %v, %v", added, err)
	}
	f.empty()
	for _, bad := range []queue.Job{{}, {ID: "a\nb"}, {ID: strings.Repeat("x", 257)}, {ID: "\xff"}, {ID: "big", Payload: make([]byte, queue.MaxPayload+1)}} {
		if _, err := f.Enqueue(f.ctx, bad); err == nil {
			t.Errorf("Enqueue took %.20q with %d bytes", bad.ID, len(bad.Payload))
		}
	}
}

func endedIDIsAcknowledgedWithoutRunning(f *fixture) {
	w := f.Consumer("a")
	f.add("id", "job-1", "payload", "1")
	f.must(f.claim(w).Finish(f.ctx, []byte("first")))
	f.add("id", "job-1", "payload", "2")
	f.none(w)
	f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "first"})
	f.empty()
}

func sameIDTwiceRunsOnce(f *fixture) {
	f.add("id", "job-1", "payload", "1")
	f.add("id", "job-1", "payload", "2")
	c := f.claim(f.Consumer("a"))
	f.none(f.Consumer("b"))
	f.must(c.Finish(f.ctx, nil))
	f.empty()
}

// fencing: what the loser of a lease still sends changes nothing, by whatever
// way it lost it.
func fencing(successor string) func(f *fixture) {
	return func(f *fixture) {
		f.add("id", "job-1", "payload", "1")
		old := f.claim(f.Consumer("a"))
		c := f.claim(f.Consumer(successor))
		if c.ID != "job-1" || c.Attempt != 2 || string(c.Payload) != "1" {
			f.t.Fatalf("successor has %s, attempt %d, %q", c.ID, c.Attempt, c.Payload)
		}
		check := func() {
			f.t.Helper()
			f.lost("Renew", old.Renew(f.ctx, "99"))
			f.lost("Finish", old.Finish(f.ctx, []byte("stale")))
			_, err := old.Fail(f.ctx, queue.Failure{Error: "stale"})
			f.lost("Fail", err)
			f.lost("Release", old.Release(f.ctx))
		}
		check()
		f.want("job-1", queue.Record{State: queue.Running, Attempts: 2, Worker: successor})
		f.must(c.Renew(f.ctx, ""))
		f.must(c.Finish(f.ctx, []byte("fresh")))
		check()
		f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 2, Worker: successor, Result: "fresh"})
		f.empty()
		if s, err := f.Stats(f.ctx); err != nil || s.Total.Lost != 1 {
			f.t.Errorf("%d leases were lost, %v", s.Total.Lost, err)
		}
	}
}

// fencingByOwner: XCLAIM JUSTID gives an entry away and leaves the
// delivery count as it is.
func fencingByOwner(f *fixture) {
	f.add("id", "job-1", "payload", "1")
	c := f.claim(f.Consumer("a"))
	m := f.redis.XRange(f.ctx, f.Key("jobs"), "-", "+").Val()
	f.must(f.redis.XClaimJustID(f.ctx, &redis.XClaimArgs{Stream: f.Key("jobs"), Group: queue.Group, Consumer: "b", Messages: []string{m[0].ID}}).Err())
	f.lost("Renew", c.Renew(f.ctx, ""))
	f.lost("Finish", c.Finish(f.ctx, nil))
}

func leave(f *fixture) {
	t := f.t
	idle, busy := f.Consumer("idle"), f.Consumer("busy")
	f.none(idle)
	f.add("id", "job-1", "payload", "1")
	c := f.claim(busy)
	f.must(idle.Leave(f.ctx))
	f.must(busy.Leave(f.ctx))
	names, err := f.redis.XInfoConsumers(f.ctx, f.Key("jobs"), queue.Group).Result()
	if err != nil || len(names) != 1 || names[0].Name != "busy" {
		t.Errorf("consumers %+v, %v", names, err)
	}
	f.must(c.Finish(f.ctx, nil))
}

func renewKeepsTheLease(f *fixture) {
	t := f.t
	f.add("id", "job-1", "payload", "1")
	c := f.claim(f.Consumer("a"))
	other := f.Consumer("b")
	for end := time.Now().Add(2 * short.Lease); time.Now().Before(end); {
		f.must(c.Renew(f.ctx, ""))
		if stolen, err := other.Claim(f.ctx); err != nil || stolen != nil {
			t.Fatalf("another has it: %v, %v", stolen, err)
		}
	}
	f.must(c.Finish(f.ctx, nil))
}

func failRetriesThenDies(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	f.add("id", "job-1", "payload", "p", "max_attempts", "2", "trace", "t", "unknown", "x")
	c := f.claim(w)
	fail := queue.Failure{Error: "no luck", Stderr: "traceback"}
	for range 2 { // the second call is one whose first answer was lost
		if dead, err := c.Fail(f.ctx, fail); err != nil || dead {
			t.Fatalf("first failure: dead %v, %v", dead, err)
		}
	}
	f.want("job-1", queue.Record{State: queue.Delayed, Attempts: 1, Worker: "a", Error: "no luck", Reason: queue.Failed, Stderr: "traceback"})
	if due := f.record("job-1").Due; due.Before(f.record("job-1").Started.Add(short.RetryMin / 2)) {
		t.Errorf("it is due at %v", due)
	}
	c = f.claim(w)
	if c.Attempt != 2 || c.Trace != "t" {
		t.Errorf("attempt %d, trace %q", c.Attempt, c.Trace)
	}
	fail.Reason = "oom"
	for range 2 {
		if dead, err := c.Fail(f.ctx, fail); err != nil || !dead {
			t.Fatalf("last failure: dead %v, %v", dead, err)
		}
	}
	f.want("job-1", queue.Record{State: queue.Dead, Attempts: 2, Worker: "a", Error: "no luck", Reason: "oom", Stderr: "traceback"})
	f.empty()
	d := f.dead()
	if len(d) != 1 {
		t.Fatalf("%d entries in dead", len(d))
	}
	want := map[string]any{"id": "job-1", "payload": "p", "max_attempts": "2", "trace": "t", "error": "no luck", "reason": "oom", "stderr": "traceback", "attempts": "2", "worker": "a", "stream": f.Key("jobs")}
	if diff := cmp.Diff(want, d[0].Values, cmpopts.IgnoreMapEntries(func(k string, _ any) bool { return k == "failed_ms" || k == "entry" })); diff != "" {
		t.Errorf("dead entry (-want +got):\n%s", diff)
	}

	f.add("id", "job-2", "payload", "p")
	if dead, err := f.claim(w).Fail(f.ctx, queue.Failure{Error: "bad input", Permanent: true}); err != nil || !dead {
		t.Errorf("permanent failure: dead %v, %v", dead, err)
	}
	f.want("job-2", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "bad input", Reason: queue.Permanent})
}

func jobThatKillsItsWorkerDies(f *fixture) {
	t := f.t
	f.add("id", "job-1", "payload", "p")
	for i := range 3 {
		if c := f.claim(f.Consumer("a")); c.Attempt != i+1 {
			t.Fatalf("attempt %d, want %d", c.Attempt, i+1)
		}
	}
	f.none(f.Consumer("a"))
	f.want("job-1", queue.Record{State: queue.Dead, Attempts: 3, Worker: "a", Error: "worker was lost while the job ran", Reason: queue.Lost})
	if d := f.dead(); len(d) != 1 || d[0].Values["payload"] != "p" {
		t.Errorf("dead: %v", d)
	}
	f.empty()
}

func releaseCostsNoAttemptAndGoesFirst(f *fixture) {
	t := f.t
	f.add("id", "job-1", "payload", "p", "max_attempts", "1")
	f.add("id", "job-2", "payload", "p")
	c := f.claim(f.Consumer("a"))
	f.must(c.Release(f.ctx))
	f.must(c.Release(f.ctx)) // again, after a lost answer
	f.want("job-1", queue.Record{State: queue.Waiting, Worker: "a"})
	b := f.Consumer("b")
	c = f.claim(b)
	if c.ID != "job-1" || c.Attempt != 1 {
		t.Errorf("next is %s, attempt %d", c.ID, c.Attempt)
	}
	f.must(c.Finish(f.ctx, nil))
	f.must(f.claim(b).Finish(f.ctx, nil))
	f.empty()
}

func retryGoesBackToItsPriority(f *fixture) {
	t := f.t
	a := f.Consumer("a")
	for _, p := range []queue.Priority{queue.Low, queue.Normal, queue.High} {
		if _, err := f.Enqueue(f.ctx, queue.Job{ID: fmt.Sprint(p), Priority: p}); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for range 2 {
		c := f.claim(a)
		order = append(order, c.ID)
		f.must(c.Finish(f.ctx, nil))
	}
	c := f.claim(a)
	f.must(c.Release(f.ctx)) // goes by the high stream
	c = f.claim(a)
	if _, err := c.Fail(f.ctx, queue.Failure{Error: "x", Delay: -1}); err != nil {
		t.Fatal(err)
	}
	order = append(order, c.ID)
	if diff := cmp.Diff([]string{"1", "2", "3"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if n := f.redis.XLen(f.ctx, f.Key("jobs:low")).Val(); n != 1 {
		t.Errorf("%d entries in low after the retry of a low job", n)
	}
}

func TestPaused(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: 10 * time.Second})
	w := f.Consumer("a")
	f.must(f.Pause(f.ctx))
	f.add("id", "job-1", "payload", "p")
	if _, err := w.Claim(f.ctx); !errors.Is(err, queue.ErrPaused) {
		t.Fatalf("claim of a paused queue: %v", err)
	}
	if n := f.redis.XLen(f.ctx, f.Key("jobs")).Val(); n != 1 {
		t.Errorf("%d entries wait where they were put", n)
	}
	f.must(f.Resume(f.ctx))
	f.must(f.claim(w).Finish(f.ctx, nil))

	// Paused while the worker waits in its blocking read.
	got := make(chan error, 1)
	go func() {
		_, err := w.Claim(f.ctx)
		if err == nil { // the look before the wait came to an end first
			_, err = w.Claim(f.ctx)
		}
		got <- err
	}()
	f.blocked(1)
	f.must(f.Pause(f.ctx))
	f.add("id", "job-2", "payload", "p")
	if err := <-got; !errors.Is(err, queue.ErrPaused) {
		t.Fatalf("claim that waited: %v", err)
	}
	f.want("job-2", queue.Record{State: queue.Waiting})
	f.must(f.Resume(f.ctx))
	if c := f.claim(w); c.ID != "job-2" || c.Attempt != 1 {
		t.Errorf("after the pause: %s, attempt %d", c.ID, c.Attempt)
	}
}

func TestTwoEntriesInOneWakeUp(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: 10 * time.Second})
	w := f.Consumer("a")
	claims := make(chan *queue.Claim)
	go func() {
		c, err := w.Claim(f.ctx)
		if err != nil {
			t.Error(err)
		}
		claims <- c
	}()
	f.blocked(1)
	// One script, so both are there when the reader is served.
	f.must(f.redis.Eval(f.ctx, `
		redis.call('XADD', KEYS[1], '*', 'id', 'low', 'payload', '')
		return redis.call('XADD', KEYS[2], '*', 'id', 'high', 'payload', '')`,
		[]string{f.Key("jobs:low"), f.Key("jobs:high")}).Err())
	seen := map[string]bool{}
	c := <-claims
	for range 2 {
		if c == nil {
			c = f.claim(w)
		}
		seen[c.ID] = true
		f.must(c.Finish(f.ctx, nil))
		c = nil
	}
	if !seen["low"] || !seen["high"] {
		t.Errorf("ran %v", seen)
	}
	f.empty()
}

// entryDeletedWhileItRuns: XDEL is how an operator with redis-cli takes
// a job away.
func entryDeletedWhileItRuns(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	f.add("id", "j", "payload", "p")
	c := f.claim(w)
	m := f.redis.XRange(f.ctx, f.Key("jobs"), "-", "+").Val()
	f.must(f.redis.XDel(f.ctx, f.Key("jobs"), m[0].ID).Err())
	f.lost("Renew", c.Renew(f.ctx, ""))
	if r := f.record("j"); r.State != queue.Cancelled {
		t.Errorf("state %s", r.State)
	}
	f.none(w)
	f.empty()
}

func TestRedisGoneInBetween(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: 50 * time.Millisecond})
	w := f.Consumer("a")
	f.add("id", "j", "payload", "p")
	f.claim(w)
	// A second delivery: its count must be in the append-only file.
	c := f.claim(f.Consumer("a"))
	f.srv.Kill()
	if err := c.Renew(f.ctx, ""); err == nil || errors.Is(err, queue.ErrLost) {
		t.Errorf("renewal without a server: %v", err)
	}
	f.srv.Restart()
	f.must(c.Renew(f.ctx, "1"))
	f.must(c.Finish(f.ctx, nil))
	f.empty()

	f.srv.Kill()
	if _, err := w.Claim(f.ctx); err == nil {
		t.Error("claim without a server")
	}
	f.srv.Restart()
	f.must(f.redis.FlushAll(f.ctx).Err()) // groups and all
	f.add("id", "k", "payload", "p")
	f.must(f.claim(w).Finish(f.ctx, nil))
}

// twoWorkersRace: every job is run by one of them, and once.
func twoWorkersRace(f *fixture) {
	t := f.t
	const jobs = 500
	for i := range jobs {
		f.add("id", fmt.Sprintf("job-%d", i), "payload", "p")
	}
	var mu sync.Mutex
	ran := map[string]int{}
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		w := f.Consumer(name)
		wg.Go(func() {
			for f.ctx.Err() == nil {
				c, err := w.Claim(f.ctx)
				if err != nil {
					t.Error(err)
					return
				}
				if c == nil {
					return
				}
				mu.Lock()
				ran[c.ID]++
				mu.Unlock()
				if err := c.Finish(f.ctx, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(ran) != jobs {
		t.Errorf("%d of %d jobs ran", len(ran), jobs)
	}
	for id, n := range ran {
		if n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	f.empty()
}

func TestNewRefusesNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a}b", "{", "a\n"} {
		if _, err := queue.New(nil, "gpuherd", name, queue.Options{}); err == nil {
			t.Errorf("queue %q was taken", name)
		}
	}
}
