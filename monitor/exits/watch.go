// Package exits tells the moment in which main processes of the herd end.
//
// systemd says so, too, and with the exit code, but only after it has reaped
// the process, looked at what else the unit needs, and queued its signals. The
// kernel tells who holds a pidfd (pidfd_open(2)) at once.
package exits

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/monitor/state"
)

// A Watch holds a pidfd of each main process that it was told of.
type Watch struct {
	ended func(unit string, pid uint32, atUS int64)
	log   *slog.Logger
	epoll *os.File        // of all pidfds; Go's poller watches it as it does a socket
	raw   syscall.RawConn // the same

	mu        sync.Mutex
	processes map[string]process // by unit
	units     map[int32]string   // by process.token
	token     int32              // of the last process
	closed    bool
	refused   bool // the log has heard that processes cannot be watched
}

type process struct {
	pid uint32
	fd  int // the pidfd; −1: it could not be opened, or has told its end
	// token is what the epoll file tells. Not the number of the pidfd: that may
	// be another's by the time it is heard.
	token int32
}

// New returns a Watch that tells ended of each end, with the unix time in µs.
// Run closes it.
func New(ended func(unit string, pid uint32, atUS int64), log *slog.Logger) (*Watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else Go would not poll it
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make an epoll file non-blocking: %w", err)
	}
	w := &Watch{
		ended: ended, log: log, epoll: os.NewFile(uintptr(fd), "epoll"),
		processes: map[string]process{}, units: map[int32]string{},
	}
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		_ = w.epoll.Close()
		return nil, fmt.Errorf("cannot use an epoll file: %w", err)
	}
	return w, nil
}

// String names the task.
func (w *Watch) String() string { return "exit watch" }

// Push takes what changed of the units. It makes a few system calls for a main
// process that is new, and does not block.
func (w *Watch) Push(d state.Delta) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	if d.Reset {
		present := make(map[string]bool, len(d.Units))
		for i := range d.Units {
			present[d.Units[i].Name] = true
		}
		for unit := range w.processes {
			if !present[unit] {
				w.forget(unit)
			}
		}
	}
	for i := range d.Units {
		w.follow(d.Units[i].Name, d.Units[i].PID)
	}
	for _, unit := range d.Gone {
		w.forget(unit)
	}
}

// follow watches the main process pid of a unit, 0 for none, and no other.
func (w *Watch) follow(unit string, pid uint32) {
	if w.processes[unit].pid == pid {
		return
	}
	w.forget(unit)
	if pid == 0 {
		return
	}
	w.token++
	p := process{pid: pid, fd: -1, token: w.token}
	fd, err := w.open(pid, p.token)
	switch {
	case err == nil:
		p.fd = fd
		w.units[p.token] = unit
	case !errors.Is(err, unix.ESRCH) && !w.refused: // ESRCH: systemd has reaped it already
		w.refused = true
		w.log.Warn("the ends of main processes are told once systemd tells them", "error", err)
	}
	w.processes[unit] = p
}

func (w *Watch) forget(unit string) {
	p, ok := w.processes[unit]
	if !ok {
		return
	}
	delete(w.processes, unit)
	w.drop(p)
}

// drop closes the pidfd, which takes it out of the epoll file.
func (w *Watch) drop(p process) {
	if p.fd >= 0 {
		delete(w.units, p.token)
		_ = unix.Close(p.fd)
	}
}

// open returns a pidfd of the process, of which the epoll file tells the token.
func (w *Watch) open(pid uint32, token int32) (fd int, err error) {
	if fd, err = unix.PidfdOpen(int(pid), 0); err != nil {
		return -1, fmt.Errorf("pidfd_open: %w", err)
	}
	var failed error
	err = w.raw.Control(func(poll uintptr) {
		failed = unix.EpollCtl(int(poll), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: token})
	})
	if err = errors.Join(err, failed); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("epoll_ctl: %w", err)
	}
	return fd, nil
}

// Run tells ends until ctx is done, and returns nil then.
func (w *Watch) Run(ctx context.Context) error {
	defer w.close()
	defer context.AfterFunc(ctx, func() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) })()
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		var failed error
		err := w.raw.Read(func(poll uintptr) bool {
			for {
				// What is left here is not told again.
				if n, failed = unix.EpollWait(int(poll), events, 0); !errors.Is(failed, unix.EINTR) {
					return n > 0 || failed != nil
				}
			}
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the read ended as it was asked to
		}
		if err := errors.Join(err, failed); err != nil {
			return fmt.Errorf("cannot wait for the ends of processes: %w", err)
		}
		w.tell(events[:n])
	}
}

// tell tells of the processes whose pidfds can be read: they have ended.
func (w *Watch) tell(events []unix.EpollEvent) {
	now := time.Now().UnixMicro()
	for _, e := range events {
		w.mu.Lock()
		unit, known := w.units[e.Fd]
		p := w.processes[unit]
		if known {
			w.drop(p)
			w.processes[unit] = process{pid: p.pid, fd: -1}
		}
		w.mu.Unlock()
		// Not locked: who is told may hold what Push is called under.
		if known {
			w.ended(unit, p.pid, now)
		}
	}
}

func (w *Watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for unit := range w.processes {
		w.forget(unit)
	}
	_ = w.epoll.Close()
}
