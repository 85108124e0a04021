// Package redisworker is the worker: it claims a job from the queue, keeps its
// lease, runs it, and writes what became of it. It runs under systemd, which
// it tells that it is ready, alive and what it does, or from a terminal.
package redisworker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
)

// statusPause is the least time between two STATUS= messages.
const statusPause = 250 * time.Millisecond

// Options of a worker. Ping, Queue, Consumer, Executor and Log must be set.
type Options struct {
	Queue    *queue.Queue
	Consumer string // of no other living worker, and the same after a restart
	Executor Executor
	Log      *slog.Logger

	Ping  func(context.Context) error // whether Redis answers
	Where string                      // what Redis is called in messages, without a password

	// Notify tells systemd; nil for nobody. See sd_notify(3).
	Notify func(state string)
	// Watchdog is how often systemd wants to hear WATCHDOG=1; 0 for never.
	Watchdog time.Duration

	// Transient: nobody will work under this consumer's name again.
	Transient bool

	// DrainTimeout is for the job to finish once drain is asked for. 0: what
	// StopTimeout leaves, or 25 s where nothing is known of that.
	DrainTimeout time.Duration
	// StopTimeout, unless nil, says how long systemd waits for the end.
	StopTimeout func(context.Context) (time.Duration, error)
	// Extend: DrainTimeout may be longer than that, and systemd is told so.
	Extend bool

	JobTimeout time.Duration // of an attempt whose job does not say; 0: none

	// Fit says why the GPU does not work; nil: it works. It is asked before the
	// worker is ready, and after three failures in a row.
	Fit func(context.Context) error

	// Memory is the worker's own and that of its jobs; nil: nothing is known.
	Memory *Memory
	// RecycleMemory is the share of MemoryMax=, in per cent, above which Run
	// returns after a job, for a successor to begin anew; 0: never.
	RecycleMemory int
	// MaxJobs is after how many jobs it does so; 0: never.
	MaxJobs int
}

// A Worker runs one job at a time.
type Worker struct {
	Options
	consumer *queue.Consumer
	backoff  redisclient.Backoff
	drain    <-chan struct{}
	next     []*queue.Claim // claimed while the last jobs were finished
	done     []finished     // Redis has not heard of them: so next is not empty, or a job runs
	pace     pace
	deaf     error // Redis did not hear of a job, and there is no time left

	tick     *time.Ticker
	lastBeat time.Time
	status   string    // what there is to say
	said     string    // what systemd heard last
	saidAt   time.Time // and when
	ready    bool      // systemd was told so
	deadline time.Time // when a drain has to be over; zero: none is asked for
	extended time.Time // when systemd was last told to wait for it
	known    bool      // deadline is all that there is
	jobs     int       // that were run
	failures int       // attempts that failed in a row
}

// New returns a worker that has not begun.
func New(o Options) *Worker {
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	w := &Worker{Options: o, consumer: o.Queue.Consumer(o.Consumer)}
	w.consumer.Duplicate = func(id string) {
		w.Log.Info("duplicate id, acknowledged without running", "job", id)
	}
	return w
}

// Run works until drain is closed, and then ends the job it has: finished if
// it does so within DrainTimeout, else killed and handed back. When ctx is
// done that happens at once. Redis being away never ends it. It also returns
// where a successor is to begin anew. The error is nil unless no job can be run
// at all; it is ErrUnfit where that is the GPU's fault.
//
// All that may take long is done by other goroutines, for which this one
// waits; systemd hears of it only as long as it goes round.
func (w *Worker) Run(ctx context.Context, drain <-chan struct{}) error {
	every := time.Second
	if w.Watchdog > 0 {
		every = min(every, w.Watchdog/3)
	}
	w.tick = time.NewTicker(every)
	defer w.tick.Stop()
	w.drain = drain

	if err := w.able(ctx); err != nil {
		return err
	}
	if !w.stopped(ctx) {
		if err := w.fit(ctx); err != nil {
			return err
		}
	}
	w.say("waiting for Redis at " + w.Where)
	if w.answers(ctx) {
		w.ready = true
		w.Log.Info("ready", "redis", w.Where, "consumer", w.Consumer)
		w.Notify("READY=1\nSTATUS=idle")
		w.status, w.said = "idle", "idle"
	}
	unlisten := w.listen(ctx)
	err := w.work(ctx)
	unlisten()
	w.stopping()
	w.leave(ctx)
	return err
}

// leave says that nobody waits for jobs here any more.
func (w *Worker) leave(ctx context.Context) {
	if err := do(w, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleGrace)
		defer cancel()
		switch {
		case w.Transient:
			return w.consumer.Leave(ctx)
		case w.backoff.Tries() > 0: // Redis is away, and the others look by themselves
			return nil
		default:
			return w.consumer.GiveUpSeat(ctx)
		}
	}); err != nil {
		w.Log.Warn("Redis does not hear that the worker leaves", "consumer", w.Consumer, "error", err)
	}
}

// able waits until the executor can run jobs, or the worker is told to stop.
// The error says that it never will.
func (w *Worker) able(ctx context.Context) error {
	backoff := redisclient.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}
	for !w.stopped(ctx) {
		err := do(w, func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return w.Executor.Check(ctx)
		})
		switch {
		case err == nil:
			if backoff.Tries() > 0 {
				w.Log.Info("jobs can be run")
			}
			return nil
		case !errors.Is(err, ErrNotReady):
			return err
		case backoff.Tries() == 0:
			w.Log.Warn("no job can be run yet, trying again", "error", err)
		}
		w.extend()
		w.say("waiting: " + err.Error())
		w.pause(ctx, backoff.Next())
	}
	return nil
}

