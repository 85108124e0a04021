package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
)

func (f *fixture) enqueue(jobs ...queue.Job) {
	f.t.Helper()
	for _, j := range jobs {
		if _, err := f.Enqueue(f.ctx, j); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) cancel(id, want string) {
	f.t.Helper()
	if state, err := f.Cancel(f.ctx, id); err != nil || state != want {
		f.t.Errorf("Cancel of %s: %q, %v; want %q", id, state, err, want)
	}
}

func cancelEndsWhatDoesNotRun(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	f.add("id", "seen by nobody", "payload", "p")
	f.enqueue(queue.Job{ID: "waits", Priority: queue.Low}, queue.Job{ID: "failed"}, queue.Job{ID: "done"},
		queue.Job{ID: "in an hour", NotBefore: time.Now().Add(time.Hour)}, queue.Job{ID: "in two hours", NotBefore: time.Now().Add(2 * time.Hour)})
	f.cancel("in two hours", queue.Cancelled) // no worker has looked at it
	f.cancel("seen by nobody", queue.Cancelled)
	c := f.claim(w)
	if _, err := c.Fail(f.ctx, queue.Failure{Error: "e", Delay: time.Hour}); err != nil || c.ID != "failed" {
		t.Fatalf("%s: %v", c.ID, err)
	}
	f.must(f.claim(w).Finish(f.ctx, nil))
	if c := f.claim(w); c.ID != "waits" {
		t.Errorf("claimed %s", c.ID)
	} else {
		f.must(c.Release(f.ctx))
	}
	for _, id := range []string{"waits", "failed", "in an hour"} {
		f.cancel(id, queue.Cancelled)
		f.cancel(id, queue.Cancelled) // an answer was lost
	}
	f.cancel("done", queue.Succeeded)
	f.none(w)
	f.empty()
	f.want("in an hour", queue.Record{State: queue.Cancelled})
	f.want("seen by nobody", queue.Record{State: queue.Cancelled})
	f.want("failed", queue.Record{State: queue.Cancelled, Attempts: 1, Worker: "a", Error: "e", Reason: queue.Failed})
	for _, id := range []string{"never was", ""} {
		if _, err := f.Cancel(f.ctx, id); err == nil || id != "" && !errors.Is(err, queue.ErrUnknown) {
			t.Errorf("Cancel of %q: %v", id, err)
		}
	}
	if n := f.redis.Exists(f.ctx, f.JobKey("never was")).Val(); n != 0 {
		t.Error("an unknown job has a hash now")
	}
}

// cancelledAttemptCounts: nobody is handed a job that was cancelled, so what
// had begun of it is not taken back.
func cancelledAttemptCounts(f *fixture) {
	f.enqueue(queue.Job{ID: "j", MaxAttempts: 3})
	w := f.Consumer("a")
	_, err := f.claim(w).Fail(f.ctx, queue.Failure{Error: "e"})
	f.must(err)
	c := f.claim(w)
	f.cancel("j", queue.Running)
	f.must(c.Release(f.ctx))
	f.want("j", queue.Record{State: queue.Cancelled, Attempts: 2, Worker: "a", Error: "e", Reason: queue.Failed})
	stats, err := f.Stats(f.ctx)
	f.must(err)
	if diff := cmp.Diff(queue.Counts{Cancelled: 1, Failed: 1}, stats.Total); diff != "" {
		f.t.Errorf("counts (-want +got):\n%s", diff)
	}
	f.empty()
}

// cancelReachesTheWorker, which may listen, and may end the job in many ways.
func cancelReachesTheWorker(listens bool, ends string) func(f *fixture) {
	return func(f *fixture) {
		w := f.Consumer("a")
		if listens {
			f.listen(w)
		}
		f.enqueue(queue.Job{ID: "j", MaxAttempts: 2})
		c := f.claim(w)
		select {
		case <-c.Cancelled():
			f.t.Fatal("nobody has cancelled it")
		default:
		}
		f.cancel("j", queue.Running)
		f.want("j", queue.Record{State: queue.Running, Attempts: 1, Worker: "a", Cancelling: true})
		if !listens {
			f.must(c.Renew(f.ctx, ""))
		}
		select {
		case <-c.Cancelled():
		case <-f.ctx.Done():
			f.t.Fatal("the worker does not hear of it")
		}
		f.must(c.Renew(f.ctx, ""))
		want := queue.Record{State: queue.Cancelled, Attempts: 1, Worker: "a"}
		switch ends {
		case "release":
			f.must(c.Release(f.ctx))
			f.must(c.Release(f.ctx))
		case "fail", "last":
			want.Error, want.Reason = "killed", queue.Failed
			failure := queue.Failure{Error: "killed"}
			if ends == "last" {
				failure.Permanent, want.Reason = true, queue.Permanent
			}
			for range 2 {
				if dead, err := c.Fail(f.ctx, failure); err != nil || dead {
					f.t.Errorf("dead %v, %v", dead, err)
				}
			}
		case "finish":
			f.must(c.Finish(f.ctx, []byte("r")))
			want.State, want.Result = queue.Succeeded, "r"
		case "lost":
			f.none(f.Consumer("a")) // its successor
		}
		f.want("j", want)
		f.none(w)
		f.empty()
	}
}

// listen runs Listen and waits until it is subscribed.
func (f *fixture) listen(w *queue.Consumer) {
	f.t.Helper()
	ended := make(chan struct{})
	ctx, stop := context.WithCancel(f.ctx)
	go func() {
		defer close(ended)
		w.Listen(ctx, func(err error) { f.t.Logf("listening: %v", err) })
	}()
	f.t.Cleanup(func() { stop(); <-ended })
	channel := f.Key("cancel")
	f.until("a subscriber", func() bool {
		var n atomic.Int64
		count := func(ctx context.Context, c *redis.Client) error {
			n.Add(c.PubSubNumSub(ctx, channel).Val()[channel])
			return nil
		}
		if cluster, ok := f.redis.(*redis.ClusterClient); ok {
			f.must(cluster.ForEachShard(f.ctx, count)) // it may be at any node
		} else {
			f.must(count(f.ctx, f.redis.(*redis.Client)))
		}
		return n.Load() > 0
	})
}

func retryOfDeadAndDelayed(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	f.enqueue(queue.Job{ID: "dead", Payload: []byte("p"), Timeout: time.Second, MaxAttempts: 1, Trace: "t", Priority: queue.Low})
	fail := func(id string, failure queue.Failure) {
		t.Helper()
		c := f.claim(w)
		if _, err := c.Fail(f.ctx, failure); err != nil || c.ID != id {
			t.Fatalf("%s: %v", c.ID, err)
		}
	}
	fail("dead", queue.Failure{Error: "e"})
	f.must(f.Retry(f.ctx, "dead"))
	f.want("dead", queue.Record{State: queue.Waiting})
	if ttl := f.redis.TTL(f.ctx, f.JobKey("dead")).Val(); ttl != -1 {
		t.Errorf("its hash lives %v", ttl)
	}
	c := f.claim(w)
	want := queue.Job{ID: "dead", Payload: []byte("p"), Timeout: time.Second, MaxAttempts: 1, Trace: "t", Priority: queue.Low}
	if diff := cmp.Diff(want, c.Job); diff != "" || c.Attempt != 1 {
		t.Errorf("attempt %d, job (-want +got):\n%s", c.Attempt, diff)
	}
	f.must(c.Finish(f.ctx, nil))
	if err := f.Retry(f.ctx, "dead"); !errors.Is(err, queue.ErrState) {
		t.Errorf("Retry of what has succeeded: %v", err)
	}
	if err := f.Retry(f.ctx, "never was"); !errors.Is(err, queue.ErrUnknown) {
		t.Errorf("Retry of what never was: %v", err)
	}

	f.enqueue(queue.Job{ID: "delayed", Payload: []byte("p")}, queue.Job{ID: "later", NotBefore: time.Now().Add(time.Hour)})
	f.must(f.Retry(f.ctx, "later")) // no worker has looked at it
	fail("delayed", queue.Failure{Error: "e", Delay: time.Hour})
	f.must(f.claim(w).Finish(f.ctx, nil))
	f.none(w)
	f.must(f.Retry(f.ctx, "delayed"))
	if c = f.claim(w); c.ID != "delayed" || c.Attempt != 2 || string(c.Payload) != "p" {
		t.Errorf("claimed %s, attempt %d", c.ID, c.Attempt)
	}
	f.must(c.Finish(f.ctx, nil))
	f.empty()
	if n := len(f.dead()); n != 0 {
		t.Errorf("%d are dead", n)
	}
}

func deadAreRetriedAndPurged(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	f.add("payload", "no id")
	f.add("id", "too large", "payload", make([]byte, queue.MaxPayload+1))
	for i := range 3 {
		f.enqueue(queue.Job{ID: fmt.Sprint(i)})
		if _, err := f.claim(w).Fail(f.ctx, queue.Failure{Error: "e", Permanent: true}); err != nil {
			t.Fatal(err)
		}
	}
	f.must(f.redis.Del(f.ctx, f.JobKey("1")).Err()) // its time has run out
	if err := f.Retry(f.ctx, "too large"); !errors.Is(err, queue.ErrState) {
		t.Errorf("Retry of what was no job: %v", err)
	}
	if n, err := f.RetryDead(f.ctx); err != nil || n != 3 {
		t.Fatalf("retried %d, %v", n, err)
	}
	for range 3 {
		f.must(f.claim(w).Finish(f.ctx, nil))
	}
	f.empty()
	dead, next, err := f.List(f.ctx, queue.ListOptions{State: queue.Dead})
	if err != nil || len(dead) != 2 || next != "" {
		t.Fatalf("dead: %+v, %q, %v", dead, next, err)
	}
	if n, err := f.RemoveDead(f.ctx, dead[0].Entry); err != nil || n != 1 {
		t.Errorf("removed %d, %v", n, err)
	}
	if n, err := f.PurgeDead(f.ctx, time.Now().Add(-time.Hour)); err != nil || n != 0 {
		t.Errorf("purged %d old ones, %v", n, err)
	}
	if n, err := f.PurgeDead(f.ctx, time.Time{}); err != nil || n != 1 {
		t.Errorf("purged %d, %v", n, err)
	}
}

func listFindAndStats(f *fixture) {
	t := f.t
	if s, err := f.Stats(f.ctx); err != nil || len(s.Streams) != 3 {
		t.Fatalf("of an empty queue: %+v, %v", s, err)
	}
	w := f.Consumer("a")
	payload := []byte("payload")
	f.enqueue(queue.Job{ID: "good"}, queue.Job{ID: "bad", Payload: payload, MaxAttempts: 5}, queue.Job{ID: "again"}, queue.Job{ID: "back"}, queue.Job{ID: "runs", Payload: payload})
	f.must(f.claim(w).Finish(f.ctx, []byte("result")))
	for _, failure := range []queue.Failure{{Error: "e", Permanent: true}, {Error: "e", Delay: time.Hour}} {
		if _, err := f.claim(w).Fail(f.ctx, failure); err != nil {
			t.Fatal(err)
		}
	}
	f.must(f.claim(w).Release(f.ctx))
	f.must(f.claim(w).Finish(f.ctx, nil))
	runs := f.claim(w)
	f.add("id", "unseen", "payload", payload)
	f.enqueue(queue.Job{ID: "waits", Priority: queue.Low, Payload: payload}, queue.Job{ID: "later", NotBefore: time.Now().Add(time.Hour)}, queue.Job{ID: "stopped"})
	f.cancel("stopped", queue.Cancelled)

	all := map[string][]string{
		"": {"runs", "unseen", "later", "waits", "again", "bad", "stopped", "back", "good"}, queue.Running: {"runs"},
		queue.Waiting: {"unseen", "waits"}, queue.Delayed: {"later", "again"}, queue.Dead: {"bad"},
		queue.Succeeded: {"back", "good"}, queue.Cancelled: {"stopped"},
	}
	for state, want := range all {
		for _, limit := range []int{0, 1, 2} {
			var got []string
			for after := ""; ; {
				jobs, next, err := f.List(f.ctx, queue.ListOptions{State: state, Limit: limit, After: after})
				f.must(err)
				if limit > 0 && len(jobs) > limit {
					t.Errorf("%q: %d jobs, at most %d were asked for", state, len(jobs), limit)
				}
				for _, j := range jobs {
					got = append(got, j.ID)
					if has := j.ID == "runs" || j.ID == "bad" || j.ID == "unseen" || j.ID == "waits"; has != (j.Bytes == int64(len(payload))) {
						t.Errorf("%s has a payload of %d bytes", j.ID, j.Bytes)
					}
				}
				if after = next; after == "" {
					break
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q by %d (-want +got):\n%s", state, limit, diff)
			}
		}
	}
	if _, _, err := f.List(f.ctx, queue.ListOptions{After: "x"}); err == nil {
		t.Error("List took a position that it never gave")
	}

	times := cmpopts.IgnoreTypes(time.Time{})
	for _, tt := range []struct {
		job    queue.Job
		record queue.Record
	}{
		{queue.Job{ID: "runs", Payload: payload, Priority: queue.Normal}, queue.Record{State: queue.Running, Attempts: 1, Worker: "a"}},
		{queue.Job{ID: "unseen", Payload: payload, Priority: queue.Normal}, queue.Record{State: queue.Waiting}},
		{queue.Job{ID: "bad", Payload: payload, MaxAttempts: 5, Priority: queue.Normal}, queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "e", Reason: queue.Permanent}},
		{queue.Job{ID: "good", Payload: []byte{}, Priority: queue.Normal}, queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "result"}},
	} {
		j, r, err := f.Find(f.ctx, tt.job.ID)
		if diff := cmp.Diff(tt.job, j) + cmp.Diff(tt.record, r, times); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", tt.job.ID, err, diff)
		}
	}
	f.must(f.redis.Del(f.ctx, f.JobKey("bad")).Err())
	if j, r, err := f.Find(f.ctx, "bad"); err != nil || string(j.Payload) != "payload" || r.State != queue.Dead || r.Reason != queue.Permanent {
		t.Errorf("a dead job without its hash: %+v, %+v, %v", j, r, err)
	}
	if _, _, err := f.Find(f.ctx, "never was"); !errors.Is(err, queue.ErrUnknown) {
		t.Errorf("Find of what never was: %v", err)
	}

	s, err := f.Stats(f.ctx)
	f.must(err)
	want := queue.Stats{
		Streams: []queue.StreamStats{{Priority: queue.High}, {Priority: queue.Normal, Waiting: 2, Running: 1}, {Priority: queue.Low, Waiting: 1}},
		Delayed: 1, Dead: 1, Ended: 4, Workers: []queue.WorkerStats{{Name: "a", Jobs: 1}},
		Total: queue.Counts{Succeeded: 2, Dead: 1, Cancelled: 1, Failed: 2, Released: 1},
	}
	if diff := cmp.Diff(want, s, times, cmpopts.IgnoreFields(queue.Stats{}, "Minute", "Hour"), cmpopts.IgnoreFields(queue.WorkerStats{}, "Idle")); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	now := f.redis.Time(f.ctx).Val()
	for what, at := range map[string]time.Time{"now": s.At, "oldest": s.Streams[1].Oldest, "oldest dead": s.Oldest} {
		if at.Before(now.Add(-time.Minute)) || at.After(now) {
			t.Errorf("%s is %v", what, at)
		}
	}
	if d := s.NextDue.Sub(now); d < 55*time.Minute || d > time.Hour || !s.Streams[0].Oldest.IsZero() {
		t.Errorf("next is due in %v, oldest of high %v", d, s.Streams[0].Oldest)
	}
	f.must(runs.Finish(f.ctx, nil))
}
