package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A notifier tells systemd that the monitor is ready, alive and what it does,
// see sd_notify(3).
type notifier struct {
	log     *slog.Logger
	ready   func() error
	summary func() string

	send  func(state string)
	every time.Duration // how often systemd hears that all is well; 0: never
	// Of the reading loop: when it heard that last, and its last STATUS=.
	fed  time.Time
	said string
}

func newNotifier(log *slog.Logger, summary func() string) *notifier {
	n := &notifier{log: log, summary: summary}
	n.send = func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Debug("cannot tell systemd", "error", err)
		}
	}
	bites, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("cannot read the watchdog's time", "error", err)
	}
	n.every = bites / 4
	return n
}

// tick is called by the loop that reads the bus, every 2 seconds: so the
// watchdog bites when that loop is stuck, and not when another part is.
func (n *notifier) tick() {
	if now := time.Now(); n.every > 0 && now.Sub(n.fed) >= n.every {
		n.fed = now
		n.send("WATCHDOG=1")
	}
	if s := n.summary(); s != n.said {
		n.said = s
		n.send("STATUS=" + s)
	}
}

// String names the task.
func (n *notifier) String() string { return "notifier" }

// Run tells systemd once that the herd has been read, and that the monitor
// ends. Redis being away does not keep it from being ready.
func (n *notifier) Run(ctx context.Context) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for n.ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
	n.send("READY=1")
	n.log.Info("ready")
	<-ctx.Done()
	n.send("STOPPING=1")
	return nil
}
