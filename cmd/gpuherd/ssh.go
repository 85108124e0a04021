package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/monitor/bus"
)

// bridge is what connects standard input and output of an ssh session to the
// system bus on its far end, systemd-stdio-bridge(1).
const bridge = "systemd-stdio-bridge"

// remotely marks a verb that works on another host, by --host: those that ask
// systemd and nothing else.
var remotely = map[string]string{"remotely": "yes"}

// checkHost refuses --host where it cannot be: the verb reads or writes files
// of the machine that it runs on.
func (a *app) checkHost(cmd *cobra.Command) error {
	switch {
	case !cmd.Flags().Changed("host"):
		return nil
	case a.remote == "" || strings.HasPrefix(a.remote, "-") || strings.ContainsAny(a.remote, " \t\n"):
		return usagef("--host %q is no host; write --host user@host", a.remote)
	case cmd.Annotations["remotely"] == "":
		return usagef("%[1]s works on its own machine only; run it there: ssh %[2]s %[1]s …", cmd.CommandPath(), a.remote)
	}
	return nil
}

// sshArgs is the command line of ssh for a command on the host. ssh joins the
// words with spaces and has the host's shell read them.
func sshArgs(host string, words ...string) []string {
	args := []string{"-xT", "--", host}
	for _, word := range words {
		args = append(args, shellQuote(word))
	}
	return args
}

// shellQuote makes one word of s for sh(1).
func shellQuote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@%+,-", r)
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// A tunnel is an ssh session as a stream.
type tunnel struct {
	io.Reader
	io.WriteCloser
	cmd   *exec.Cmd
	close func() error // once
}

// farewell is how long ssh may take to end after its input has.
const farewell = 2 * time.Second

// dialSSH connects to systemd on a host, as systemctl --host does. What ssh
// says goes to stderr; it asks for passwords on the terminal.
func dialSSH(ctx context.Context, host string, stderr io.Writer) (*bus.Conn, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "ssh", sshArgs(host, bridge)...)
	cmd.Stderr = stderr
	cmd.WaitDelay = farewell
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot run ssh: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot run ssh: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot run ssh: %w", err)
	}
	t := &tunnel{Reader: out, WriteCloser: in, cmd: cmd}
	t.close = sync.OnceValue(func() error {
		_ = in.Close() // ssh ends by that
		kill := time.AfterFunc(farewell, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		return cmd.Wait()
	})
	conn, err := bus.Dial(ctx, bus.WithStream(t), bus.WithPatience(reexecution))
	if err == nil {
		return conn, nil
	}
	var exit *exec.ExitError
	ended := t.close()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.As(ended, &exit) && exit.ExitCode() == 255: // ssh's own
		err = errors.New("ssh does not get there")
	case errors.As(ended, &exit) && exit.ExitCode() == 127:
		err = errors.New(bridge + " is missing there; it comes with systemd")
	case errors.As(ended, &exit):
		err = fmt.Errorf("%s there: %w", bridge, ended)
	}
	return nil, fmt.Errorf("cannot ask systemd on %s: %w", host, err)
}

// Close ends the session. How it ended is of no interest once the bus was
// connected.
func (t *tunnel) Close() error {
	_ = t.close()
	return nil
}
