package queue

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"gpuherd/units/redisclient"
)

// A Claim is a job with its lease. Its methods may be called again after an
// error other than ErrLost: what has been done is not done twice. All but
// Renew end the claim.
type Claim struct {
	Job
	Attempt int // from 1

	q         *Queue
	consumer  string
	entry     entry
	cancelled chan struct{}
	cancel    sync.Once
}

// Cancelled is closed once it is known that the job is to be cancelled: by a
// renewal, or before it where Listen runs. The caller ends the job and then
// calls Release or Fail, either of which ends it as cancelled, or Finish where
// the job was done all the same. Until then the lease is to be renewed.
func (c *Claim) Cancelled() <-chan struct{} { return c.cancelled }

// IsCancelled says whether Cancelled is closed.
func (c *Claim) IsCancelled() bool {
	select {
	case <-c.cancelled:
		return true
	default:
		return false
	}
}

func (c *Claim) setCancelled() { c.cancel.Do(func() { close(c.cancelled) }) }

// Renew starts the lease anew and writes the job's progress, if there is any.
func (c *Claim) Renew(ctx context.Context, progress string) error {
	n, err := renewScript.Run(ctx, c.q.redis, c.keys(), c.args(progress, c.q.ttl())...).Int()
	if n == 2 && err == nil {
		c.setCancelled()
	}
	return c.outcome("renew lease of", n, err)
}

// Finish ends the job with its result, of at most MaxPayload bytes.
func (c *Claim) Finish(ctx context.Context, result []byte) error {
	_, lost, err := c.q.finish(ctx, c.consumer, []Done{{c, result}}, asking{})
	if len(lost) > 0 {
		err = c.outcome("finish", 0, nil)
	}
	return err
}

// fits says why a result cannot be one.
func fits(result []byte) error {
	if len(result) > MaxPayload {
		return fmt.Errorf("result of %d bytes, at most %d are allowed", len(result), MaxPayload)
	}
	return nil
}

// A Failure is why an attempt went wrong.
type Failure struct {
	Error     string        // one line
	Reason    string        // a word, such as oom; "" for Failed, or Permanent
	Stderr    string        // the end of what the job wrote there
	Permanent bool          // another attempt would not help
	Delay     time.Duration // until the next attempt; 0: as the queue has it, below: none
}

// Fail ends the attempt: the job is delayed until its next one, or goes to
// Q:dead, and then dead is true.
func (c *Claim) Fail(ctx context.Context, f Failure) (dead bool, err error) {
	permanent := "0"
	if f.Permanent {
		permanent = "1"
	}
	if f.Reason == "" {
		f.Reason = Failed
		if f.Permanent {
			f.Reason = Permanent
		}
	}
	if f.Delay == 0 {
		f.Delay = redisclient.Exponential(c.q.opts.RetryMin, c.q.opts.RetryMax, c.Attempt)
	}
	r, err := failScript.Run(ctx, c.q.redis, c.keys(),
		c.args(clip(f.Error), clip(f.Reason), clip(f.Stderr), permanent, c.MaxAttempts, max(f.Delay.Milliseconds(), 0), c.q.ttl())...).Text()
	n := 1
	if r == "lost" {
		n = 0
	}
	return r == "dead", c.outcome("fail", n, err)
}

// Release hands the job back as if the attempt had not begun. It is the next
// that anybody claims, unless it is to be cancelled: then it ends, and the
// attempt counts.
func (c *Claim) Release(ctx context.Context) error {
	n, err := releaseScript.Run(ctx, c.q.redis, c.keys(), c.args(c.q.ttl())...).Int()
	return c.outcome("release", n, err)
}

func (c *Claim) keys() []string { return c.q.keys(c.ID) }

func (c *Claim) args(more ...any) []any { return c.entry.args(c.consumer, more...) }

func (c *Claim) outcome(did string, n int, err error) error {
	if err == nil && n == 0 {
		err = ErrLost
	}
	if err != nil {
		return fmt.Errorf("cannot %s job %s: %w", did, c.ID, err)
	}
	return nil
}

// clip keeps errors and the end of stderr small: 4 KiB, the end of them.
func clip(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = s[len(s)-most:]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
