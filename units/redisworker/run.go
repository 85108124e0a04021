package redisworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
)

var (
	errDrain     = errors.New("there is no time left to finish it")
	errCancelled = errors.New("the job is cancelled")
	errMemory    = errors.New("the kernel killed a process for want of memory")
)

// job runs a claimed job and tells Redis what became of it. An error says that
// no job can be run.
func (w *Worker) job(ctx context.Context, c *queue.Claim) error {
	a := Attempt{ID: c.ID, Payload: c.Payload, Number: c.Attempt, MaxAttempts: c.MaxAttempts, Timeout: c.Timeout, Trace: c.Trace}
	if a.Timeout == 0 {
		a.Timeout = w.JobTimeout
	}
	w.Log.Info("job begins", "job", c.ID, "attempt", c.Attempt)
	begin := time.Now()

	run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	l := newLease(w.Queue.Lease(), c.Renew, w.Log.With("job", c.ID))
	keep, release := context.WithCancel(run)
	defer release()
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(keep)
	}()
	done, kills := make(chan Outcome, 1), w.kills()
	go func() { done <- w.Executor.Run(run, a, l.tell) }()

	o := w.attend(ctx, c, l, done, cancel, kills)
	if n := w.kills(); n > kills && (o.Verdict == Failed || o.Verdict == Stopped) {
		o.Error = fmt.Sprintf("out of memory: the kernel killed %d of its processes, %s", n-kills, o.Error)
		o.Verdict, o.Reason = Failed, ReasonOOM
	}
	// What follows is fenced by itself, and a renewal after it would find the
	// lease gone.
	release()
	<-kept
	took := time.Since(begin)
	w.pace.ran(o.Verdict, took)
	if o.Verdict != Succeeded || took > together {
		w.handBack(ctx)
	}
	err := w.end(ctx, c, o, took)
	if err == nil && !w.stopped(ctx) {
		err = w.judge(ctx, o)
	}
	if err == nil {
		w.say("idle")
	}
	return err
}

// kills is how many processes the kernel has killed for want of memory.
func (w *Worker) kills() uint64 {
	if w.Memory == nil {
		return 0
	}
	n, err := w.Memory.Kills()
	if err != nil {
		w.Log.Warn("cannot tell whether a job runs out of memory", "error", err)
		w.Memory = nil
	}
	return n
}

// attend waits for the job to end, and makes it end where it must.
func (w *Worker) attend(ctx context.Context, c *queue.Claim, l *lease, done <-chan Outcome, cancel context.CancelCauseFunc, kills uint64) Outcome {
	drain, lost, now, cancelled := w.drain, l.lost, ctx.Done(), c.Cancelled()
	var timeout <-chan time.Time
	if w.stopped(ctx) {
		drain = nil
		timeout = time.After(time.Until(w.over()))
	}
	// Half a job is of no use: where a part of it was killed, it has to end.
	ended := false
	maimed := func() {
		if !ended && w.kills() > kills {
			ended = true
			w.Log.Warn("out of memory, the job is ended", "job", c.ID, "attempt", c.Attempt)
			cancel(errMemory)
		}
	}
	// Nor are others to wait for it.
	var long <-chan time.Time
	var parted <-chan struct{}
	if w.others() {
		long = time.After(together)
	}
	describe := func() { w.say(jobStatus(c, l, !w.deadline.IsZero())) }
	describe()
	var o *Outcome
	for o == nil || parted != nil {
		select {
		case ended := <-done:
			o = &ended
		case <-long:
			long, parted = nil, w.part(ctx)
		case <-parted:
			parted = nil
			// Redis was away. By the end of a drain this is over.
			if w.others() && (w.deadline.IsZero() || time.Until(w.deadline) > 2*settleGrace) {
				long = time.After(time.Second)
			}
		case <-w.tick.C:
			w.beat()
			describe()
			maimed()
		case <-cancelled:
			cancelled = nil
			w.Log.Info("job is cancelled, and ended", "job", c.ID, "attempt", c.Attempt)
			cancel(errCancelled)
		case <-lost:
			lost = nil
			w.Log.Warn("lease is lost, the job is ended", "job", c.ID, "attempt", c.Attempt)
			cancel(ErrNow)
		case <-drain:
			drain = nil
			w.stopping()
			left := time.Until(w.over())
			w.Log.Info("draining: the job may go on", "job", c.ID, "for", left.Round(time.Second))
			timeout = time.After(left)
			describe()
			maimed()
		case <-timeout:
			timeout = nil
			w.Log.Warn("drain is over, the job is ended", "job", c.ID, "attempt", c.Attempt)
			cancel(errDrain)
		case <-now:
			now = nil
			w.stopping()
			cancel(ErrNow)
		}
	}
	return *o
}

