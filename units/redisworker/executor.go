package redisworker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gpuherd/units/queue"
)

// An Attempt is one run of a job.
type Attempt struct {
	ID          string
	Payload     []byte
	Number      int // from 1
	MaxAttempts int
	Timeout     time.Duration // 0: none
	Trace       string
}

// Verdict says how an attempt ended.
type Verdict int

// Verdicts.
const (
	Succeeded Verdict = iota
	Failed            // another attempt may go better
	Permanent         // no attempt will go better
	Stopped           // it was ended because its context was done
	Unable            // it never began, through no fault of the job
	Unready           // as Unable, but Check will tell when to try again
)

// An Outcome is what an Executor has to say about an attempt.
type Outcome struct {
	Verdict  Verdict
	Result   []byte // of Succeeded
	Error    string // one line, of all others
	Reason   string // of Failed: ReasonTimeout or ReasonOOM; "" for any other
	Stderr   string // what else the job said of it, at most 4 KiB: the end of its stderr
	Leftover bool   // what the job began could not be ended

	// Delay, of Failed: the next attempt has no sense before; 0: it is for the
	// queue to say.
	Delay time.Duration
}

// An Executor runs attempts, one at a time.
type Executor interface {
	// Check says why no attempt could run, with an error that is ErrNotReady
	// where waiting may mend it. It is asked before the worker tells that it
	// is ready, and after an attempt that was Unready.
	Check(ctx context.Context) error
	// Run runs one attempt to its end. progress may be called any number of
	// times and does not block. When ctx is done Run ends what it began, at
	// once where the cause is ErrNow, makes sure it is gone, and returns.
	Run(ctx context.Context, a Attempt, progress func(string)) Outcome
}

// ErrNotReady is what an Executor's Check returns, wrapped, while a server that
// it needs is not up.
var ErrNotReady = errors.New("not ready")

// ErrNow is the cause of a cancellation that leaves the job no time to end by
// itself.
var ErrNow = errors.New("end it at once")

var errTimeout = errors.New("timed out")

// limited is ctx with the attempt's time-out.
func limited(ctx context.Context, a Attempt) (context.Context, context.CancelFunc) {
	if a.Timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, a.Timeout, errTimeout)
}

// cut is what an attempt comes to that was ended because limited's context was
// done.
func (o *Outcome) cut(ctx context.Context, a Attempt) {
	if errors.Is(context.Cause(ctx), errTimeout) {
		o.Verdict, o.Error, o.Reason = Failed, fmt.Sprintf("timed out after %v", a.Timeout), ReasonTimeout
		return
	}
	o.Verdict, o.Error = Stopped, "stopped"
}

// Reasons of a failure, beside the queue's own.
const (
	ReasonTimeout = "timeout" // it took longer than it may
	ReasonOOM     = "oom"     // the kernel killed it, or a part of it, for want of memory
)

var tooBig = fmt.Sprintf("result is above %d bytes", queue.MaxPayload)
