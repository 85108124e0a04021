package redisworker

import (
	"context"
	"fmt"
	"time"
)

const (
	// defaultDrain is for the job to finish where nothing else is known. With
	// stopMargin it is the TimeoutStopSec=30s that workers have.
	defaultDrain = 25 * time.Second
	// stopMargin is for ending the job and handing it back, before systemd kills
	// the worker.
	stopMargin = 5 * time.Second
	// longestDrain stands for a TimeoutStopSec=infinity.
	longestDrain = 30 * 24 * time.Hour
	// extension is how long systemd is told to wait, time and again, where a
	// drain may be longer than TimeoutStopSec=. It covers stopMargin.
	extension = 30 * time.Second
)

// stopped says whether to claim no more, and starts the drain's clock.
func (w *Worker) stopped(ctx context.Context) bool {
	select {
	case <-ctx.Done():
	case <-w.drain:
	default:
		return false
	}
	w.stopping()
	return true
}

func (w *Worker) stopping() {
	if w.deadline.IsZero() {
		drain := w.DrainTimeout
		if drain <= 0 {
			drain = defaultDrain
		}
		w.deadline = time.Now().Add(drain)
		w.Notify("STOPPING=1")
		w.prolong()
	}
}

// over returns when the drain, which was asked for, has to be over. What systemd
// has to say of that it is asked only if there is a job to wait for.
func (w *Worker) over() time.Time {
	if w.known {
		return w.deadline
	}
	w.known = true
	if w.DrainTimeout > 0 || w.StopTimeout == nil {
		return w.deadline
	}
	begin := w.deadline.Add(-defaultDrain)
	type answer struct {
		timeout time.Duration
		err     error
	}
	a := do(w, func() answer {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		d, err := w.StopTimeout(ctx)
		return answer{d, err}
	})
	if a.err != nil {
		w.Log.Warn("cannot ask systemd how long it waits", "assumed", defaultDrain+stopMargin, "error", a.err)
		return w.deadline
	}
	d := min(a.timeout, longestDrain)
	w.deadline = begin.Add(max(d-stopMargin, d/2))
	return w.deadline
}

// prolong has systemd wait for the end of a drain, however short
// TimeoutStopSec= is: see sd_notify(3), EXTEND_TIMEOUT_USEC.
func (w *Worker) prolong() {
	if now := time.Now(); w.Extend && now.Before(w.deadline) && now.Sub(w.extended) >= extension/6 {
		w.extended = now
		w.Notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
	}
}

// worn says why a successor is to go on, between two jobs; "": no need.
func (w *Worker) worn() string {
	if w.MaxJobs > 0 && w.jobs >= w.MaxJobs {
		return fmt.Sprintf("%d jobs were run", w.jobs)
	}
	if w.Memory == nil || w.RecycleMemory <= 0 {
		return ""
	}
	// Where the kernel does not tell, nothing is known to be wrong.
	used, limit, err := w.Memory.Use()
	if err != nil || limit == 0 || float64(used) <= float64(limit)*float64(w.RecycleMemory)/100 {
		return ""
	}
	return fmt.Sprintf("%d of %d bytes of memory are in use", used, limit)
}
