package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"gpuherd/units/subreaper"
)

// A family is the children of this process: those that it started and waits
// for itself, and orphans, which it reaps.
type family struct {
	mu   sync.Mutex // also between a child's birth and its entry
	ours map[int]bool
}

func newFamily() *family { return &family{ours: map[int]bool{}} }

func (f *family) start(cmd *exec.Cmd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	f.ours[cmd.Process.Pid] = true
	return nil
}

func (f *family) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ours, cmd.Process.Pid)
	return err
}

func (f *family) reap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	subreaper.Reap(f.ours)
}

// A program is what runs.
type program struct {
	cmd    *exec.Cmd
	family *family
	group  bool // it leads a process group of its own
	all    bool // signals are for the whole group
	tty    bool // Ctrl-C reaches it without us

	exited chan struct{} // it has ended, and is not reaped
	reap   chan struct{} // it may be
	reaped chan struct{}

	pipes     []*os.File // our ends
	copies    sync.WaitGroup
	channel   *channel // to node; nil: none
	saidReady chan struct{}
}

// run starts the program. It dies with this process.
func (f *family) run(o Options, match *match) (*program, error) {
	path, err := lookPath(o.Argv[0])
	if err != nil {
		return nil, err
	}
	p := &program{
		family: f, all: o.SignalGroup, tty: term.IsTerminal(int(o.Stdin.Fd())),
		exited: make(chan struct{}), reap: make(chan struct{}), reaped: make(chan struct{}), saidReady: make(chan struct{}),
	}
	// From a terminal's foreground group nobody is moved: it could not read.
	p.group = !p.tty
	p.cmd = &exec.Cmd{
		Path: path, Args: o.Argv, Env: environment(o.Env), Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: p.group, Pdeathsig: syscall.SIGKILL},
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	if match != nil {
		for _, out := range []struct {
			to   *os.File
			from *io.Writer
		}{{o.Stdout, &p.cmd.Stdout}, {o.Stderr, &p.cmd.Stderr}} {
			r, w, err := os.Pipe()
			if err != nil {
				p.close()
				return nil, fmt.Errorf("%w: %w", ErrNotStarted, err)
			}
			*out.from = w
			theirs, p.pipes = append(theirs, w), append(p.pipes, r)
			p.copies.Go(func() { match.copy(out.to, r) })
		}
	}
	if o.ReadyMessage || o.StopMessage {
		c, theirEnd, err := newChannel()
		if err != nil {
			p.close()
			return nil, fmt.Errorf("%w: %w", ErrNotStarted, err)
		}
		p.channel = c
		theirs = append(theirs, theirEnd)
		p.cmd.ExtraFiles = []*os.File{theirEnd} // 3
		p.cmd.Env = append(p.cmd.Env, "NODE_CHANNEL_FD=3", "NODE_CHANNEL_SERIALIZATION_MODE=json")
		p.copies.Go(func() { c.read(p.saidReady) })
	}
	started := make(chan error, 1)
	go p.live(started)
	if err := <-started; err != nil {
		p.close()
		return nil, fmt.Errorf("%w: %w", ErrNotStarted, err)
	}
	return p, nil
}

// live starts the program and stays until it is reaped, on one thread: the
// death signal comes when the thread that started it ends, see
// PR_SET_PDEATHSIG in prctl(2).
func (p *program) live(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.family.start(p.cmd)
	started <- err
	if err != nil {
		return
	}
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR { //nolint:errorlint // system calls return the bare number
			break
		}
	}
	close(p.exited)
	<-p.reap
	_ = p.family.wait(p.cmd) // what it says is in the state
	close(p.reaped)
}

// signal passes sig on. It must not be called after end: until then the
// program's number is nobody else's.
func (p *program) signal(sig os.Signal) {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return
	}
	switch s {
	case syscall.SIGCHLD:
		p.family.reap()
		return
	case syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return // for this process: from Go's scheduler, its pipes and its terminal
	case syscall.SIGINT, syscall.SIGQUIT:
		if p.tty {
			return // the terminal tells its whole group
		}
	}
	pid := p.cmd.Process.Pid
	if p.all && p.group || s == syscall.SIGKILL && p.group {
		pid = -pid
	}
	_ = unix.Kill(pid, s) // ESRCH: it ends just now
}

// send sends a message on node's channel.
func (p *program) send(message string) error {
	if p.channel == nil {
		return errors.New("there is no channel to the program")
	}
	return p.channel.send(message)
}

// end kills what the program left behind and returns how it ended.
func (p *program) end() Exit {
	if p.group {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	}
	close(p.reap)
	<-p.reaped
	subreaper.End()
	// What was written is read; only a process that nobody may kill has the
	// other end still.
	p.closeAfter(2 * time.Second)
	p.copies.Wait()
	p.close()
	return exitOf(p.cmd.ProcessState)
}

func (p *program) closeAfter(d time.Duration) {
	at := time.Now().Add(d)
	for _, f := range p.pipes {
		_ = f.SetReadDeadline(at)
	}
	if p.channel != nil {
		p.channel.close()
	}
}

func (p *program) close() {
	for _, f := range p.pipes {
		_ = f.Close()
	}
	if p.channel != nil {
		p.channel.close()
	}
}

// environment leaves out what systemd meant for this process alone, and a
// channel to a parent that is node.
func environment(env []string) []string {
	own := []string{"NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "FDSTORE=", "SYSTEMD_EXEC_PID=", "NODE_CHANNEL_"}
	var theirs []string
	for _, v := range env {
		keep := true
		for _, name := range own {
			keep = keep && !strings.HasPrefix(v, name)
		}
		if keep {
			theirs = append(theirs, v)
		}
	}
	return theirs
}
