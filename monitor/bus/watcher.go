package bus

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/state"
)

// A Handler takes what the Watcher reads. It is called from the reading loop,
// so it must not block: while it does, systemd's signals pile up.
type Handler interface {
	// Observe takes one change of one unit, in the order of the bus.
	Observe(state.Observation)
	// Lost says that signals may have been missed since the given unix time in
	// µs, and may be until the next Sync.
	Lost(sinceUS int64)
	// Sync takes the whole herd: after connecting, after Lost, and now and
	// then. reason says why.
	Sync(herd []state.Observation, reason string)
}

const (
	tick           = 2 * time.Second // of the reading loop, proves progress
	resyncAttempts = 5               // failed ones before the connection counts as broken
)

// Reasons of a resync, as metrics and events name them.
const (
	ReasonConnected    = "connected"
	ReasonReload       = "reload"
	ReasonReexec       = "reexec"
	ReasonSubscription = "subscription-lost"
	ReasonPeriodic     = "periodic"
	ReasonRetry        = "retry"
)

// Stats counts what a Watcher did since it was made.
type Stats struct {
	Signals     uint64            // signals read
	Changes     uint64            // handed on to the Handler
	Duplicates  uint64            // told nothing new, or a unit's stale state at its start
	Connections uint64            // successful connections
	Resyncs     map[string]uint64 // by reason
}

// A Watcher follows the herd over D-Bus. It connects, and connects again with
// growing delay when the bus goes away.
type Watcher struct {
	log     *slog.Logger
	handler Handler
	opts    options
	onTick  func()

	progress   atomic.Int64 // unix ns of the loop's last turn
	subscribed atomic.Bool
	stats      counters
}

type counters struct {
	signals, changes, duplicates, connections                     atomic.Uint64
	connected, reload, reexec, subscription, periodic, retry, odd atomic.Uint64
}

func (c *counters) resync(reason string) *atomic.Uint64 {
	switch reason {
	case ReasonConnected:
		return &c.connected
	case ReasonReload:
		return &c.reload
	case ReasonReexec:
		return &c.reexec
	case ReasonSubscription:
		return &c.subscription
	case ReasonPeriodic:
		return &c.periodic
	case ReasonRetry:
		return &c.retry
	}
	return &c.odd
}

// NewWatcher returns a Watcher that hands all it reads to h. onTick, unless
// nil, is called every 2 s or more often from the reading loop: what it does is
// proof that the loop goes round.
func NewWatcher(log *slog.Logger, h Handler, onTick func(), opts ...Option) *Watcher {
	if onTick == nil {
		onTick = func() {}
	}
	w := &Watcher{log: log, handler: h, opts: collect(opts), onTick: onTick}
	w.turn()
	return w
}

// String names the task.
func (w *Watcher) String() string { return "bus watcher" }

// Progress returns when the reading loop last went round.
func (w *Watcher) Progress() time.Time { return time.Unix(0, w.progress.Load()) }

// Ready returns nil while the herd is subscribed to and has been read.
func (w *Watcher) Ready() error {
	if !w.subscribed.Load() {
		return errors.New("not subscribed to systemd on the bus")
	}
	return nil
}

// Stats returns the counters.
func (w *Watcher) Stats() Stats {
	s := Stats{
		Signals: w.stats.signals.Load(), Changes: w.stats.changes.Load(),
		Duplicates: w.stats.duplicates.Load(), Connections: w.stats.connections.Load(),
		Resyncs: map[string]uint64{},
	}
	for _, r := range []string{ReasonConnected, ReasonReload, ReasonReexec, ReasonSubscription, ReasonPeriodic, ReasonRetry} {
		s.Resyncs[r] = w.stats.resync(r).Load()
	}
	return s
}

func (w *Watcher) turn() {
	w.progress.Store(time.Now().UnixNano())
	w.onTick()
}

// Run follows the herd until ctx ends, and returns nil then: a bus that is
// away is no reason to give up.
func (w *Watcher) Run(ctx context.Context) error {
	const first, last = 50 * time.Millisecond, 5 * time.Second
	delay := first
	for {
		w.turn() // sessions may each fail before their first tick
		began := time.Now()
		err := w.session(ctx)
		told := w.subscribed.Swap(false)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the session ended as it was asked to
		}
		if told {
			w.handler.Lost(time.Now().UnixMicro())
		}
		if time.Since(began) > time.Minute {
			delay = first
		}
		w.log.Warn("the bus is away, trying again", "error", err, "in", delay)
		if !w.pause(ctx, delay/2+rand.N(delay/2)) {
			return nil
		}
		delay = min(2*delay, last)
	}
}

// pause waits and goes on proving progress. It reports false when ctx ended.
func (w *Watcher) pause(ctx context.Context, d time.Duration) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case <-t.C:
			w.turn()
		}
	}
}

// session is one pair of connections, from dialling to its loss.
func (w *Watcher) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{
		w: w, units: map[dbus.ObjectPath]*unit{}, matched: map[string]bool{},
		signals: make(chan *dbus.Signal, 256), probed: make(chan probed, 1),
	}
	// Nothing of a session outlives it.
	defer s.helpers.Wait()
	defer cancel()

	dial, stop := context.WithTimeout(ctx, w.opts.times.call)
	defer stop()
	opened := make(chan error, 1)
	s.helpers.Go(func() { opened <- s.open(dial) })
	// A bus that accepts and never answers must not stop the ticks.
	t := time.NewTicker(tick)
	defer t.Stop()
	for waiting := true; waiting; {
		select {
		case err := <-opened:
			if err != nil {
				return err
			}
			waiting = false
		case <-t.C:
			w.turn()
		}
	}
	defer s.close()
	w.stats.connections.Add(1)
	return s.loop(ctx)
}
