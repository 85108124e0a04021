package web

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"gpuherd/monitor/state"
)

// feedEvents is how many events a Feed keeps: as many a client may be behind,
// or may have missed when it comes back.
const feedEvents = 1024

// errBehind says that a client is more than feedEvents behind.
var errBehind = errors.New("the client does not keep up")

// A Feed takes what a Herd tells, and hands it to clients: the state as it is,
// and the last events. Clients share one ring of events, each with a place in
// it, so one that is slow costs no memory and holds up nobody.
type Feed struct {
	run string // tells this process' numbers from those of another

	mu      sync.Mutex
	events  [feedEvents]state.Event // by seq
	oldest  uint64                  // seq of the oldest event kept
	seq     uint64                  // of the newest
	units   map[string]state.Unit
	gpus    []state.GPU
	readers map[*reader]bool

	evicted atomic.Uint64
}

// NewFeed returns a Feed of a Herd that has told nothing yet.
func NewFeed() *Feed {
	run := make([]byte, 8)
	_, _ = rand.Read(run) // it never fails
	return &Feed{run: hex.EncodeToString(run), oldest: 1, units: map[string]state.Unit{}, readers: map[*reader]bool{}}
}

// Push takes a Delta. It is a sink of a state.Herd and does not block.
func (f *Feed) Push(d state.Delta) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := d.Gone
	if d.Reset {
		changed = slices.Collect(maps.Keys(f.units))
		clear(f.units)
	}
	for _, name := range d.Gone {
		delete(f.units, name)
	}
	for _, u := range d.Units {
		f.units[u.Name] = u
	}
	gpus := d.Reset || d.GPUsChanged
	if gpus {
		f.gpus = d.GPUs
	}
	for _, e := range d.Events {
		if e.Seq != f.seq+1 {
			f.oldest = e.Seq
		}
		f.seq = e.Seq
		f.events[e.Seq%feedEvents] = e
		f.oldest = max(f.oldest, e.Seq-min(e.Seq, feedEvents-1))
	}
	for r := range f.readers {
		for _, name := range changed {
			r.changed[name] = true
		}
		for _, u := range d.Units {
			r.changed[u.Name] = true
		}
		r.gpus = r.gpus || gpus
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// A View is the state at one moment.
type View struct {
	Seq   uint64 // of the last event that led to it
	Units []state.Unit
	GPUs  []state.GPU
}

// View returns the state as it is, units by name.
func (f *Feed) View() View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view()
}

func (f *Feed) view() View {
	v := View{Seq: f.seq, Units: make([]state.Unit, 0, len(f.units)), GPUs: f.gpus}
	for _, name := range slices.Sorted(maps.Keys(f.units)) {
		v.Units = append(v.Units, f.units[name])
	}
	return v
}

// Recent returns the last events, up to n of them, the newest first.
func (f *Feed) Recent(n int) []state.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var events []state.Event
	for seq := f.seq; seq >= f.oldest && seq > 0 && len(events) < n; seq-- {
		events = append(events, f.events[seq%feedEvents])
	}
	return events
}

// A FeedStats counts a Feed's clients.
type FeedStats struct {
	Clients int
	Evicted uint64 // clients that did not keep up, since the start
}

// Stats returns the counters.
func (f *Feed) Stats() FeedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return FeedStats{Clients: len(f.readers), Evicted: f.evicted.Load()}
}

// Reasons of a snapshot.
const (
	snapshotNew     = "new"     // the client named no event
	snapshotResumed = "resumed" // all events since the one that it named were sent
	snapshotLost    = "lost"    // that event is not known here (any more): some may be missing
)

// A reader is one client's place in a Feed.
type reader struct {
	feed *Feed
	wake chan struct{} // something is there to take

	// What follows is guarded by the feed's mu.
	seq      uint64          // of the last event taken
	snapshot string          // reason of the snapshot that is due
	changed  map[string]bool // units since the last batch
	gpus     bool            // as well
}

// A batch is what a client is told at once: events, then the state that they
// led to.
type batch struct {
	events   []state.Event
	snapshot string // reason of a snapshot: units and gpus are all there are
	seq      uint64 // of the snapshot
	units    []state.Unit
	gone     []string
	gpus     []state.GPU
	gpusSet  bool
}

func (b *batch) empty() bool {
	return len(b.events)+len(b.units)+len(b.gone) == 0 && b.snapshot == "" && !b.gpusSet
}

// join adds a reader behind the event with the id last, or none within most.
// The caller closes it.
func (f *Feed) join(last string, most int) *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) >= most {
		return nil
	}
	r := &reader{feed: f, wake: make(chan struct{}, 1), seq: f.seq, snapshot: snapshotNew, changed: map[string]bool{}}
	if last != "" {
		r.snapshot = snapshotLost
		if seq, ok := f.parse(last); ok && seq+1 >= f.oldest && seq <= f.seq {
			r.seq, r.snapshot = seq, snapshotResumed
		}
	}
	f.readers[r] = true
	return r
}

// id returns what a client gives back as Last-Event-ID.
func (f *Feed) id(seq uint64) string { return f.run + ":" + strconv.FormatUint(seq, 10) }

func (f *Feed) parse(id string) (seq uint64, ok bool) {
	run, number, _ := strings.Cut(id, ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	return seq, err == nil && run == f.run
}

// batchEvents is the most events in one batch.
const batchEvents = 256

// take returns what is there, which may be nothing. The error is errBehind.
func (r *reader) take() (batch, error) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.seq+1 < f.oldest {
		f.evicted.Add(1)
		return batch{}, errBehind
	}
	var b batch
	for r.seq < f.seq && len(b.events) < batchEvents {
		r.seq++
		b.events = append(b.events, f.events[r.seq%feedEvents])
	}
	if r.seq < f.seq {
		return b, nil // the state comes after all that led to it
	}
	if r.snapshot != "" {
		v := f.view()
		b.snapshot, b.seq, b.units, b.gpus, b.gpusSet = r.snapshot, v.Seq, v.Units, v.GPUs, true
	} else {
		for _, name := range slices.Sorted(maps.Keys(r.changed)) {
			if u, ok := f.units[name]; ok {
				b.units = append(b.units, u)
			} else {
				b.gone = append(b.gone, name)
			}
		}
		if r.gpus {
			b.gpus, b.gpusSet = f.gpus, true
		}
	}
	r.snapshot, r.gpus = "", false
	clear(r.changed)
	return b, nil
}

// evict counts a client that took too long to be written to.
func (r *reader) evict() { r.feed.evicted.Add(1) }

func (r *reader) close() {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	delete(r.feed.readers, r)
}
