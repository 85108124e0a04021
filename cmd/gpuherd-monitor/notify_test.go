package main

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// systemd hears that all is well in good time before the watchdog bites, and
// of a status when it is another.
func TestNotifierTick(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status := "a"
		n := newNotifier(slog.New(slog.DiscardHandler), func() string { return status })
		const bites = 15 * time.Second
		n.every = bites / 4
		fed, statuses := time.Now(), 0
		n.send = func(state string) {
			if state != "WATCHDOG=1" {
				statuses++
				return
			}
			if late := time.Since(fed); late > bites/2 {
				t.Errorf("it is fed after %v", late)
			}
			fed = time.Now()
		}
		for range 30 {
			time.Sleep(2 * time.Second)
			n.tick()
		}
		if late := time.Since(fed); late > bites/2 {
			t.Errorf("it was last fed %v ago", late)
		}
		if statuses != 1 {
			t.Errorf("%d words of one status", statuses)
		}
	})
}
