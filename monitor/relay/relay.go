// Package relay tells Redis what the herd does: the current state in hashes,
// every event in a stream, and each event once more on a channel for those who
// cannot wait.
//
// All writes of one host go through one Lua script in numbered batches, so
// that a writer which has been replaced is refused, a batch sent twice counts
// once, and a server that forgot what it had confirmed is noticed.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/pulse"
	"gpuherd/monitor/state"
	"gpuherd/units/redisclient"
)

// Times and sizes of the protocol, see the table of keys in the design.
const (
	heartbeatEvery = 5 * time.Second
	heartbeatTTL   = 15 * time.Second
	streamLength   = 10000 // MAXLEN ~
	batchEvents    = 256   // most events in a batch
	callTimeout    = 2 * time.Second
	farewell       = 3 * time.Second // for the last batches at the end
	reassertEvery  = 5 * time.Minute // about; what a stranger deleted comes back

	// lazily is how long a change that is not urgent waits for others: a unit may
	// tell another STATUS= a thousand times a second.
	lazily = 20 * time.Millisecond

	// fencedFor is how long a fenced monitor says so before it ends: two hosts
	// of one name would else take the keys from each other without a pause.
	fencedFor = 30 * time.Second
)

// Capacity is how many events wait while Redis is away, before the oldest make
// room and a gap event takes their place.
const Capacity = 10000

// A Source is where snapshots come from: a state.Herd.
type Source interface {
	// Snapshot pushes a Delta with Reset.
	Snapshot(reason string)
	// Synced reports whether there is anything to take a snapshot of.
	Synced() bool
	// Seed takes the counters that Redis has of an earlier monitor of this
	// boot, and tells by how much they rose.
	Seed(map[string]state.Seed) map[string]uint64
	// Resync pushes what happened since that monitor: at least an event of each
	// unit that is not as it was left. nil: Redis knows of no such monitor.
	Resync(map[string]state.Seed)
	// Host pushes an event of type host.
	Host(state.HostEvent)
	// Seq is the number of the last event.
	Seq() uint64
}

// Config says who writes, and where.
type Config struct {
	Prefix   string // of every key: "gpuherd"
	Host     string // this host's name in Redis
	BootID   string // of this boot
	Epoch    uint64 // of this start of the monitor, from NextEpoch
	Version  string // of the program
	Capacity int    // events kept while Redis is away; 0: Capacity

	// FencedFor is how long Run stays, writing nothing, where a newer monitor
	// writes. 0: 30 s.
	FencedFor time.Duration

	// Reassert is about how often everything is written anew. 0: 5 min.
	Reassert time.Duration

	// SaveEpoch keeps an epoch that Redis had to correct. May be nil.
	SaveEpoch func(uint64) error
	// Alive reports whether the view of the herd is current. The heartbeat
	// beats only then.
	Alive func() bool
	// Uptime returns how long the host is up.
	Uptime func() time.Duration
	// Monotonic returns CLOCK_MONOTONIC in µs, for Position. May be nil.
	Monotonic func() uint64

	Observe func(seconds float64) // takes how long each write took; may be nil
}

// Stats counts what a Relay did since it was made.
type Stats struct {
	Connected bool
	Reason    string // why not, as Errors has it; "" before the first try
	Fenced    bool
	Epoch     uint64
	Pending   int    // events waiting
	Written   uint64 // events that Redis confirmed
	Dropped   uint64 // events that no reader will see
	Batches   uint64
	Errors    map[string]uint64 // failed calls, by reason
}

// A Relay writes Deltas to Redis. Push never blocks; Run does the writing.
type Relay struct {
	cfg     Config
	client  redis.UniversalClient
	log     *slog.Logger
	source  Source
	keys    []string // of batchScript
	hosts   string   // the list of all hosts
	channel string
	started int64

	wake chan struct{} // what is urgent waits
	lazy chan struct{} // other changes do

	mu      sync.Mutex
	pending pending
	epoch   uint64
	problem error // why Redis cannot be written now; nil: it can
	reason  string
	fenced  bool
	errors  map[string]uint64 // failed calls, by reason
	logged  map[string]bool   // troubles that the log has heard of since Redis last took a write
	told    told

	written, batches atomic.Uint64

	// What follows belongs to Run's goroutine.
	claimed  bool   // Redis has had our claim in this process
	batch    uint64 // number of the last batch made, never made again
	flight   *batch // sent, not confirmed
	acked    uint64 // seq of the last event confirmed
	snapshot string // reason of a snapshot that is due
	online   bool   // the host event was made

	every    time.Duration // between heartbeats
	beat     *pulse.Ticker
	reassert *time.Timer
}

// keyTypes are the types of Relay.keys, and of Relay.hosts behind them.
var keyTypes = []string{"hash", "hash", "hash", "stream", "string", "zset"}

// New returns a Relay that writes through client, which stays the caller's.
func New(client redis.UniversalClient, log *slog.Logger, cfg Config) *Relay {
	if cfg.Capacity <= 0 {
		cfg.Capacity = Capacity
	}
	if cfg.FencedFor <= 0 {
		cfg.FencedFor = fencedFor
	}
	if cfg.Reassert <= 0 {
		cfg.Reassert = reassertEvery
	}
	k := func(name string) string { return Key(cfg.Prefix, cfg.Host, name) }
	return &Relay{
		cfg: cfg, client: client, log: log, epoch: cfg.Epoch,
		keys:    []string{k("fence"), k("units"), k("gpus"), k("events"), k("heartbeat")},
		hosts:   HostsKey(cfg.Prefix),
		channel: k("notify"),
		started: time.Now().UnixMicro(),
		wake:    make(chan struct{}, 1),
		lazy:    make(chan struct{}, 1),
		pending: newPending(cfg.Capacity),
		told:    told{units: map[string]state.Seed{}},
		problem: errors.New("not connected to Redis yet"),
		errors:  noFailures(),
		logged:  map[string]bool{},

		every:    heartbeatEvery,
		reassert: time.NewTimer(cfg.Reassert),
	}
}

