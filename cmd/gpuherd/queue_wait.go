package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
)

// Between two looks at a job that is waited for: quick ones are told at once,
// and long ones cost Redis two commands a second.
const (
	firstLook = 20 * time.Millisecond
	lastLook  = 500 * time.Millisecond
)

// awaitResult waits for the job that was put in, prints what came of it, and
// returns the exit status for that.
func (a *app) awaitResult(ctx context.Context, q *queueClient, o *addOptions) error {
	waitCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(errInterrupted) })()
	if o.waitFor > 0 {
		defer time.AfterFunc(o.waitFor, func() { cancel(errTimeUp) }).Stop()
	}
	id := o.job.ID
	r, err := a.awaitEnd(waitCtx, q, id)
	if cause := context.Cause(waitCtx); err != nil && cause != nil {
		a.complain("%s; gpuherd queue show %s", cause, id)
		return exitStatus(exitUnended)
	}
	if err != nil {
		return q.trouble(err)
	}
	if o.asJSON {
		j, _, err := q.Find(ctx, id)
		if err != nil {
			return q.trouble(err)
		}
		if err := a.printJSON(newQueueDetail(j, r)); err != nil {
			return err
		}
	}
	switch r.State {
	case queue.Dead:
		d := newQueueJob(id, 0, 0, r)
		a.complain("job %s is dead after %s: %s; gpuherd queue show %s", id, count(r.Attempts, "attempt"), d.failure(), id)
		return exitStatus(exitDead)
	case queue.Cancelled:
		a.complain("job %s was cancelled", id)
		return exitStatus(exitCancelled)
	}
	if o.asJSON {
		return nil
	}
	return a.printBytes(r.Result)
}

// awaitEnd waits until the job has ended, and shows how far it is. It waits for
// a Redis that is away, and says so once.
func (a *app) awaitEnd(ctx context.Context, q *queueClient, id string) (queue.Record, error) {
	line := a.newStatusLine()
	defer line.erase()
	begun, pause, away := time.Now(), firstLook, false
	for {
		r, known, err := q.Get(ctx, id)
		switch {
		case err == nil && !known:
			return r, fmt.Errorf("job %s is gone: somebody has deleted what Redis had of it", id)
		case err == nil && (r.State == queue.Succeeded || r.State == queue.Dead || r.State == queue.Cancelled):
			return r, nil
		case err == nil:
			away = false
			line.draw(waitText(id, r, time.Since(begun)))
		case ctx.Err() != nil || !passing(err):
			return r, err
		case !away:
			away = true
			line.erase()
			a.complain("%s; waiting for it", q.trouble(err))
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-time.After(pause):
			pause = min(2*pause, lastLook)
		}
	}
}

// barWidth is how many characters a whole bar has.
const barWidth = 24

// waitText is the updating line about a job.
func waitText(id string, r queue.Record, waited time.Duration) string {
	var parts []string
	state := r.State
	if r.State == queue.Running {
		percent, ok := percentage(r.Progress)
		switch {
		case ok:
			full := int(percent / 100 * barWidth)
			state = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + terminal.Percent(percent)
		case r.Progress != "":
			state += ": " + r.Progress
		}
		if r.Attempts > 1 {
			parts = append(parts, fmt.Sprintf("attempt %d", r.Attempts))
		}
	} else if r.Error != "" {
		state += " after " + r.Error
	}
	parts = append([]string{state}, parts...)
	parts = append(parts, terminal.Span(max(waited, time.Second)))
	return terminal.Inert(id + " " + strings.Join(parts, ", "))
}
