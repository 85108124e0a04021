package queue

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

func TestBlock(t *testing.T) {
	t.Parallel()
	const most = 1500 * time.Millisecond
	q, err := New(nil, "gpuherd", "gpu", Options{Block: most})
	if err != nil {
		t.Fatal(err)
	}
	c := q.Consumer("a")
	seen := map[time.Duration]bool{}
	for range 100 {
		d := c.block()
		if d < most*3/4 || d > most {
			t.Fatalf("waits %v", d)
		}
		seen[d.Round(10*time.Millisecond)] = true
	}
	if len(seen) < 10 {
		t.Errorf("waits only %v", seen)
	}
	// A delayed job is not to be missed, and one whose time has come not waited for.
	c.due = time.Now().Add(100 * time.Millisecond)
	if d := c.block(); d > 101*time.Millisecond {
		t.Errorf("waits %v for a job due in 100ms", d)
	}
	c.due = time.Now().Add(-time.Hour)
	if d := c.block(); d != time.Millisecond {
		t.Errorf("waits %v for a job that is due", d)
	}
}

// TestBreath: those whose waits ended together do not ask again together, and
// none is deaf for long.
func TestBreath(t *testing.T) {
	t.Parallel()
	q, err := New(nil, "gpuherd", "gpu", Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := q.Consumer("a")
	seen := map[time.Duration]bool{}
	for range 100 {
		d := c.breath()
		if d < 0 || d > 30*time.Millisecond {
			t.Fatalf("pauses for %v", d)
		}
		seen[d.Round(time.Millisecond)] = true
	}
	if len(seen) < 8 {
		t.Errorf("pauses only for %v", seen)
	}
}

// TestPauseAfterAWait: those who waited for nothing leave Redis alone for a
// moment, and differ in that.
func TestPauseAfterAWait(t *testing.T) {
	t.Parallel()
	const consumers = 20
	client := redistest.Start(t, "--appendonly", "no").Client(t, redisclient.WithPoolSize(consumers+1))
	ends := &ends{at: map[string]time.Time{}}
	client.(*redis.Client).AddHook(ends)
	q, err := New(client, "gpuherd", "gpu", Options{Block: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.createGroups(t.Context()); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	var pauses [consumers]time.Duration
	for i := range consumers {
		c := q.Consumer(strconv.Itoa(i))
		group.Go(func() error {
			err := c.wait(t.Context())
			pauses[i] = time.Since(ends.of(c.name))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for _, d := range pauses {
		sum += d
	}
	if mean := sum / consumers; mean < time.Millisecond {
		t.Errorf("paused for %v on average", mean)
	}

	// No longer than it is told to stop.
	if q, err = New(client, "gpuherd", "gpu", Options{Block: 1000 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.Consumer("a").pause(ctx)
}

// ends notes when the consumers' reads ended.
type ends struct {
	mu sync.Mutex
	at map[string]time.Time // by consumer
}

func (e *ends) of(consumer string) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at[consumer]
}

func (*ends) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*ends) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (e *ends) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "xreadgroup" {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.at[cmd.Args()[3].(string)] = time.Now()
		}
		return err
	}
}