// listen has jobs cancelled at once, and not only with the next renewal, until
// the function that it returns is called.
func (w *Worker) listen(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.consumer.Listen(ctx, func(err error) {
			w.Log.Info("jobs are cancelled with the next renewal of their lease only", "error", redisclient.Diagnose(err))
		})
	}()
	return func() {
		cancel()
		<-ended
	}
}

// extend has systemd wait longer for READY=1: starting takes as long as what
// the worker needs is away, and TimeoutStartSec= is not to end it, sd_notify(3).
func (w *Worker) extend() {
	if !w.ready {
		w.Notify("EXTEND_TIMEOUT_USEC=30000000")
	}
}

// answers waits for Redis to answer for the first time; false if told to stop.
func (w *Worker) answers(ctx context.Context) bool {
	for !w.stopped(ctx) {
		err := do(w, func() error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return w.Ping(ctx)
		})
		if err == nil {
			w.back()
			return true
		}
		w.extend()
		w.away(err)
		w.pause(ctx, w.backoff.Next())
	}
	return false
}

// work claims and runs jobs until told to stop, or a successor is to begin
// anew.
func (w *Worker) work(ctx context.Context) error {
	err := w.run(ctx)
	w.handBack(ctx)
	return err
}

func (w *Worker) run(ctx context.Context) error {
	type claimed struct {
		claim *queue.Claim
		err   error
	}
	for !w.stopped(ctx) {
		var r claimed
		if len(w.next) > 0 {
			r.claim, w.next = w.next[0], w.next[1:]
		} else {
			r = do(w, func() claimed {
				c, err := w.claim(ctx)
				return claimed{c, err}
			})
		}
		switch {
		case errors.Is(r.err, queue.ErrPaused):
			w.back()
			w.handBack(ctx)
			w.say("queue is paused")
			w.pause(ctx, time.Second)
		case r.err != nil:
			w.away(r.err)
			w.pause(ctx, w.backoff.Next())
		case r.claim == nil:
			w.back()
			w.say("idle")
		case w.stopped(ctx):
			w.release(ctx, r.claim)
		case r.claim.IsCancelled():
			// It was claimed with others, one of which ran meanwhile.
			w.release(ctx, r.claim)
			if len(w.next) == 0 {
				_ = w.finish(ctx, w.most(w.jobs)) // the log has it
			}
		default:
			w.back()
			if err := w.job(ctx, r.claim); err != nil {
				return err
			}
			w.jobs++
			if why := w.worn(); why != "" && !w.stopped(ctx) {
				w.Log.Info("ending, for a successor to begin anew", "reason", why)
				return nil
			}
		}
	}
	return nil
}

// claim claims a job, and does not wait for one once the worker is told to stop.
// Not by ctx: a read that was given up may have been given a job.
func (w *Worker) claim(ctx context.Context) (*queue.Claim, error) {
	stop, claimed := ctx.Done(), make(chan struct{})
	ctx = context.WithoutCancel(ctx)
	var waking sync.WaitGroup
	waking.Go(func() {
		select {
		case <-claimed:
			return
		case <-w.drain:
		case <-stop:
		}
		for {
			wake, cancel := context.WithTimeout(ctx, time.Second)
			_ = w.consumer.Wake(wake) // else the wait ends by itself
			cancel()
			select {
			case <-claimed:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	defer waking.Wait()
	defer close(claimed)
	return w.consumer.Claim(ctx)
}

// do runs f beside the main loop, which goes on telling systemd that it lives:
// for so long as anything here may take, not for ever.
func do[T any](w *Worker, f func() T) T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	begin := time.Now()
	for {
		select {
		case v := <-done:
			return v
		case <-w.tick.C:
			if time.Since(begin) < time.Minute {
				w.beat()
			}
		}
	}
}

// pause waits d, and less if told to stop.
func (w *Worker) pause(ctx context.Context, d time.Duration) { w.sleep(d, w.drain, ctx.Done()) }

// wait waits d, told to stop or not.
func (w *Worker) wait(d time.Duration) { w.sleep(d, nil, nil) }

// sleep waits d, or until one of the channels is closed.
func (w *Worker) sleep(d time.Duration, drain, done <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case <-drain:
			return
		case <-done:
			return
		case <-w.tick.C:
			w.beat()
		}
	}
}

// beat tells systemd that the main loop goes round, and what it has not heard.
func (w *Worker) beat() {
	w.tell()
	w.prolong()
	if w.Watchdog > 0 && time.Since(w.lastBeat) >= w.Watchdog/4 {
		w.lastBeat = time.Now()
		w.Notify("WATCHDOG=1")
	}
}

// say notes what the worker does. systemd makes a signal on D-Bus of each
// status, so with short jobs it hears of some only.
func (w *Worker) say(status string) {
	w.status = status
	w.tell()
}

func (w *Worker) tell() {
	if w.status != w.said && time.Since(w.saidAt) >= statusPause {
		w.said, w.saidAt = w.status, time.Now()
		w.Notify("STATUS=" + w.status)
	}
}

// away notes that Redis did not do what it should, and returns what it did
// instead; the log hears it once.
func (w *Worker) away(err error) (says string) {
	trouble := redisclient.Diagnose(err)
	if w.backoff.Tries() == 0 {
		w.Log.Warn("Redis "+trouble.Says()+", trying again", "redis", w.Where, "error", trouble)
	}
	w.say(trouble.Status(w.Where))
	return trouble.Says()
}

// back notes that it does again.
func (w *Worker) back() {
	if w.backoff.Tries() > 0 {
		w.Log.Info("Redis answers", "redis", w.Where)
		w.backoff.Reset()
	}
}
