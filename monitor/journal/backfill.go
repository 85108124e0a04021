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
	syncWait = 5 * time.Second  // for systemd to say what is

	// The journal may be written a moment after D-Bus has told.
	rereads  = 5
	rereadIn = 50 * time.Millisecond

	// slack is how much later than it happened a change may be told.
	slack = 2 * time.Second
)

// A Backfill tells a Herd the past that no monitor saw. It stands before the
// Herd as the relay's source: once the relay has learned from Redis what an
// earlier monitor told last, it reads the journal from there, and only then
// does the Herd speak. Where Redis does not answer in time, what was kept on
// the disk has to do.
type Backfill struct {
	*state.Herd
	read func(ctx context.Context, monoUS uint64) Excerpt
	kept Since
	log  *slog.Logger

	patience time.Duration
	ctx      context.Context // ends with Run
	end      context.CancelFunc

	mu       sync.Mutex
	asked    bool // Redis has said what it knows
	released bool
}

// NewBackfill puts h on Hold and returns its Backfill. read is that of a
// Journal. kept is what the earlier monitor kept of what it had told; without
// seeds nothing is known of one in this boot.
func NewBackfill(h *state.Herd, read func(ctx context.Context, monoUS uint64) Excerpt, kept Since, log *slog.Logger) *Backfill {
	h.Hold()
	b := &Backfill{Herd: h, read: read, kept: kept, log: log, patience: patience}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

// String names the task.
func (b *Backfill) String() string { return "journal backfill" }

// Run lets the Herd speak where Redis has not been heard of for a while. It
// returns nil when ctx ends.
func (b *Backfill) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, b.end)()
	defer b.end()
	late := time.NewTimer(b.patience)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-late.C:
	}
	b.mu.Lock()
	if !b.asked {
		b.release(nil)
	}
	b.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Seed is the Herd's. Before the Herd speaks it has nothing to raise: Resync,
// which follows, does both.
func (b *Backfill) Seed(seeds map[string]state.Seed) map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = true
	if !b.released {
		return nil
	}
	return b.Herd.Seed(seeds)
}

// Resync tells the past since seeds, or, where Redis has none, since what was
// kept, and lets the Herd speak. After that it is the Herd's own.
func (b *Backfill) Resync(seeds map[string]state.Seed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.released {
		b.Herd.Resync(seeds)
		return
	}
	b.release(seeds)
}

func (b *Backfill) release(seeds map[string]state.Seed) {
	b.released = true
	since := Since{Seeds: seeds, MonoUS: b.kept.MonoUS}
	if since.Seeds == nil {
		since.Seeds = b.kept.Seeds
	}
	if since.Seeds == nil || !b.synced() {
		b.Release(since.Seeds, nil)
		return
	}
	if b.kept.Seeds == nil {
		since.MonoUS = lastChange(since.Seeds)
	}
	b.Release(since.Seeds, b.past(since))
}

// synced waits until systemd has told the herd.
func (b *Backfill) synced() bool {
	for end := time.Now().Add(syncWait); !b.Synced(); {
		if time.Now().After(end) || !b.pause(10*time.Millisecond) {
			return false
		}
	}
	return true
}

// past reads the journal, again where it does not reach the present yet.
func (b *Backfill) past(since Since) []state.Past {
	ctx, cancel := context.WithTimeout(b.ctx, readTimeout)
	defer cancel()
	from := since.MonoUS - min(since.MonoUS, uint64(slack.Microseconds()))
	x := b.read(ctx, from)
	past := Reduce(x.Records, x.Short == nil, since)
	lacking := b.Unreached(since.Seeds, past)
	for try := 1; len(lacking) > 0 && x.Short == nil && try < rereads && b.pause(rereadIn); try++ {
		again := b.read(ctx, from)
		if again.Short != nil {
			break
		}
		x = again
		past = Reduce(x.Records, true, since)
		lacking = b.Unreached(since.Seeds, past)
	}
	if x.Short != nil {
		b.log.Warn("the journal does not tell all that happened without a monitor: events that may lack others before them are marked as resynced",
			"reason", x.Short, "records", len(x.Records))
	}
	if len(lacking) > 0 {
		b.log.Warn("the journal does not tell how these came to where they are", "units", lacking)
	}
	b.log.Info("read back from the journal", "records", len(x.Records), "phases", len(past))
	return past
}

func (b *Backfill) pause(d time.Duration) bool {
	select {
	case <-b.ctx.Done():
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
	ago := max(0, time.Now().UnixMilli()-last) * 1000
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
