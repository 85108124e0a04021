package redisclient

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Backoff tells how long to wait before Redis is asked again: Exponential
// from Min to Max, so that the workers of a fleet do not come back all at once.
// The zero value goes from 50 ms to 2 s. It is for one goroutine.
type Backoff struct {
	Min, Max time.Duration

	tries int
}

// Next returns the time to wait, and counts the try.
func (b *Backoff) Next() time.Duration {
	least, most := b.Min, b.Max
	if least <= 0 {
		least = 50 * time.Millisecond
	}
	if most <= 0 {
		most = 2 * time.Second
	}
	b.tries++
	return Exponential(least, most, b.tries)
}

// Exponential returns how long to wait after failure number n, from 1: least,
// then twice as long each time up to most, of which a random half is taken off.
func Exponential(least, most time.Duration, n int) time.Duration {
	d := most
	if shift := max(n-1, 0); shift < 63 && least < most>>shift {
		d = least << shift
	}
	return d/2 + rand.N(d/2+1)
}

// Tries returns how many failures there were in a row.
func (b *Backoff) Tries() int { return b.tries }

// Reset says that all is well again.
func (b *Backoff) Reset() { b.tries = 0 }

// Wait waits for Next, or until ctx is done and returns its error then.
func (b *Backoff) Wait(ctx context.Context) error {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
