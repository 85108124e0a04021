package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

// woken lets a consumer wait, wakes it, and returns what it claimed.
func (f *fixture) woken(c *queue.Consumer) *queue.Claim {
	f.t.Helper()
	type claimed struct {
		claim *queue.Claim
		err   error
	}
	done := make(chan claimed, 1)
	go func() {
		claim, err := c.Claim(f.ctx)
		done <- claimed{claim, err}
	}()
	for {
		select {
		case r := <-done:
			f.must(r.err)
			return r.claim
		case <-f.ctx.Done():
			f.t.Fatal("nobody wakes it")
		case <-time.After(time.Millisecond):
			f.must(c.Wake(f.ctx))
		}
	}
}

// TestWake: a wait ends when it is to, whatever comes at that moment is claimed,
// and the consumer goes on.
func TestWake(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: time.Hour})
	w := f.Consumer("a")
	f.must(w.Wake(f.ctx)) // it does not wait
	f.wakes(w)
	for range 50 {
		go f.redis.XAdd(f.ctx, &redis.XAddArgs{Stream: f.Key("jobs"), Values: []any{"id", "at that moment"}})
		c := f.woken(w)
		if c == nil {
			f.until("the job", func() bool { return f.redis.XLen(f.ctx, f.Key("jobs")).Val() == 1 })
			c = f.claim(w)
		}
		f.must(c.Finish(f.ctx, nil))
		f.must(f.redis.Del(f.ctx, f.JobKey("at that moment")).Err())
	}
	f.empty()
}

// wakes wants a wait to end without a job.
func (f *fixture) wakes(c *queue.Consumer) {
	f.t.Helper()
	if claim := f.woken(c); claim != nil {
		f.t.Errorf("claimed %s", claim.ID)
	}
}

// TestWakeForbidden: a user from before it needed the right waits half as long.
func TestWakeForbidden(t *testing.T) {
	t.Parallel()
	old := strings.NewReplacer(" +client|id", "", " +client|unblock", "").Replace(redistest.Rights(t, rights))
	f := on(t, redistest.ACL(t, old), queue.Options{Block: 100 * time.Millisecond})
	w := f.Consumer("a")
	f.none(w)
	f.add("id", "j")
	f.must(f.claim(w).Finish(f.ctx, nil))
	f.must(w.Wake(f.ctx))
	f.empty()
}
