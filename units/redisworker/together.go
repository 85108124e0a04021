package redisworker

import (
	"context"
	"errors"
	"slices"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
)

// Jobs that take next to no time are claimed several at once, and Redis is told
// of several at once: else round trips are most of what there is to do, and a
// Redis that serves a fleet has twice the work. What goes wrong or takes its
// time ends that: all others are handed back.
const (
	// MostTogether is how many jobs a worker claims at once, at most.
	MostTogether = 8
	// together is how long jobs that were claimed at once should take in all. One
	// that takes as long alone does not let the others wait.
	together = 10 * time.Millisecond
	// proven is how many jobs in a row have to be short before any are claimed
	// together.
	proven = 16
)

// A pace is how fast the last jobs were.
type pace struct {
	short int           // how many in a row went well, and took no longer than half of together
	mean  time.Duration // of those
}

func (p *pace) ran(v Verdict, took time.Duration) {
	if v != Succeeded || took > together/2 {
		*p = pace{}
		return
	}
	p.short++
	p.mean += (took - p.mean) / time.Duration(min(p.short, proven))
}

// most says how many jobs to claim at once.
func (p *pace) most() int {
	if p.short < proven {
		return 1
	}
	return int(min(together/max(p.mean, 1), MostTogether))
}

// most says how many jobs to claim at once after as many: none that only a
// successor would run.
func (w *Worker) most(after int) int {
	if w.MaxJobs > 0 {
		return min(w.pace.most(), max(w.MaxJobs-after, 0))
	}
	return w.pace.most()
}

// A finished is a job that ended well, of which Redis has not heard.
type finished struct {
	queue.Done
	took time.Duration
}

func (w *Worker) dones() []queue.Done {
	all := make([]queue.Done, len(w.done))
	for i, f := range w.done {
		all[i] = f.Done
	}
	return all
}

// others says whether others were claimed with the job that runs, and Redis
// has not heard of them.
func (w *Worker) others() bool { return len(w.done)+len(w.next)+w.consumer.Unbegun() > 0 }

// finish tells Redis of the jobs that ended well, and claims up to most others.
func (w *Worker) finish(ctx context.Context, most int) error {
	if len(w.done) == 0 {
		return nil
	}
	var lost []*queue.Claim
	err := w.write(ctx, w.done[len(w.done)-1].Claim, "finished", func(ctx context.Context) (err error) {
		w.next, lost, err = w.consumer.FinishAll(ctx, w.dones(), most)
		return err
	})
	w.told(lost, err)
	return err
}

// told notes that Redis has heard of the jobs that ended well, but of the lost,
// or why it has not.
func (w *Worker) told(lost []*queue.Claim, why error) {
	for _, f := range w.done {
		err := why
		if slices.Contains(lost, f.Claim) {
			err = queue.ErrLost
		}
		w.record(f.Claim, "finished", err, "took", f.took)
	}
	w.done = nil
}

// handBack tells Redis of the jobs that ended well, and hands those back that
// were claimed and have not begun.
func (w *Worker) handBack(ctx context.Context) {
	next := w.next
	_ = w.finish(ctx, 0) // the log has it
	for _, c := range next {
		w.release(ctx, c)
	}
	w.next = nil
	if w.consumer.Unbegun() == 0 || w.deaf != nil {
		return
	}
	// A worker that goes on has them still.
	if err := do(w, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleGrace)
		defer cancel()
		return w.consumer.PutBack(ctx)
	}); err != nil {
		w.Log.Warn("what has not begun is not handed back", "error", redisclient.Diagnose(err))
	}
}

// part does the same beside a job that takes its time, and closes the channel.
// What Redis has not heard then stays for the next time, or for handBack.
func (w *Worker) part(ctx context.Context) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleGrace)
		defer cancel()
		if len(w.done) > 0 {
			_, lost, err := w.consumer.FinishAll(ctx, w.dones(), 0)
			if err != nil {
				return
			}
			w.told(lost, nil)
		}
		for len(w.next) > 0 {
			err := w.next[0].Release(ctx)
			if err != nil && !errors.Is(err, queue.ErrLost) {
				return
			}
			w.record(w.next[0], "handed back", err)
			w.next = w.next[1:]
		}
		_ = w.consumer.PutBack(ctx)
	}()
	return ended
}