// Key returns the name of a host's key. The braces are a Cluster's hash tag:
// they keep all keys of a host on one node, where a script can reach them.
func Key(prefix, host, name string) string { return prefix + ":{" + host + "}:" + name }

// HostsKey returns the name of the list of all hosts.
func HostsKey(prefix string) string { return prefix + ":hosts" }

// String names the task.
func (r *Relay) String() string { return "redis relay" }

// From sets where snapshots come from. It must be called before Run.
func (r *Relay) From(s Source) { r.source = s }

// Push takes what changed. It does not block; Deltas have to come in order.
func (r *Relay) Push(d state.Delta) {
	r.mu.Lock()
	r.pending.add(d)
	r.mu.Unlock()
	to := r.lazy
	if urgent(d) {
		to = r.wake
	}
	select {
	case to <- struct{}{}:
	default:
	}
}

// urgent reports whether somebody waits for what d tells.
func urgent(d state.Delta) bool {
	return len(d.Events) > 0 || slices.ContainsFunc(d.Hints, func(h state.Event) bool { return h.Type == state.TypeExit })
}

// Ready returns nil while Redis takes what is written.
func (r *Relay) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// Stats returns the counters.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{
		Connected: r.problem == nil, Reason: r.reason, Fenced: r.fenced, Epoch: r.epoch,
		Pending: r.pending.len(), Dropped: r.pending.dropped,
		Written: r.written.Load(), Batches: r.batches.Load(), Errors: maps.Clone(r.errors),
	}
}

// Run writes until ctx ends, then says goodbye. Redis being away is no reason
// to end. It returns nil, or, FencedFor after a newer monitor has taken over,
// ErrFenced: started again, with the next epoch, this one is the newer.
func (r *Relay) Run(ctx context.Context) error {
	back := redisclient.Backoff{}
	r.beat = pulse.NewTicker(r.every)
	defer r.beat.Stop()
	defer r.reassert.Stop()
	for {
		err := r.serve(ctx, &back)
		if ctx.Err() != nil {
			r.goodbye()
			return nil
		}
		r.failed(err)
		if errors.Is(err, ErrFenced) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(r.cfg.FencedFor):
				return err
			}
		}
		if back.Wait(ctx) != nil {
			r.goodbye()
			return nil
		}
	}
}

// failed notes why Redis cannot be written. The log hears of each trouble once,
// until all is well again.
func (r *Relay) failed(err error) {
	reason := reasonOf(err)
	trouble := reason
	var t *redisclient.Trouble
	if errors.As(err, &t) {
		trouble += " " + t.Mend // it may name a key
	}
	r.mu.Lock()
	r.problem, r.reason = err, reason
	if r.fenced = reason == reasonFenced; r.fenced {
		r.problem = fmt.Errorf("%w; this one ends %v after it noticed", err, r.cfg.FencedFor)
	}
	r.errors[reason]++
	known := r.logged[trouble]
	r.logged[trouble] = true
	waiting, epoch := r.pending.len(), r.epoch
	r.mu.Unlock()
	switch {
	case reason == reasonFenced:
		r.log.Error("this monitor writes nothing more to Redis and ends", "error", err, "epoch", epoch, "in", r.cfg.FencedFor)
	case !known:
		r.log.Warn("cannot write to Redis, trying again", "error", err, "reason", reason, "events waiting", waiting)
	}
}

// serve claims and writes until something fails.
func (r *Relay) serve(ctx context.Context, back *redisclient.Backoff) error {
	if r.snapshot == "" {
		r.snapshot = snapshotConnected
	}
	if !r.claimed {
		if err := r.claim(ctx); err != nil {
			return err
		}
	}
	due := true                // the first heartbeat at once
	var later <-chan time.Time // a lazy write is due
	for {
		if err := r.flush(ctx, due); err != nil {
			return err
		}
		due = false
		back.Reset()
		r.mu.Lock()
		first := r.problem != nil
		r.problem, r.reason = nil, ""
		clear(r.logged)
		r.mu.Unlock()
		if first {
			r.log.Info("writing to Redis", "epoch", r.Stats().Epoch)
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-r.wake:
				wait = false
			case <-r.beat.C:
				due, wait = true, false
			case <-r.reassert.C:
				r.snapshot, wait = snapshotPeriodic, false
			case <-later:
				wait = false
			case <-r.lazy:
				if later == nil {
					later = time.After(lazily)
				}
			}
		}
		later = nil
	}
}

// goodbye writes what waits, tells that this monitor goes, and takes the
// heartbeat away.
func (r *Relay) goodbye() {
	if !r.claimed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	r.source.Host(state.HostEvent{Event: "offline", Version: r.cfg.Version})
	r.snapshot = ""
	err := r.flush(ctx, false)
	if errors.Is(err, errLost) {
		if err = r.claim(ctx); err == nil {
			err = r.flush(ctx, false)
		}
	}
	if err != nil {
		r.log.Warn("cannot tell Redis that this monitor ends", "error", err)
		return
	}
	r.flight = r.assemble([]any{"O"})
	if err := r.send(ctx, nil); err != nil {
		r.log.Warn("cannot take the heartbeat away", "error", err)
	}
}
