package machine

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a command and all its descendants, in a PID namespace of their
// own: they end with the command's end, with kill, and with the end of this
// program however it comes.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once all of it has ended
	err  error         // how the command ended; valid after done
}

// startProcess starts cmd in new namespaces, pinned to the given CPUs, or to
// none where the list is empty. cmd is the namespace's first process, so it
// must reap what it is left; a shell does.
func startProcess(cmd *exec.Cmd, namespaces uintptr, cpus []int) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | namespaces,
		Setsid:     true, // a terminal's ^C is for this program alone
		Pdeathsig:  syscall.SIGKILL,
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig means the death of the thread that forked, and affinity is
		// a thread's too: this one is kept for the life of the process, and
		// then ended, as it is never unlocked.
		runtime.LockOSThread()
		if len(cpus) > 0 {
			var set unix.CPUSet
			for _, cpu := range cpus {
				set.Set(cpu)
			}
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				started <- fmt.Errorf("cannot pin to CPUs %v: %w", cpus, err)
				return
			}
		}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// kill ends the process and all its descendants, and returns when they are gone.
func (p *process) kill() {
	// An error says that it has ended already.
	_ = p.cmd.Process.Kill()
	<-p.done
}
