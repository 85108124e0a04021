package redisworker

import (
	"context"
	"errors"
	"time"
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
)

// An Outcome is what an Executor has to say about an attempt.
type Outcome struct {
	Verdict  Verdict
	Result   []byte // of Succeeded
	Error    string // one line, of all others
	Stderr   string // the end of it, at most 4 KiB
	Leftover bool   // processes of the job could not be ended
}

// An Executor runs attempts, one at a time.
type Executor interface {
	// Check says why no attempt could run at all. It is asked before the
	// worker tells that it is ready.
	Check() error
	// Run runs one attempt to its end. progress may be called any number of
	// times and does not block. When ctx is done Run ends what it began, at
	// once where the cause is ErrNow, makes sure it is gone, and returns.
	Run(ctx context.Context, a Attempt, progress func(string)) Outcome
}

// ErrNow is the cause of a cancellation that leaves the job no time to end by
// itself.
var ErrNow = errors.New("end it at once")
