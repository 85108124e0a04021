package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// bootHost gives out the machine that this program runs on.
func bootHost(ctx context.Context, config Config) (*Machine, error) {
	if !systemdIsPID1("/") {
		return nil, errors.New("this host has not systemd as PID 1: use the backend uml or nspawn")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the host backend needs root")
	}
	m := &Machine{config: config, Share: config.Share}
	if m.Share == "" {
		folder, err := newFolder()
		if err != nil {
			return nil, err
		}
		m.folder = folder
		m.Share = folder.path
	}
	// An error goes with every state but "running".
	state, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	m.State = strings.TrimSpace(string(state))
	return m, nil
}

// runOnHost runs argv as Machine.Run says.
func runOnHost(ctx context.Context, argv []string, stdout, stderr io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = time.Second // as in a machine, what it left running is not waited for
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return -1, context.Cause(ctx)
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil // as a shell has it
	case errors.Is(err, exec.ErrNotFound):
		return 127, nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return -1, fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	return 0, nil
}
