package queue_test

import (
	"fmt"
	"strconv"
	"time"

	"gpuherd/units/queue"
)

// notBefore: by whatever way a job comes in, it is not claimed before its time
// by Redis' clock, and soon after it.
func notBefore(f *fixture) {
	w := f.Consumer("a")
	now := f.redis.Time(f.ctx).Val()
	due := now.Add(700 * time.Millisecond)
	stamp := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	f.enqueue(queue.Job{ID: "enqueued", Payload: []byte("p"), Timeout: time.Minute, MaxAttempts: 4, Trace: "t", Priority: queue.Low, NotBefore: due})
	f.want("enqueued", queue.Record{State: queue.Delayed})
	f.add("id", "added", "payload", "p", "not_before", stamp(due))
	f.add("id", "past", "payload", "p", "not_before", stamp(now.Add(-time.Hour)))
	f.add("id", "at once", "payload", "p")
	// A worker that never looks at them does not hold up the others.
	order := []string{}
	for range 4 {
		c := f.claim(w)
		order = append(order, c.ID)
		started := f.record(c.ID).Started
		if late := c.ID == "enqueued" || c.ID == "added"; late == started.Before(due.Truncate(time.Millisecond)) {
			f.t.Errorf("%s started %v after its time", c.ID, started.Sub(due))
		}
		if c.ID == "enqueued" && (string(c.Payload) != "p" || c.Timeout != time.Minute || c.MaxAttempts != 4 || c.Trace != "t" || c.Priority != queue.Low) {
			f.t.Errorf("job %+v", c.Job)
		}
		if r := f.record(c.ID); !r.Due.IsZero() {
			f.t.Errorf("%s runs, and is due at %v", c.ID, r.Due)
		}
		f.must(c.Finish(f.ctx, nil))
	}
	if len(order) == 4 && (order[0] != "past" || order[1] != "at once") {
		f.t.Errorf("order %v", order)
	}
	f.empty()
}

// backsOff: each delay is at least half of twice that before.
func backsOff(f *fixture) {
	w := f.Consumer("a")
	f.enqueue(queue.Job{ID: "j", MaxAttempts: 5})
	for i := range 4 {
		c := f.claim(w)
		if _, err := c.Fail(f.ctx, queue.Failure{Error: fmt.Sprint(i)}); err != nil {
			f.t.Fatal(err)
		}
		r := f.record("j") // it failed after its start, by Redis' clock
		if delay, least := r.Due.Sub(r.Started), short.RetryMin<<i/2; delay < least || delay > time.Minute {
			f.t.Errorf("attempt %d: due after %v, want at least %v", i+1, delay, least)
		}
	}
	f.must(f.claim(w).Finish(f.ctx, nil))
	f.want("j", queue.Record{State: queue.Succeeded, Attempts: 5, Worker: "a"})
	f.empty()
}
