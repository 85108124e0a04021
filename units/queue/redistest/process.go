package redistest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Program names the variable with another redis-server than the one in $PATH,
// so that the same tests run over another version.
const Program = "GPUHERD_TEST_REDIS_SERVER"

// program is the redis-server to run, and its major version.
var program = sync.OnceValues(func() (found struct {
	path  string
	major int
}, err error) {
	found.path = os.Getenv(Program)
	if found.path == "" {
		if found.path, err = exec.LookPath("redis-server"); err != nil {
			return found, fmt.Errorf("no redis-server: apt-get install redis-server: %w", err)
		}
	}
	out, err := exec.CommandContext(context.Background(), found.path, "--version").Output()
	if err != nil {
		return found, fmt.Errorf("cannot ask %s for its version: %w", found.path, err)
	}
	for word := range strings.FieldsSeq(string(out)) { // Redis server v=7.0.15 sha=…
		if version, ok := strings.CutPrefix(word, "v="); ok {
			major, _, _ := strings.Cut(version, ".")
			if found.major, err = strconv.Atoi(major); err == nil {
				return found, nil
			}
		}
	}
	return found, fmt.Errorf("%s tells no version: %s", found.path, out)
})

// A process is a redis-server that runs.
type process struct {
	os    *os.Process
	ended chan struct{} // closed once it is reaped
}

// launch starts redis-server with args, and with what it says appended to the
// file log.
func launch(log string, args ...string) (*process, error) {
	found, err := program()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.CommandContext(context.Background(), found.path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The death signal is that of the starting thread, which must live
		// as long as the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it ends by a signal
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start redis-server: %w", err)
	}
	return &process{os: cmd.Process, ended: ended}, nil
}

// end ends the process with a signal and waits until it is gone.
func (p *process) end(sig syscall.Signal) error {
	_ = p.os.Signal(sig) // it may have ended by itself
	select {
	case <-p.ended:
		return nil
	case <-time.After(wait):
		return fmt.Errorf("redis-server did not end on %v", sig)
	}
}
