package resources

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"gpuherd/monitor/pulse"
	"gpuherd/monitor/state"
)

// Every is how often a Sampler reads.
const Every = 5 * time.Second

// Idle units change little, and are most of a herd at rest: after so many looks
// at which a unit did nothing, only each restEvery-th is at it.
const (
	restAfter = 6
	restEvery = 6
)

// askedFor is at how many looks everything is read once somebody has asked for
// samples: whoever asks once a minute, as Prometheus may, finds them fresh.
const askedFor = 18

// A Herd is where a Sampler learns of units and tells their figures: a
// state.Herd.
type Herd interface {
	ControlGroups() map[string]state.ControlGroup
	Use(map[string]state.Figures)
}

// A Sample is what a unit used when the Sampler looked last.
type Sample struct {
	Usage
	Err error // why there is none; ErrNotAvailable where the unit does not run

	group state.ControlGroup
	read  time.Time
}

// idleSince reports whether the unit did next to nothing since an older
// sample: less than a hundredth of a CPU, and its memory is about the same.
func (s Sample) idleSince(old Sample) bool {
	if s.Err != nil || old.Err != nil || s.group != old.group || s.CPUNS == nil || old.CPUNS == nil || *s.CPUNS < *old.CPUNS {
		return false
	}
	worked := time.Duration(*s.CPUNS - *old.CPUNS)
	return worked < s.read.Sub(old.read)/100 && alike(s.MemoryBytes, old.MemoryBytes)
}

// alike reports whether two figures differ by a fiftieth at most. One that is
// not available is like another.
func alike(a, b *uint64) bool {
	if a == nil || b == nil {
		return a == b
	}
	return max(*a, *b)-min(*a, *b) <= max(*a, *b)/50
}

// A Sampler reads the figures of all units now and then, and those of units that
// do nothing less often. While nobody asks for samples, what tells little of how
// a herd is (most files) is read once in lookAgain times.
type Sampler struct {
	Root  string        // of the file system: "/"
	Every time.Duration // 0: Every
	Herd  Herd
	Log   *slog.Logger

	last  atomic.Pointer[map[string]Sample]
	asked atomic.Int32 // looks for which everything is still read

	looks int            // so far
	quiet map[string]int // by unit: looks in a row at which it did nothing
}

// String names the task.
func (s *Sampler) String() string { return "resource sampler" }

// Samples returns the last Sample of each unit by name. The map is for reading
// only.
func (s *Sampler) Samples() map[string]Sample {
	s.asked.Store(askedFor)
	return s.samples()
}

func (s *Sampler) samples() map[string]Sample {
	if last := s.last.Load(); last != nil {
		return *last
	}
	return nil
}

// Run samples until ctx ends, and returns nil then.
func (s *Sampler) Run(ctx context.Context) error {
	every := s.Every
	if every <= 0 {
		every = Every
	}
	t := pulse.NewTicker(every)
	defer t.Stop()
	r := newReader(s.Root, affordable())
	defer r.close()
	for {
		s.sample(r)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (s *Sampler) sample(r *reader) {
	before := s.samples()
	// Whoever asks in between has it at askedFor or one less.
	if r.all = s.asked.Load() > 0; r.all {
		s.asked.Add(-1)
	}
	groups := s.Herd.ControlGroups()
	samples := make(map[string]Sample, len(groups))
	figures := make(map[string]state.Figures, len(groups))
	wanted := make(map[string]bool, len(groups))
	quiet := make(map[string]int, len(groups))
	s.looks++
	now := time.Now()
	for unit, group := range groups {
		wanted[group.Path] = true
		old := before[unit]
		if n := s.quiet[unit]; n >= restAfter && old.group == group && !r.all && s.looks%restEvery != 0 {
			quiet[unit], samples[unit] = n, old
			continue // nor is there a figure to tell
		}
		u, err := r.usage(group.Path)
		if err != nil && !errors.Is(err, ErrNotAvailable) {
			// Each error once, not every few seconds.
			if old.Err == nil || old.Err.Error() != err.Error() {
				s.Log.Warn("no resource figures", "unit", unit, "error", err)
			}
		}
		sample := Sample{Usage: u, Err: err, group: group, read: now}
		if sample.idleSince(old) {
			quiet[unit] = s.quiet[unit] + 1
		}
		samples[unit] = sample
		figures[unit] = state.Figures{Memory: u.MemoryBytes, MemoryPeak: u.MemoryPeakBytes, MemoryMax: u.MemoryMaxBytes, CPUNS: u.CPUNS}
	}
	s.quiet = quiet
	r.only(wanted)
	s.last.Store(&samples)
	s.Herd.Use(figures)
}
