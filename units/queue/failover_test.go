package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// A load is a producer and workers that go on whatever Redis does.
type load struct {
	*fixture

	mu       sync.Mutex
	enqueued []string
	ran      map[string]int // how often a job was run
	finished map[string]int // and how often its end was confirmed
}

// underLoad lets change do something to Redis while jobs come and are run, and
// wants that each is finished. Where Redis loses nothing that it has confirmed,
// once.
func underLoad(t *testing.T, d *redistest.Deployment, keeps bool, change func(key string, more func())) {
	t.Helper()
	f := on(t, d, queue.Options{Lease: 2 * time.Second, Block: 100 * time.Millisecond, RetryMin: 10 * time.Millisecond})
	client := d.Client(t, redisclient.WithPoolSize(20))
	var err error
	f.Queue, err = queue.New(client, "gpuherd", f.name, queue.Options{Lease: 2 * time.Second, Block: 100 * time.Millisecond, RetryMin: 10 * time.Millisecond})
	f.must(err)
	l := &load{fixture: f, ran: map[string]int{}, finished: map[string]int{}}

	ctx, stop := context.WithCancel(f.ctx)
	producing, produced := context.WithCancel(ctx)
	var producer, workers sync.WaitGroup
	producer.Go(func() { l.produce(producing) })
	for i := range 4 {
		workers.Go(func() { l.work(ctx, fmt.Sprint("w", i)) })
	}
	defer func() { stop(); producer.Wait(); workers.Wait() }()

	more := func() { // another 50 jobs are done
		l.mu.Lock()
		before := len(l.finished)
		l.mu.Unlock()
		f.until("50 more jobs", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.finished) >= before+50
		})
	}
	more()
	change(f.Key("jobs"), more)
	more()
	produced()
	producer.Wait()

	// What Redis has confirmed and lost its producer puts in again, as it does
	// with what it is not sure of.
	f.until("an end of each job", func() bool {
		for _, id := range l.enqueued {
			l.again(ctx, func(ctx context.Context) error {
				_, err := f.Enqueue(ctx, queue.Job{ID: id})
				return err
			})
			var r queue.Record
			l.again(ctx, func(ctx context.Context) (err error) {
				r, _, err = f.Get(ctx, id)
				return err
			})
			if r.State != queue.Succeeded {
				return false
			}
		}
		return true
	})
	stop()
	workers.Wait()
	f.until("a queue that holds nothing", func() bool {
		s, err := f.Stats(f.ctx)
		if err != nil {
			return false
		}
		left := s.Delayed + s.Dead
		for _, s := range s.Streams {
			left += s.Running + s.Waiting
		}
		if left > 0 { // the second entry of an id that has ended
			if c, err := f.Consumer("last").Claim(f.ctx); err == nil && c != nil {
				t.Errorf("%s runs after its end", c.ID)
			}
		}
		return left == 0
	})
	twice := 0
	for _, id := range l.enqueued {
		switch n := l.finished[id]; {
		case n == 0:
			t.Errorf("%s has succeeded, and nobody has finished it", id)
		case n > 1:
			twice++
		}
	}
	runs := 0
	for _, n := range l.ran {
		runs += n
	}
	s, err := f.Stats(f.ctx)
	f.must(err)
	t.Logf("%d jobs, %d runs, %d leases lost, %d finished twice", len(l.enqueued), runs, s.Total.Lost, twice)
	if keeps && (twice > 0 || runs != len(l.enqueued)+int(s.Total.Lost)) {
		t.Error("a job was finished twice, or run twice without a lost lease")
	}
}

// again does what failed until it succeeds or is lost.
func (l *load) again(ctx context.Context, do func(context.Context) error) (err error) {
	backoff := redisclient.Backoff{Min: 5 * time.Millisecond, Max: 200 * time.Millisecond}
	for {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		err = do(once)
		cancel()
		if err == nil || errors.Is(err, queue.ErrLost) || backoff.Wait(ctx) != nil {
			return err
		}
	}
}

func (l *load) produce(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprint("job-", i)
		l.enqueued = append(l.enqueued, id)
		_ = l.again(ctx, func(ctx context.Context) error {
			_, err := l.Enqueue(ctx, queue.Job{ID: id})
			return err
		})
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (l *load) work(ctx context.Context, name string) {
	w := l.Consumer(name)
	for ctx.Err() == nil {
		var c *queue.Claim
		_ = l.again(ctx, func(ctx context.Context) (err error) {
			c, err = w.Claim(ctx)
			return err
		})
		if c == nil {
			continue
		}
		l.mu.Lock()
		l.ran[c.ID]++
		l.mu.Unlock()
		if l.again(ctx, func(ctx context.Context) error { return c.Finish(ctx, []byte("r")) }) == nil {
			l.mu.Lock()
			l.finished[c.ID]++
			l.mu.Unlock()
		}
	}
}

func TestSentinelUnderLoad(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	for _, tt := range []struct {
		name   string
		change func(key string, more func())
	}{
		{"failover in good order", func(string, func()) { s.Failover() }},
		{"the master is killed", func(string, func()) {
			before := s.Master()
			before.Kill()
			eventually(t, "another is master", func() bool { return s.Master() != before })
			before.Restart()
		}},
		{"the master hangs and comes back", func(_ string, more func()) {
			before := s.Master()
			before.Pause()
			eventually(t, "another is master", func() bool { return s.Master() != before })
			more()
			before.Resume()
		}},
	} {
		// One after the other: they change the same servers. A replica that is
		// made master may not have had everything.
		t.Run(tt.name, func(t *testing.T) { underLoad(t, &s.Deployment, false, tt.change) })
	}
}

func TestClusterUnderLoad(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	for _, tt := range []struct {
		name   string
		keeps  bool
		change func(key string, more func())
	}{
		{"the slot migrates", true, func(key string, more func()) {
			for range 3 {
				c.Migrate(key)
				more()
			}
		}},
		{"failover in good order", true, func(key string, _ func()) { c.Failover(key) }},
		{"the master hangs", false, func(key string, more func()) {
			before := c.Primary(key)
			before.Pause()
			more()
			before.Resume()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { underLoad(t, &c.Deployment, tt.keeps, tt.change) })
	}
}

// eventually waits for what servers agree on between themselves.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to this: %s", what)
		}
	}
}