// end settles a claim according to its outcome.
func (w *Worker) end(ctx context.Context, c *queue.Claim, o Outcome, took time.Duration) error {
	more := []any{"took", took.Round(time.Millisecond)}
	if o.Error != "" {
		more = append(more, "error", o.Error)
	}
	if o.Leftover {
		w.Log.Error("processes of the job do not end", "job", c.ID)
	}
	switch o.Verdict {
	case Succeeded:
		w.done = append(w.done, finished{queue.Done{Claim: c, Result: o.Result}, took.Round(time.Millisecond)})
		switch {
		case w.stopped(ctx):
			w.handBack(ctx)
		case len(w.next) == 0:
			_ = w.finish(ctx, w.most(w.jobs+1)) // the log has it
		}
	case Stopped:
		if o.Leftover {
			// It may still be at work: nobody else is to begin before the
			// lease has run out.
			return nil
		}
		w.release(ctx, c, more...)
	case Unable:
		w.release(ctx, c, more...)
		return fmt.Errorf("cannot run jobs: %s", o.Error)
	case Unready:
		w.release(ctx, c, more...)
		w.pause(ctx, time.Second)
		return w.able(ctx)
	default:
		f := queue.Failure{Error: o.Error, Reason: o.Reason, Stderr: o.Stderr, Permanent: o.Verdict == Permanent, Delay: o.Delay}
		w.settle(ctx, c, "failed", func(ctx context.Context) error {
			dead, err := c.Fail(ctx, f)
			if dead && err == nil {
				w.Log.Warn("job is dead", "job", c.ID, "attempts", c.Attempt, "error", o.Error)
			}
			return err
		}, more...)
	}
	return nil
}

// progressPause is the least time from one progress that Redis is told to the
// next.
const progressPause = time.Second

// A lease is kept by a goroutine of its own, apart from the job's process.
type lease struct {
	renew    func(ctx context.Context, progress string) error // see queue.Claim.Renew
	log      *slog.Logger
	every    time.Duration
	progress atomic.Pointer[string] // the job's latest
	news     chan struct{}          // has room for one: progress may be another
	away     atomic.Pointer[string] // what Redis did instead of the last renewal; nil: it renewed
	lost     chan struct{}          // closed when the lease is another's
}

func newLease(d time.Duration, renew func(context.Context, string) error, log *slog.Logger) *lease {
	return &lease{renew: renew, log: log, every: d / 6, news: make(chan struct{}, 1), lost: make(chan struct{})}
}

// tell notes how far the job is.
func (l *lease) tell(progress string) {
	l.progress.Store(&progress)
	select {
	case l.news <- struct{}{}:
	default: // keep has not seen the one before yet
	}
}

// keep renews until ctx is done or the lease is lost. Redis may be away for
// longer than the lease: it is for Redis to say then whose it is. Progress comes
// with a renewal, and brings one forward while Redis answers.
func (l *lease) keep(ctx context.Context) {
	backoff := redisclient.Backoff{Min: l.every / 20, Max: l.every}
	due := time.Now().Add(l.every)
	timer := time.NewTimer(l.every)
	defer timer.Stop()
	// Jobs that end before that are not held up by it.
	told, toldAt := "", time.Now().Add(progressPause/10-progressPause)
	unsaid := func() string {
		if p := l.progress.Load(); p != nil && *p != told {
			return *p
		}
		return ""
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.news:
			if soonest := toldAt.Add(progressPause); unsaid() != "" && backoff.Tries() == 0 && soonest.Before(due) {
				due = soonest
				timer.Reset(time.Until(due))
			}
			continue
		case <-timer.C:
		}
		progress, wait := unsaid(), l.every
		renew, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := l.renew(renew, progress)
		cancel()
		switch {
		case err == nil:
			if l.away.Swap(nil) != nil {
				l.log.Info("Redis answers, the lease still holds")
			}
			backoff.Reset()
			if progress != "" {
				told, toldAt = progress, time.Now()
			}
		case errors.Is(err, queue.ErrLost):
			close(l.lost)
			return
		case ctx.Err() != nil:
			return
		default:
			says := redisclient.Diagnose(err).Says()
			if l.away.Swap(&says) == nil {
				l.log.Warn("cannot renew the lease, the job goes on", "error", err)
			}
			wait = backoff.Next()
		}
		due = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

// jobStatus is what `systemctl status` shows: the job's ID comes second, so
// that a program can find it.
func jobStatus(c *queue.Claim, l *lease, draining bool) string {
	s := fmt.Sprintf("job %s, attempt %d of %d", c.ID, c.Attempt, c.MaxAttempts)
	if p := l.progress.Load(); p != nil {
		text := *p
		// Text that is no JSON may read as a number too: "inf", "0x1p3".
		if _, err := strconv.ParseFloat(text, 64); err == nil && json.Valid([]byte(text)) {
			text += "%"
		}
		if r := []rune(text); len(r) > 100 {
			text = string(r[:100]) + "…"
		}
		s += ": " + text
	}
	if draining {
		s += " (draining)"
	}
	if says := l.away.Load(); says != nil {
		s += " (Redis " + *says + ")"
	}
	return s
}
