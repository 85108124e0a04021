package redisworker

import (
	"context"
	"strings"
	"testing"
	"time"

	"gpuherd/units/queue"
)

// addOdd puts jobs in that the script does not judge itself: their ids are no
// ASCII. So the worker is given several of them unbegun.
func (f *fixture) addOdd(n int) {
	f.t.Helper()
	for i := range n {
		f.add("ü" + strings.Repeat("i", i))
	}
}

// noExpiry: what is held is so until its holder lets it go.
var noExpiry = queue.Options{Lease: time.Hour}

// pending is how many entries consumers hold.
func (f *fixture) pending() int64 {
	f.t.Helper()
	p, err := f.redis.XPending(f.ctx, f.queue.Key("jobs"), queue.Group).Result()
	if err != nil {
		f.t.Fatal(err)
	}
	return p.Count
}

// TestLongJobLetsUnbegunGo: what was read with a long job, and has not begun, is
// run elsewhere while it goes on, and not once its lease has run out.
func TestLongJobLetsUnbegunGo(t *testing.T) {
	t.Parallel()
	f := setup(t, noExpiry)
	f.addOdd(100)
	var ran runs
	begun, end := make(chan string, 1), make(chan struct{})
	log, stop := f.start(Options{Consumer: "a", Executor: f.blocks(&ran, begun, end)})
	f.begins(begun, log)
	stopOther := f.quick("b", &ran)
	f.until("none waits for one that takes its time", func() bool { return ran.number() == 100 })
	close(end)
	for _, stop := range []func() error{stop, stopOther} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestStopLeavesNothingUnbegun: a worker that ends holds nothing.
func TestStopLeavesNothingUnbegun(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.addOdd(60)
	var ran runs
	log, stop := f.start(Options{Consumer: "a", MaxJobs: 20, Transient: true, Executor: ran.quick()})
	f.until("its end", func() bool { return strings.Contains(log.String(), "for a successor to begin anew") })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := f.pending(); n != 0 {
		t.Errorf("%d entries are held by a worker that has ended:\n%s", n, log)
	}
	stats, err := f.queue.Stats(f.ctx)
	if err != nil || len(stats.Workers) > 0 {
		t.Errorf("its name is left over: %+v, %v", stats.Workers, err)
	}
}

// TestDrainOfSeveralWithoutRedis: Redis hangs, and the worker is killed by systemd
// unless it ends within stopMargin after its drain.
func TestDrainOfSeveralWithoutRedis(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.addMany(100)
	var ran runs
	begun := make(chan string, 1)
	const drain = 4 * time.Second
	log, stop := f.start(Options{Consumer: "a", DrainTimeout: drain, Executor: f.blocks(&ran, begun, nil)})
	f.begins(begun, log)
	f.srv.Pause()
	begin := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	took := time.Since(begin)
	f.srv.Resume()
	if took > drain+stopMargin {
		t.Errorf("it took %v to end, above %v:\n%s", took, drain+stopMargin, log)
	}
}

// TestLongJobLetsOthersGoLater: Redis restarts just when the others are to be let
// go. They are as soon as it answers, while their leases still hold.
func TestLongJobLetsOthersGoLater(t *testing.T) {
	t.Parallel()
	f := setup(t, noExpiry)
	f.addMany(100)
	var ran runs
	begun, end := make(chan string, 1), make(chan struct{})
	log, stop := f.start(Options{Consumer: "a", Executor: f.blocks(&ran, begun, end)})
	f.begins(begun, log)
	f.srv.Kill()
	time.Sleep(100 * time.Millisecond) // the others were to be let go
	f.srv.Restart()
	f.until("it alone is held", func() bool { return f.pending() == 1 })
	close(end)
	f.until("the end of all", f.succeeded(100, ""))
	if err := stop(); err != nil {
		t.Error(err)
	}
	f.once(&ran, 100)
}

// TestPauseLeavesNothingUnbegun: what has not begun is not held while the queue
// is paused.
func TestPauseLeavesNothingUnbegun(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.addOdd(100)
	var ran runs
	begun := make(chan string, 1)
	held := make(chan int64, 1)
	log, stop := f.start(Options{Consumer: "a", Notify: func(state string) {
		if state == "STATUS=queue is paused" {
			select {
			case held <- f.pending():
			default:
			}
		}
	}, Executor: script(func(_ context.Context, a Attempt, _ func(string)) Outcome {
		ran.add(a.ID)
		if ran.number() > 2*proven && f.pending() > 4 {
			select {
			case begun <- a.ID:
				if err := f.queue.Pause(f.ctx); err != nil {
					t.Error(err)
				}
			default:
			}
		}
		return Outcome{Result: []byte("r")}
	})})
	f.begins(begun, log)
	select {
	case n := <-held:
		if n > 0 {
			t.Errorf("%d entries are held while the queue is paused", n)
		}
	case <-f.ctx.Done():
		t.Fatalf("it does not pause:\n%s", log)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestCancelledBeforeItBegan: a job that was claimed with others, and is cancelled
// while one of them runs, does not begin.
func TestCancelledBeforeItBegan(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.addMany(100)
	var ran runs
	cancelled := make(chan string, 1)
	done := false
	log, stop := f.start(Options{Consumer: "a", Executor: script(func(_ context.Context, a Attempt, _ func(string)) Outcome {
		ran.add(a.ID)
		if !done && ran.number() > 2*proven {
			if held := f.running(); len(held) > 2 && held[len(held)-1] != a.ID {
				done = true
				id := held[len(held)-1]
				if state, err := f.queue.Cancel(f.ctx, id); err != nil || state != queue.Running {
					t.Errorf("%s is %s, %v", id, state, err)
				}
				time.Sleep(together * 2 / 3) // the worker hears of it, and does not let the others go
				cancelled <- id
			}
		}
		return Outcome{Result: []byte("r")}
	})})
	id := f.begins(cancelled, log)
	f.until("the end of all others", f.succeeded(100, id))
	if err := stop(); err != nil {
		t.Error(err)
	}
	if r, times := f.record(id), ran.copied()[id]; r.State != queue.Cancelled || times > 0 {
		t.Errorf("%s was run %d times: %+v", id, times, r)
	}
}
