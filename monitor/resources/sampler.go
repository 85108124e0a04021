package resources

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"gpuherd/monitor/state"
)

// Every is how often a Sampler reads.
const Every = 5 * time.Second

// A Herd is where a Sampler learns of units and tells their figures: a
// state.Herd.
type Herd interface {
	ControlGroups() map[string]string
	Use(unit string, f state.Figures)
}

// A Sampler reads the figures of all units now and then.
type Sampler struct {
	Root  string        // of the file system: "/"
	Every time.Duration // 0: Every
	Herd  Herd
	Log   *slog.Logger

	said map[string]string // the last error by unit, so that each is logged once
}

// String names the task.
func (s *Sampler) String() string { return "resource sampler" }

// Run samples until ctx ends, and returns nil then.
func (s *Sampler) Run(ctx context.Context) error {
	every := s.Every
	if every <= 0 {
		every = Every
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		s.sample()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (s *Sampler) sample() {
	said := map[string]string{}
	for unit, group := range s.Herd.ControlGroups() {
		u, err := Read(s.Root, group)
		if err != nil && !errors.Is(err, ErrNotAvailable) {
			said[unit] = err.Error()
			if s.said[unit] != said[unit] {
				s.Log.Warn("no resource figures", "unit", unit, "error", err)
			}
		}
		s.Herd.Use(unit, state.Figures{Memory: u.MemoryBytes, MemoryPeak: u.MemoryPeakBytes, MemoryMax: u.MemoryMaxBytes, CPUNS: u.CPUNS})
	}
	s.said = said
}
