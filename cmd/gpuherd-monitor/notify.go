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

	send     func(state string)
	watchdog bool
	said     string // the STATUS= that systemd heard last; of the reading loop
}

func newNotifier(log *slog.Logger, summary func() string) *notifier {
	n := &notifier{log: log, summary: summary}
	n.send = func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Debug("cannot tell systemd", "error", err)
		}
	}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("cannot read the watchdog's time", "error", err)
	}
	n.watchdog = every > 0
	return n
}

// tick is called by the loop that reads the bus, every 2 seconds: so the
// watchdog bites when that loop is stuck, and not when another part is.
func (n *notifier) tick() {
	if n.watchdog {
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
