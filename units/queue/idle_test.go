package queue_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
)

// counts counts what a client sends.
type counts struct{ n atomic.Int64 }

func (*counts) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*counts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *counts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

// TestIdleWorkerAsksSeldom: at most one command a second, with the default
// times; here all is some times as fast.
func TestIdleWorkerAsksSeldom(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		crowd  bool
		faster time.Duration
		waits  int
	}{
		"at the streams": {false, 20, 100},
		"on standby":     {true, 3, 4}, // which takes whole seconds
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, queue.Options{})
			if tt.crowd {
				f.crowded()
			}
			client := f.srv.Client(t)
			sent := &counts{}
			client.(*redis.Client).AddHook(sent)
			q, err := queue.New(client, "gpuherd", f.name, queue.Options{Lease: f.Lease() / tt.faster, Block: 3 * time.Second / tt.faster})
			f.must(err)
			q.SetRoom(1)
			// A delayed job is no reason to ask more often.
			f.enqueue(queue.Job{ID: "later", NotBefore: time.Now().Add(time.Hour)})
			w := q.Consumer("a")
			// At first it finds that job, and hears of the crowd only when it looks
			// for lost leases, after two waits or three.
			for range 4 {
				f.waits(w)
			}
			begin, before := time.Now(), sent.n.Load()
			for range tt.waits {
				f.waits(w)
			}
			seconds := time.Since(begin).Seconds() * float64(tt.faster)
			if n := sent.n.Load() - before; float64(n) > seconds {
				t.Errorf("%d commands in what stands for %.0f s", n, seconds)
			} else {
				t.Logf("%.2f commands a second", float64(n)/seconds)
			}
		})
	}
}

// TestDelayedJobsAmongIdleWorkers: who put a job off is busy when its time
// comes, and those who wait have not heard of it.
func TestDelayedJobsAmongIdleWorkers(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Lease: 3 * time.Second, Block: short.Block})
	idle := f.Consumer("idle")
	f.none(idle) // and looks again within a sixth of the lease
	busy := f.Consumer("busy")
	for i := range 3 {
		id := fmt.Sprint(i)
		f.enqueue(queue.Job{ID: id})
		if _, err := f.claim(busy).Fail(f.ctx, queue.Failure{Error: "e", Delay: 50 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		c := f.claim(idle)
		if c.ID != id || c.Attempt != 2 {
			t.Errorf("claimed %s, attempt %d", c.ID, c.Attempt)
		}
		f.must(c.Finish(f.ctx, nil))
	}
	f.empty()
}
