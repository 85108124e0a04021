package resources

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"gpuherd/monitor/state"
)

// Every is how often a Sampler reads.
const Every = 5 * time.Second

// A Herd is where a Sampler learns of units and tells their figures: a
// state.Herd.
type Herd interface {
	ControlGroups() map[string]string
	Use(map[string]state.Figures)
}

// A Sample is what a unit used when the Sampler looked last.
type Sample struct {
	Usage
	Err error // why there is none; ErrNotAvailable where the unit does not run
}

// A Sampler reads the figures of all units now and then: those that tell how a
// herd is every time, the others, most of the work, as often only while somebody
// asks for them, and else once in lookAgain times.
type Sampler struct {
	Root  string        // of the file system: "/"
	Every time.Duration // 0: Every
	Herd  Herd
	Log   *slog.Logger

	last  atomic.Pointer[map[string]Sample]
	asked atomic.Bool // since the Sampler looked last
}

// String names the task.
func (s *Sampler) String() string { return "resource sampler" }

// Samples returns the last Sample of each unit by name. The map is for reading
// only.
func (s *Sampler) Samples() map[string]Sample {
	s.asked.Store(true)
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
	t := time.NewTicker(every)
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
	r.all = s.asked.Swap(false)
	groups := s.Herd.ControlGroups()
	samples := make(map[string]Sample, len(groups))
	figures := make(map[string]state.Figures, len(groups))
	asked := make(map[string]bool, len(groups))
	for unit, group := range groups {
		asked[group] = true
		u, err := r.usage(group)
		if err != nil && !errors.Is(err, ErrNotAvailable) {
			// Each error once, not every few seconds.
			if old := before[unit].Err; old == nil || old.Error() != err.Error() {
				s.Log.Warn("no resource figures", "unit", unit, "error", err)
			}
		}
		samples[unit] = Sample{u, err}
		figures[unit] = state.Figures{Memory: u.MemoryBytes, MemoryPeak: u.MemoryPeakBytes, MemoryMax: u.MemoryMaxBytes, CPUNS: u.CPUNS}
	}
	r.only(asked)
	s.last.Store(&samples)
	s.Herd.Use(figures)
}
