//go:build !cgo

package nvml

import (
	"fmt"
	"time"
)

// A Session cannot be had without cgo.
type Session struct {
	Faults  []Fault
	Unheard []string
}

// Open answers ErrAbsent: NVML is C, and this program was built without cgo.
func Open(string) (*Session, error) {
	return nil, fmt.Errorf("%w: this program was built without cgo", ErrAbsent)
}

// Close does nothing.
func (s *Session) Close() {}

// GPUs returns none.
func (s *Session) GPUs() []string { return nil }

// Wait waits.
func (s *Session) Wait(most time.Duration) (Event, bool, error) {
	time.Sleep(most)
	return Event{}, false, nil
}

// Sample returns nothing.
func (s *Session) Sample(int) Sample { return Sample{} }
