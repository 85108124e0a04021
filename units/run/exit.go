package run

import (
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Exit is how a program ended.
type Exit struct {
	Code   int            // its exit status, where no signal ended it
	Signal syscall.Signal // that ended it; 0: none did
}

func exitOf(state *os.ProcessState) Exit {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Signal: ws.Signal()}
	}
	return Exit{Code: state.ExitCode()}
}

// Status is the exit status as a shell counts it.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Die ends this process in the same way, so that systemd sees the program's
// own end: a signal too, without a core dump of this process.
func (e Exit) Die() {
	if e.Signal != 0 {
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		signal.Reset(e.Signal)
		defaultAction(e.Signal)
		_ = unix.Kill(os.Getpid(), e.Signal)
		time.Sleep(time.Second) // it may reach another thread first
	}
	os.Exit(e.Status())
}

// defaultAction takes the signal from Go's runtime, which prints a trace
// instead of dying of SIGSEGV and its like.
func defaultAction(sig syscall.Signal) {
	var act [8]uint64 // the kernel's sigaction, all zero: SIG_DFL
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
}
