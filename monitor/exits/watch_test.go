package exits

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"gpuherd/monitor/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type end struct {
	unit string
	pid  uint32
	atUS int64
}

// A watched is a Watch that runs, and what it told.
type watched struct {
	*Watch
	t    *testing.T
	ends chan end
	log  bytes.Buffer
	stop func()
}

func watch(t *testing.T) *watched {
	t.Helper()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatalf("this test wants pidfd_open(2), which this kernel, or a filter of system calls, refuses: %v", err)
	}
	_ = unix.Close(self)
	w := &watched{t: t, ends: make(chan end, 100)}
	w.Watch, err = New(func(unit string, pid uint32, atUS int64) { w.ends <- end{unit, pid, atUS} }, slog.New(slog.NewTextHandler(&w.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// told returns the next end that is told.
func (w *watched) told() end {
	w.t.Helper()
	select {
	case e := <-w.ends:
		return e
	case <-time.After(time.Minute):
		w.t.Fatal("no end is told")
		return end{}
	}
}

// sleeper starts one that sleeps.
func sleeper(t *testing.T) (cmd *exec.Cmd, pid uint32) {
	t.Helper()
	cmd = exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, uint32(cmd.Process.Pid)
}

func running(unit string, pid uint32) state.Delta {
	return state.Delta{Units: []state.Unit{{Name: unit, PID: pid}}}
}

// An end is told once, by the unit whose main process it was, before anybody
// has reaped it.
func TestEnd(t *testing.T) {
	w := watch(t)
	a, aPID := sleeper(t)
	b, bPID := sleeper(t)
	w.Push(running("a.service", aPID))
	w.Push(running("b.service", bPID))
	w.Push(running("a.service", aPID)) // a figure has changed
	began := time.Now().UnixMicro()
	for _, p := range []struct {
		cmd *exec.Cmd
		end
	}{{b, end{unit: "b.service", pid: bPID}}, {a, end{unit: "a.service", pid: aPID}}} {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		got := w.told()
		if got.unit != p.unit || got.pid != p.pid || got.atUS < began || got.atUS > time.Now().UnixMicro() {
			t.Errorf("it told %+v, want %+v", got, p.end)
		}
	}
	// The unit goes on to have that process until systemd says otherwise.
	w.Push(running("a.service", aPID))
	c, cPID := sleeper(t)
	w.Push(running("c.service", cPID))
	_ = c.Process.Kill()
	if got := w.told(); got.unit != "c.service" {
		t.Errorf("it told %+v, want c.service alone", got)
	}
}

// A process that ended before anybody looked, and waits to be reaped, has
// ended; of one that is gone nothing can be told.
func TestEndedBefore(t *testing.T) {
	w := watch(t)
	gone, gonePID := sleeper(t)
	_ = gone.Process.Kill()
	_ = gone.Wait()
	w.Push(running("gone.service", gonePID))
	dead, deadPID := sleeper(t)
	_ = dead.Process.Kill()
	w.Push(running("dead.service", deadPID))
	if got := w.told(); got.unit != "dead.service" {
		t.Errorf("it told %+v, want dead.service", got)
	}
	w.stop()
	if w.log.Len() > 0 {
		t.Errorf("it is no trouble that a process is gone:\n%s", w.log.String())
	}
}

// What is no main process of the herd any more is not told of.
func TestForgotten(t *testing.T) {
	w := watch(t)
	var all []*exec.Cmd
	for _, unit := range []string{"stopped.service", "replaced.service", "left.service", "reset.service", "kept.service"} {
		cmd, pid := sleeper(t)
		all = append(all, cmd)
		w.Push(running(unit, pid))
	}
	next, nextPID := sleeper(t)
	all = append(all, next)
	w.Push(running("stopped.service", 0))
	w.Push(running("replaced.service", nextPID))
	w.Push(state.Delta{Gone: []string{"left.service"}})
	w.Push(state.Delta{Reset: true, Units: []state.Unit{
		{Name: "kept.service", PID: uint32(all[4].Process.Pid)}, {Name: "replaced.service", PID: nextPID}, {Name: "stopped.service"},
	}})
	for _, cmd := range all {
		_ = cmd.Process.Kill()
	}
	want := map[string]uint32{"kept.service": uint32(all[4].Process.Pid), "replaced.service": nextPID}
	for range 2 {
		got := w.told()
		if want[got.unit] != got.pid {
			t.Errorf("it told %+v, want one of %v", got, want)
		}
		delete(want, got.unit)
	}
	w.stop()
	if len(w.ends) > 0 {
		t.Errorf("it told %+v besides", <-w.ends)
	}
	w.Push(running("late.service", nextPID)) // a Delta under way
	if len(w.processes)+len(w.units) > 0 {
		t.Errorf("after the end it holds %v, %v", w.processes, w.units)
	}
}

// What was read of a process comes too late once the unit has another one: it
// says nothing of that, though its pidfd may have the same number.
func TestHeardTooLate(t *testing.T) {
	w := watch(t)
	_, first := sleeper(t)
	_, second := sleeper(t)
	w.Push(running("a.service", first))
	old := w.processes["a.service"]
	w.Push(running("a.service", second))
	w.tell([]unix.EpollEvent{{Events: unix.EPOLLIN, Fd: old.token}})
	w.stop()
	if len(w.ends) > 0 {
		t.Errorf("it told %+v", <-w.ends)
	}
}

// Where the kernel or a filter of system calls refuses, the log hears of it
// once, and all else goes on.
func TestRefused(t *testing.T) {
	w := watch(t)
	w.stop()
	w.closed = false // but its epoll file is
	_, pid := sleeper(t)
	for _, unit := range []string{"a.service", "b.service"} {
		w.Push(running(unit, pid))
	}
	if n := bytes.Count(w.log.Bytes(), []byte("level=WARN")); n != 1 {
		t.Errorf("the log has %d warnings, want one:\n%s", n, w.log.String())
	}
	if fds := len(w.units); fds > 0 {
		t.Errorf("it holds %d pidfds", fds)
	}
	if _, err := w.open(1<<30, 1); !errors.Is(err, unix.ESRCH) {
		t.Errorf("no such process: %v, want ESRCH", err)
	}
}
