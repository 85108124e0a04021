package journal

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/monitor/state"
)

// Times of a Backfill.
const (
	patience = 10 * time.Second // for Redis to say what it was told last

	// The journal may be written a moment after D-Bus has told.
	rereads  = 5
	rereadIn = 50 * time.Millisecond
)

// A Backfill tells a Herd what it missed: what happened while no monitor ran,
// while the bus was away, during a reload of systemd. It holds the Herd, and
// reads the journal for each window in which changes were missed.
//
// It stands before the Herd as the relay's source, since of the first window
// Redis knows best where it begins: at what an earlier monitor told last. Where
// Redis does not answer in time, what was kept on the disk has to do.
type Backfill struct {
	*state.Herd
	read     func(ctx context.Context, monoUS uint64) Excerpt
	kept     Since
	log      *slog.Logger
	patience time.Duration
	wake     chan struct{}

	mu     sync.Mutex
	asked  bool // Redis has said what it knows:
	seeds  map[string]state.Seed
	speaks bool // the first window was released
}

// NewBackfill puts h on Hold and returns its Backfill. read is that of a
// Journal. kept is what the earlier monitor kept of what it had told; without
// seeds nothing is known of one in this boot.
func NewBackfill(h *state.Herd, read func(ctx context.Context, monoUS uint64) Excerpt, kept Since, log *slog.Logger) *Backfill {
	b := &Backfill{Herd: h, read: read, kept: kept, log: log, patience: patience, wake: make(chan struct{}, 1)}
	h.Hold(b.look)
	return b
}

// look makes Run look at the window.
func (b *Backfill) look() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// String names the task.
func (b *Backfill) String() string { return "journal backfill" }

// Run releases what the Herd holds whenever a window is complete. It returns
// nil when ctx ends.
func (b *Backfill) Run(ctx context.Context) error {
	late := time.NewTimer(b.patience)
	defer late.Stop()
	for patient := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-late.C:
			patient = false
		case <-b.wake:
		}
		// One that opens again, or of which Redis tells meanwhile, is begun
		// anew.
		for {
			w, ok := b.Window()
			if !ok || w.Initial && patient && !b.answered() || b.release(ctx, w) {
				break
			}
		}
	}
}

func (b *Backfill) answered() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// Seed takes what Redis was told last; nil: it knows nothing of this boot.
// Once the Herd speaks it is the Herd's.
func (b *Backfill) Seed(seeds map[string]state.Seed) map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.speaks {
		return b.Herd.Seed(seeds)
	}
	b.asked, b.seeds = true, seeds
	b.look()
	return nil
}

// Resync is the Herd's once it speaks. Before, Run does more than that.
func (b *Backfill) Resync(seeds map[string]state.Seed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.speaks {
		b.Herd.Resync(seeds)
	}
}

// release reads what happened in w and lets the Herd tell it. It reports false
// where that has become void.
func (b *Backfill) release(ctx context.Context, w state.Window) bool {
	asked := b.answered()
	since := Since{Seeds: w.Seeds}
	if w.Initial {
		since = b.since()
	} else {
		since.MonoUS = monotonicAt(w.FromUS)
	}
	var past []state.Past
	if since.Seeds != nil && b.Changed(since.Seeds) {
		past = b.past(ctx, since)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.Initial && asked != b.asked || !b.Release(w, since.Seeds, past) {
		return false
	}
	b.speaks = true
	return true
}

// since returns where the first window begins, as far as is known now.
func (b *Backfill) since() Since {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.seeds == nil:
		return b.kept
	case b.kept.Seeds == nil:
		return Since{Seeds: b.seeds, MonoUS: lastChange(b.seeds)}
	}
	return Since{Seeds: b.seeds, MonoUS: b.kept.MonoUS}
}

// past reads the journal, again where it does not reach the present yet.
func (b *Backfill) past(ctx context.Context, since Since) []state.Past {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	x := b.read(ctx, since.MonoUS)
	past := Reduce(x.Records, x.Short == nil, since)
	lacking := b.Unreached(since.Seeds, past)
	for try := 1; len(lacking) > 0 && x.Short == nil && try < rereads && pause(ctx, rereadIn); try++ {
		again := b.read(ctx, since.MonoUS)
		if again.Short != nil {
			break
		}
		x = again
		past = Reduce(x.Records, true, since)
		lacking = b.Unreached(since.Seeds, past)
	}
	if x.Short != nil {
		b.log.Warn("the journal does not tell all that was missed: events that may lack others before them are marked as resynced",
			"reason", x.Short, "records", len(x.Records))
	}
	if len(lacking) > 0 {
		b.log.Warn("the journal does not tell how these came to where they are", "units", lacking)
	}
	b.log.Info("read back from the journal", "records", len(x.Records), "phases", len(past))
	return past
}

// pause reports false where ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// lastChange returns the latest of the seeds' times, on CLOCK_MONOTONIC in µs.
func lastChange(seeds map[string]state.Seed) uint64 {
	var last int64
	for _, s := range seeds {
		last = max(last, s.SinceMS)
	}
	return monotonicAt(last * 1000)
}

// monotonicAt returns what CLOCK_MONOTONIC was at a unix time, both in µs, as
// far as the clock has not been set since.
func monotonicAt(us int64) uint64 {
	ago := max(0, time.Now().UnixMicro()-us)
	now := Monotonic()
	return now - min(now, uint64(ago))
}

// Monotonic returns CLOCK_MONOTONIC in µs, as systemd and journald use it.
func Monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return uint64(t.Nano()) / 1000
}
