// Package pulse has a process do in one go what it does by the clock. A process
// at rest pays for each time that it is woken more than for what it then does;
// so tickers of one period tick together, and those of others join them where
// their multiples meet.
package pulse

import (
	"sync"
	"time"
)

// begun is when the clock of all tickers started.
var begun = time.Now()

// A Ticker is a time.Ticker whose ticks are at multiples of its period since
// the process started. The first may come at once, or a period later.
type Ticker struct {
	C <-chan time.Time // as with time.Ticker, who is slow misses ticks

	c      chan time.Time
	period time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// NewTicker returns a Ticker with a period above zero. Stop ends it.
func NewTicker(period time.Duration) *Ticker {
	if period <= 0 {
		panic("pulse: a period that is not above zero")
	}
	t := &Ticker{c: make(chan time.Time, 1), period: period}
	t.C = t.c
	t.mu.Lock() // tick may run before timer is set
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(next(period, time.Since(begun)), t.tick)
	return t
}

// next returns how long it is to the next multiple of period.
func next(period, now time.Duration) time.Duration { return period - now%period }

func (t *Ticker) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	now := time.Now()
	t.timer.Reset(next(t.period, now.Sub(begun)))
	select {
	case t.c <- now:
	default:
	}
}

// Stop ends the ticks. One that nobody has taken yet stays in C.
func (t *Ticker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.timer.Stop()
}
