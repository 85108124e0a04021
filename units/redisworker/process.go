package redisworker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/units/subreaper"
)

// A process is a job's program and its process group.
type process struct {
	pid                              int
	stdin                            *os.File // to write
	stdout, stderr, result, progress *os.File // to read
	state                            *os.ProcessState

	exited chan struct{} // the program has ended, and its group is about to be killed
	reaped chan struct{} // state is set

	mu   sync.Mutex
	free bool // pid may be a stranger's
}

// startProcess starts cmd as the leader of a new process group, which dies
// with this process.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{exited: make(chan struct{}), reaped: make(chan struct{})}
	var theirs []*os.File
	closeTheirs := func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}
	pipe := func(ours **os.File, weWrite bool) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if weWrite {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
		return w, nil
	}
	in, err1 := pipe(&p.stdin, true)
	out, err2 := pipe(&p.stdout, false)
	errs, err3 := pipe(&p.stderr, false)
	fd3, err4 := pipe(&p.result, false)
	fd4, err5 := pipe(&p.progress, false)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		closeTheirs()
		p.close()
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	cmd.ExtraFiles = []*os.File{fd3, fd4}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	started := make(chan error, 1)
	go p.live(cmd, started)
	err := <-started
	closeTheirs()
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// live starts the program and stays until it has ended, on one thread: the
// death signal comes when the thread that started it ends, see prctl(2),
// PR_SET_PDEATHSIG.
func (p *process) live(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	offer(p.pid)
	started <- nil
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR { //nolint:errorlint // system calls return the bare number
			break
		}
	}
	close(p.exited)
	p.signal(unix.SIGKILL)
	p.mu.Lock()
	p.free = true
	p.mu.Unlock()
	_ = cmd.Wait() // what it says is in the state
	p.state = cmd.ProcessState
	close(p.reaped)
}

// signal reaches the whole group. As long as the leader is not reaped nobody
// else can get its number.
func (p *process) signal(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.free {
		_ = unix.Kill(-p.pid, sig)
	}
}

// wait waits until the program has ended, and makes it end when ctx is done:
// killed is true then.
func (p *process) wait(ctx context.Context) (killed bool) {
	select {
	case <-p.exited:
	case <-ctx.Done():
		killed = true
		if !errors.Is(context.Cause(ctx), ErrNow) {
			p.signal(unix.SIGTERM)
			grace := time.NewTimer(stopGrace)
			defer grace.Stop()
			select {
			case <-p.exited:
			case <-grace.C:
			}
		}
		p.signal(unix.SIGKILL)
	}
	<-p.reaped
	return killed
}

// gone waits until no process of the group is left. Those that outlived the
// program are init's or, where this process is a subreaper, ours to reap.
func (p *process) gone() bool {
	begin := time.Now()
	for wait := time.Millisecond; ; wait *= 2 {
		for {
			if pid, err := unix.Wait4(-p.pid, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
		if unix.Kill(-p.pid, 0) == unix.ESRCH || wait > 8*time.Millisecond && !subreaper.GroupLives(p.pid) {
			return true
		}
		if time.Since(begin) > 2*time.Second {
			return false
		}
		time.Sleep(wait)
	}
}

// closeAfter ends all reading after d: a process that left the group may hold
// the other ends for ever.
func (p *process) closeAfter(d time.Duration) {
	at := time.Now().Add(d)
	for _, f := range []*os.File{p.stdout, p.stderr, p.result, p.progress} {
		_ = f.SetReadDeadline(at)
	}
	// Nobody is left who should read the rest of the payload.
	_ = p.stdin.SetWriteDeadline(time.Now())
}

func (p *process) close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr, p.result, p.progress} {
		if f != nil {
			_ = f.Close()
		}
	}
}
