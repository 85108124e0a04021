package main

import (
	"context"
	"testing"

	"gpuherd/monitor/state"
)

// The monitor tells of the end of workers that stop together with it.
func TestLinger(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	asked := 0
	units := func() []state.Unit {
		worker := state.Unit{Name: "redis-worker@0.service", Active: "deactivating"}
		if asked++; asked == 3 {
			worker.Active = "inactive"
		}
		return []state.Unit{worker, {Name: self, Active: "deactivating"}}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		linger(ctx, units, self)
	}()
	select {
	case <-done:
		t.Fatal("ends without being told to")
	default:
	}
	stop()
	<-done
	if asked != 3 {
		t.Errorf("looked %d times, want until the worker has stopped", asked)
	}
}
