package state

import (
	"slices"
	"testing"
	"time"
)

// All sinks hear the same, in the order in which it happened.
func TestTee(t *testing.T) {
	t.Parallel()
	var heard []string
	hear := func(who string) func(Delta) {
		return func(d Delta) {
			for _, e := range d.Events {
				heard = append(heard, who+" "+e.Data.(*HostEvent).Event)
			}
		}
	}
	h := NewHerd(Tee(hear("first"), hear("second")), time.Now)
	h.Host(HostEvent{Event: "online"})
	h.Host(HostEvent{Event: "offline"})
	if want := []string{"first online", "second online", "first offline", "second offline"}; !slices.Equal(heard, want) {
		t.Errorf("heard %q, want %q", heard, want)
	}
	Tee()(Delta{}) // nobody is no error
}
