package machine

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a command that ends with kill, and with the end of this program
// however it comes. In a PID namespace of its own, all its descendants end with
// it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error         // how the command ended; valid after done
}

// startProcess starts cmd in new namespaces (flags of clone(2)), pinned to the
// given CPUs, or to none where the list is empty. The first process of a PID
// namespace must reap what it is left; a shell does.
func startProcess(cmd *exec.Cmd, namespaces uintptr, cpus []int) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: namespaces,
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

// kill ends the process, and returns when it is gone.
func (p *process) kill() {
	// An error says that it has ended already.
	_ = p.cmd.Process.Kill()
	<-p.done
}
