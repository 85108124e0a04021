package bus_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/state"
)

// follow runs a Watcher with a Herd on a real systemd and returns the events
// as they come.
func follow(t *testing.T, u *bustest.User) (*state.Herd, chan string, *bus.Watcher) {
	t.Helper()
	events := make(chan string, 10000)
	herd := state.NewHerd(func(d state.Delta) {
		for _, e := range d.Events {
			if x, ok := e.Data.(*state.UnitEvent); ok {
				events <- fmt.Sprintf("%s %s %s", x.Name, x.Event, x.Result)
			}
		}
	}, time.Now)
	w := bus.NewWatcher(slog.New(slog.DiscardHandler), herd, nil, bus.WithAddress(u.Address))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	until(t, "the herd is read", func() bool { return w.Ready() == nil })
	return herd, events, w
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// take returns the next events.
func take(t *testing.T, events chan string, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		select {
		case e := <-events:
			got = append(got, e)
		case <-time.After(20 * time.Second):
			t.Fatalf("only %q", got)
		}
	}
	return got
}

const sleeper = "[Service]\nExecStart=/bin/sleep 1000\nRestart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=0\n"

// A real systemd, of whatever version is installed, does all that a monitor
// has to live through.
func TestRealSystemd(t *testing.T) {
	t.Parallel()
	u := bustest.StartUser(t, map[string]string{
		"w@.service": sleeper,
		"n.service": "[Service]\nType=notify\nNotifyAccess=all\nRestart=always\nRestartSec=0\n" +
			"ExecStart=/bin/sh -c 'systemd-notify --ready --status=up; exec sleep 1000'\n[Unit]\nStartLimitIntervalSec=0\n",
		"f.service": "[Service]\nExecStart=/bin/sh -c 'exit 3'\n",
	}, "w@0.service", "w@1.service", "n.service", "f.service")
	u.Systemctl("start", "w@0.service", "w@1.service", "n.service")
	herd, events, w := follow(t, u)
	unit := func(name string) state.Unit {
		for _, x := range herd.Units() {
			if x.Name == name {
				return x
			}
		}
		t.Fatalf("no %s in %+v", name, herd.Units())
		return state.Unit{}
	}
	same := func(step string, got []string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
	}

	before := unit("w@0.service")
	u.Systemctl("kill", "--signal=KILL", "w@0.service")
	same("killed", take(t, events, 2), "w@0.service failed signal", "w@0.service running success")
	if now := unit("w@0.service"); now.Restarts != before.Restarts+1 || now.PID == before.PID || now.InvocationID == before.InvocationID {
		t.Errorf("after a kill it is %+v, before %+v", now, before)
	}

	u.Systemctl("kill", "--signal=KILL", "n.service")
	same("killed", take(t, events, 3), "n.service failed signal", "n.service starting success", "n.service running success")
	until(t, "its status is told", func() bool { return unit("n.service").StatusText == "up" })

	_ = u.Systemctl("start", "f.service")
	same("failed to run", take(t, events, 2), "f.service running success", "f.service failed exit-code")
	if x := unit("f.service"); x.ExitCode != "exited" || x.ExitStatus != 3 {
		t.Errorf("the exit is told as %+v", x)
	}
	u.Systemctl("reset-failed", "f.service")
	same("reset", take(t, events, 1), "f.service stopped success")

	u.Systemctl("stop", "w@1.service")
	same("stopped", take(t, events, 2), "w@1.service stopping success", "w@1.service stopped success")
	u.Systemctl("start", "w@1.service")
	same("started", take(t, events, 1), "w@1.service running success")
	if x := unit("w@1.service"); x.Restarts != 1 {
		t.Errorf("a start by hand makes %d restarts, want 1", x.Restarts)
	}

	for _, step := range []struct {
		what   string
		reason string
	}{{"daemon-reload", bus.ReasonReload}, {"daemon-reexec", ""}} {
		resyncs := func() uint64 {
			s := w.Stats().Resyncs
			return s[bus.ReasonReload] + s[bus.ReasonReexec]
		}
		n := resyncs()
		u.Systemctl(step.what)
		until(t, step.what+" is noticed", func() bool { return resyncs() > n })
		u.Systemctl("kill", "--signal=KILL", "w@0.service")
		same(step.what, take(t, events, 2), "w@0.service failed signal", "w@0.service running success")
	}

	// What the generator adds is of the herd with the next reload.
	u.Add("new.service", sleeper)
	u.Systemctl("daemon-reload")
	same("added", take(t, events, 1), "new.service stopped success")
	u.Systemctl("start", "new.service")
	same("added and started", take(t, events, 1), "new.service running success")

	connections := w.Stats().Connections
	u.Systemctl("restart", "dbus.service")
	until(t, "it is connected again", func() bool { return w.Stats().Connections > connections && w.Ready() == nil })
	u.Systemctl("kill", "--signal=KILL", "w@0.service")
	same("the bus restarted", take(t, events, 2), "w@0.service failed signal", "w@0.service running success")

	// As fast as it can: nothing is lost, nothing told twice.
	const kills = 100
	restarts := unit("w@0.service").Restarts
	for range kills {
		pid := unit("w@0.service").PID
		u.Systemctl("kill", "--signal=KILL", "w@0.service")
		same("one of many", take(t, events, 2), "w@0.service failed signal", "w@0.service running success")
		if unit("w@0.service").PID == pid {
			t.Fatal("it has not changed its process")
		}
	}
	if got := unit("w@0.service").Restarts; got != restarts+kills {
		t.Errorf("%d restarts, want %d", got, restarts+kills)
	}
}
