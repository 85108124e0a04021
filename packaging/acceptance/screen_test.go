//go:build acceptance

package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A screen is a terminal with a program on it.
type screen struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	wide   bool

	mu    sync.Mutex
	drawn bytes.Buffer // since the size last changed
}

// openScreen runs a program on a terminal of its own.
func openScreen(t *testing.T, name string, args ...string) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tty.Close() }()
	s := &screen{t: t, master: master, cmd: exec.CommandContext(t.Context(), name, args...)}
	s.resize()
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=1")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.drawn.Write(buf[:n])
			s.mu.Unlock()
			if err != nil { // whoever wrote has gone
				return
			}
		}
	}()
	return s
}

// resize has the program draw everything anew: otherwise it writes only what
// has changed, of which no text can be made without a terminal.
func (s *screen) resize() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drawn.Reset()
	s.wide = !s.wide
	size := unix.Winsize{Row: 40, Col: 120}
	if s.wide {
		size.Col++
	}
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		s.t.Fatal(err)
	}
}

// sees waits until the screen shows all texts at once.
func (s *screen) sees(texts ...string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("the screen shows %q", texts), func() error {
		s.resize()
		time.Sleep(200 * time.Millisecond) // for the program to draw; else it is looked at again
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, text := range texts {
			if !strings.Contains(s.drawn.String(), text) {
				return fmt.Errorf("no %q in %q", text, s.drawn.String())
			}
		}
		return nil
	})
}

func (s *screen) keys(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// On the screen of monit a service is scaled as by scale: the new workers come
// up and are shown, those that go vanish, and nobody else is touched.
func TestScaleOnTheScreen(t *testing.T) {
	h := open(t)
	workers := h.workers()
	before := h.invocations(workers)
	shown := func(n int) string { return fmt.Sprintf("%[1]d workers, %[1]d active, 0 failed", n) }
	second := strings.Replace(workers[0], ".service", ".2", 1)

	s := openScreen(t, "gpuherd", "monit", "redis-worker")
	s.sees(shown(len(workers)), "log of redis-worker@0 ")
	s.keys("+")
	s.sees("scale redis-worker from 1 to 2 workers on each device? y yes, n no")
	if got := h.workers(); !slices.Equal(got, workers) {
		t.Errorf("workers are %v before the answer, want %v", got, workers)
	}
	s.keys("y")
	s.sees("redis-worker has 2 workers a device (1 before)", shown(2*len(workers)), second+" ")
	if got := h.workers(); len(got) != 2*len(workers) {
		t.Errorf("workers are %v, want two for each of %v", got, workers)
	}
	h.healthy()

	s.keys("j")
	s.sees("> " + second + " ")
	s.keys("-")
	s.sees("scale redis-worker from 2 to 1 worker on each device? y yes, n no")
	s.keys("y")
	s.sees("redis-worker has 1 worker a device (2 before)", shown(len(workers)), "> redis-worker@1 ")
	if got := h.workers(); !slices.Equal(got, workers) {
		t.Errorf("workers are %v, want %v", got, workers)
	}
	if _, err := os.Stat("/etc/gpuherd/gpuherd.conf.d/90-redis-worker.conf"); err == nil {
		t.Error("a file that says nothing is left behind")
	}
	for worker, now := range h.invocations(workers) {
		if now != before[worker] {
			t.Errorf("%s was restarted", worker)
		}
	}
	s.keys("-")
	s.sees("a service has one worker a device at least; gpuherd disable switches it off")
	s.keys("q")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("monit ended with %v", err)
	}
}
