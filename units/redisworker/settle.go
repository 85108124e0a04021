package redisworker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gpuherd/units/queue"
)

// settleGrace is how long after the end of a drain the worker tries to tell
// Redis of its last jobs. With the time to end that job it stays below
// stopMargin.
const settleGrace = 2 * time.Second

// settle tells Redis what became of a claim. more is for the log.
func (w *Worker) settle(ctx context.Context, c *queue.Claim, what string, tell func(context.Context) error, more ...any) {
	w.record(c, what, w.write(ctx, c, what, tell), more...)
}

// release hands a claim back, which ends a job that is to be cancelled. more is
// for the log.
func (w *Worker) release(ctx context.Context, c *queue.Claim, more ...any) {
	what := "handed back"
	if c.IsCancelled() {
		what = "cancelled"
	}
	w.settle(ctx, c, what, c.Release, more...)
}

// write tells Redis what became of a claim, until it has heard it or there is no
// time left, for this one or another.
func (w *Worker) write(ctx context.Context, c *queue.Claim, what string, tell func(context.Context) error) error {
	for w.deaf == nil {
		err := do(w, func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return tell(ctx)
		})
		if err == nil || errors.Is(err, queue.ErrLost) {
			w.back()
			return err
		}
		w.say(fmt.Sprintf("job %s %s, but Redis %s", c.ID, what, w.away(err)))
		if w.stopped(ctx) && (ctx.Err() != nil || time.Now().After(w.over().Add(settleGrace))) {
			w.deaf = err
			break
		}
		w.wait(w.backoff.Next())
	}
	return w.deaf
}

// record has the log say what became of a claim. err is why Redis does not know.
func (w *Worker) record(c *queue.Claim, what string, err error, more ...any) {
	log := w.Log.With(append([]any{"job", c.ID, "attempt", c.Attempt}, more...)...)
	switch {
	case err == nil:
		log.Info("job " + what)
	case errors.Is(err, queue.ErrLost):
		log.Warn("lease is lost, nothing is written")
	default:
		// Its lease runs out, or its successor takes it at once.
		log.Error("cannot tell Redis before the end", "what", what, "cause", err)
	}
}
