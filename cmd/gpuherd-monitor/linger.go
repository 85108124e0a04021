package main

import (
	"context"
	"slices"
	"time"

	"gpuherd/monitor/state"
)

// With gpuherd.target, systemd stops the workers and the monitor at once, and
// a worker may drain for TimeoutStopSec=30s. Ordering them would make a
// worker's start wait for the monitor's, so the monitor waits at its end.
const (
	lingerFirst = 200 * time.Millisecond // for systemd's word that others stop, too
	lingerLook  = 50 * time.Millisecond
	lingerMost  = 35 * time.Second // below TimeoutStopSec= of the monitor
)

// linger returns when ctx is done and no unit of the herd but self is stopping
// any more, or after lingerMost.
func linger(ctx context.Context, units func() []state.Unit, self string) {
	<-ctx.Done()
	end := time.Now().Add(lingerMost)
	for wait := lingerFirst; ; wait = lingerLook {
		time.Sleep(wait)
		stopping := slices.ContainsFunc(units(), func(u state.Unit) bool {
			return u.Name != self && u.Active == "deactivating"
		})
		if !stopping || time.Now().After(end) {
			return
		}
	}
}
