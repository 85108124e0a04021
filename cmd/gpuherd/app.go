package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/bus"
)

// The exit codes, which root's help tells.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2

	// Of a job that queue add waited for.
	exitDead      = 3
	exitCancelled = 4
	exitUnended   = 5
)

// An app is one run of gpuherd: all that its verbs touch outside.
type app struct {
	stdin          io.Reader
	stdout, stderr *output
	now            func() time.Time
	exec           func(path string, argv, env []string) error

	rootDir string // below which this machine's files lie; "/" but in tests
	remote  string // --host: where systemd is asked by ssh; empty: here

	link    *bus.Conn // to systemd, once it was asked
	manager *sd.Conn  // on the same connection

	in       terminal.Screen // where stdin comes from
	out, err terminal.Screen // where stdout and stderr go

	told func(text string) // takes the line that changes, in place of stderr; nil: stderr has it

	parsed bool // the command line was understood; a later error is none of usage
}

func newApp() *app {
	return &app{
		stdin:   os.Stdin,
		stdout:  &output{Writer: os.Stdout},
		stderr:  &output{Writer: os.Stderr},
		now:     time.Now,
		exec:    syscall.Exec,
		rootDir: "/",
		in:      terminal.Detect(os.Stdin, os.Getenv),
		out:     terminal.Detect(os.Stdout, os.Getenv),
		err:     terminal.Detect(os.Stderr, os.Getenv),
	}
}

// A usageError says that the command line is wrong and nothing was done.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// An exitStatus ends a verb that has already said what there is to say.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// errFailed ends a verb that has already said what failed.
const errFailed = exitStatus(exitFailed)

// run executes one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	a.disconnect()
	if lost := a.stdout.failed(); lost != nil {
		a.parsed, err = true, fmt.Errorf("cannot write the answer: %w", lost)
	}
	var usage usageError
	var status exitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, syscall.EPIPE): // whoever read has gone, and knows
		return exitFailed
	case errors.As(err, &usage) || !a.parsed:
		a.complain("%s", strings.TrimSpace(err.Error()))
		return exitUsage
	default:
		a.complain("%s", err)
		return exitFailed
	}
}

// complain writes one line for people to stderr.
func (a *app) complain(format string, args ...any) {
	a.stderr.say("gpuherd: %s\n", terminal.Inert(fmt.Sprintf(format, args...)))
}

// printJSON writes v to stdout, indented, as one document.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(terminal.JSON(a.stdout))
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
