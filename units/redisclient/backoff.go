package redisclient

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Backoff tells how long to wait before Redis is asked again: Min, then
// twice as long each time up to Max, of which a random half is taken off, so
// that the workers of a fleet do not come back all at once. The zero value
// goes from 50 ms to 2 s. It is for one goroutine.
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
	d := least << min(b.tries, 30)
	if d > most || d <= 0 {
		d = most
	}
	b.tries++
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
