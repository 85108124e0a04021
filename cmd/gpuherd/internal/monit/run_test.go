package monit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/bus"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/state"
)

// A person sits before a pseudo-terminal: what is written to it is seen, and
// keys are pressed.
type person struct {
	t      *testing.T
	master *os.File

	mu   sync.Mutex
	seen bytes.Buffer
}

// newPerson returns a person and the terminal that a program gets.
func newPerson(t *testing.T) (*person, *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, master: master}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = tty.Close()
		<-done // the last one has closed the terminal
		_ = master.Close()
	})
	return p, tty
}

// sees waits until the text has been written, and forgets what came before.
func (p *person) sees(text string) {
	p.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		p.mu.Lock()
		at := bytes.Index(p.seen.Bytes(), []byte(text))
		if at >= 0 {
			p.seen.Next(at + len(text))
		}
		seen := p.seen.String()
		p.mu.Unlock()
		if at >= 0 {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("never seen: %q; last: %q", text, seen)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *person) presses(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

func observed(n int) []state.Observation {
	var all []state.Observation
	for i := range n {
		all = append(all, state.Observation{
			Name: fmt.Sprintf("redis-worker@%d.service", i), Active: "active", Sub: "running", Result: "success",
			InvocationID: bustest.Invocation(i + 1), MainPID: uint32(i + 100), ChangedMonoUS: 1,
		})
	}
	return all
}

func options(systemd *bustest.Systemd, tty *os.File) Options {
	var asked atomic.Bool
	return Options{
		Host: "host-a", Screen: terminal.Screen{Terminal: true}, Cells: testCells, TTY: tty, Root: "/nonexistent",
		Bus:    []bus.Option{bus.WithAddress(systemd.Address)},
		Choose: func(names []string) []string { return names },
		GPUs:   func(context.Context) ([]state.GPU, error) { return nil, errors.New("no monitor") },
		Describe: func(_ context.Context, unit string) ([]string, error) {
			answer := "first" // and each letter of "later" is another: what stays is not written anew
			if asked.Swap(true) {
				answer = "later"
			}
			return []string{"all of " + unit, "\x1b[2J", answer}, nil
		},
		Control: func(_ context.Context, verb jobs.Verb, unit string) Done {
			return Done{Text: "did " + string(verb) + " " + unit, OK: true}
		},
		Count: func(_ context.Context, unit string) Counted {
			return Counted{Unit: unit, Service: "redis-worker", Now: 1, Possible: func(int) error { return nil }}
		},
		Scale: func(_ context.Context, service string, n int, progress func(string)) Done {
			progress("on its way")
			return Done{Text: fmt.Sprintf("did scale %s to %d", service, n), OK: true}
		},
		Journal: func(unit string) []string {
			return []string{"sh", "-c", `echo '{"MESSAGE":"log of ` + unit + `"}'; exec sleep 600`}
		},
	}
}

func start(ctx context.Context, t *testing.T, o Options) chan error {
	t.Helper()
	t.Setenv("TERM", "xterm")
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	return ended
}

func ends(t *testing.T, ended chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestRun(t *testing.T) {
	person, tty := newPerson(t)
	units := observed(2)
	systemd := bustest.Start(t, units...)
	ended := start(t.Context(), t, options(systemd, tty))
	person.sees("2 workers, 2 active")
	person.sees("redis-worker@1")
	person.sees("log of redis-worker@0.service")

	// systemd's signals, without a question asked.
	asked := systemd.Asked()
	units[1].Active, units[1].Sub, units[1].Result, units[1].ChangedMonoUS = "failed", "failed", "exit-code", 2
	units[1].StatusText = "\x1b]0;owned\x07"
	systemd.Announce(units[1])
	person.sees("failed")
	if now := systemd.Asked(); now != asked {
		t.Errorf("%d questions for a change that systemd announced", now-asked)
	}
	person.presses("e")
	person.sees("redis-worker@1 failed: exit-code, status 3")

	person.presses("\r")
	person.sees("all of redis-worker@0.service")
	person.sees(`\x1b[2J`)
	person.sees("later") // they are live
	person.presses("qry")
	person.sees("did restart redis-worker@0.service")
	person.presses("+")
	person.sees("from 1 to 2")
	person.presses("y")
	person.sees("did scale redis-worker to 2")
	person.presses("j")
	person.sees("log of redis-worker@1.service")

	// Without the bus what is shown is said to be old; and it comes back.
	systemd.StopBus()
	person.sees("systemd does not answer")
	systemd.StartBus()
	person.sees("GPU figures: not available")

	person.presses("q")
	ends(t, ended)
	person.mu.Lock()
	defer person.mu.Unlock()
	if !strings.Contains(person.seen.String(), "\x1b[?1049l") {
		t.Errorf("the alternate screen is not left: %q", person.seen.String())
	}
}

// A reload is short, and no reason to call old what is shown.
func TestLost(t *testing.T) {
	t.Parallel()
	f := newFeed(Options{Choose: func(names []string) []string { return names }}, nil)
	lost := func(after time.Duration) bool {
		s, _ := f.snapshot(time.Now().Add(after))
		return s.Lost
	}
	f.Sync(observed(1), "start")
	if lost(time.Hour) {
		t.Error("lost from the start")
	}
	f.Lost(0)
	if lost(0) || !lost(grace) {
		t.Errorf("lost at once: %v; after %v: %v", lost(0), grace, lost(grace))
	}
	f.Sync(observed(1), "again")
	if lost(time.Hour) {
		t.Error("lost still")
	}
}

// TestRestartsAreSystemds: RESTARTS is what list shows, also after a restart by
// hand while the screen is open, and never of a unit that is none of the herd.
func TestRestartsAreSystemds(t *testing.T) {
	t.Parallel()
	f := newFeed(Options{Choose: func(names []string) []string { return names }}, nil)
	seen := state.Observation{Name: "w@0.service", Active: "active", Sub: "running", InvocationID: "1", NRestarts: 2, ChangedMonoUS: 1}
	shown := func(want uint64) {
		t.Helper()
		s, _ := f.snapshot(time.Now())
		if len(s.Workers) != 1 || s.Workers[0].Restarts != want {
			t.Errorf("workers %+v, want one with %d restarts", s.Workers, want)
		}
	}
	f.Sync([]state.Observation{seen}, "start")
	shown(2)
	seen.InvocationID, seen.NRestarts, seen.ChangedMonoUS = "2", 3, 2
	f.Observe(seen)
	shown(3)
	seen.InvocationID, seen.NRestarts, seen.ChangedMonoUS = "3", 0, 3 // by hand: systemd counts from zero
	f.Observe(seen)
	f.Observe(state.Observation{Name: "other.service", NRestarts: 7})
	shown(0)
	seen.NRestarts = 1
	f.Sync([]state.Observation{seen}, "reload")
	shown(1)
}

func TestRunEndsWithItsContext(t *testing.T) {
	person, tty := newPerson(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := start(ctx, t, options(bustest.Start(t, observed(1)...), tty))
	person.sees("log of redis-worker@0.service")
	cancel()
	ends(t, ended)
}
