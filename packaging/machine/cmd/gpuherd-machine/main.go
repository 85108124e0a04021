// Command gpuherd-machine runs a command in a disposable machine with a real
// systemd: see package machine.
//
//	gpuherd-machine image SUITE
//	gpuherd-machine run [flags] -- COMMAND [ARGUMENT]...
//
// run exits with the command's status; 124 at the time-out, 125 when the
// machine failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"gpuherd/generator/version"
	"gpuherd/packaging/machine"
)

const usage = `usage: gpuherd-machine image SUITE                 make the image of a suite, if need be
       gpuherd-machine run [flags] -- COMMAND [ARG]...  run a command in a machine
       gpuherd-machine --version
Suites: bookworm (systemd 252), trixie (systemd 257). Flags of run:
`

// Exit statuses that are not the command's, as timeout(1) has them.
const (
	exitTimeout = 124
	exitFailed  = 125
	exitUsage   = 2
)

func main() {
	// Ended by a signal, it ends its machine first.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string) int {
	flags, config, timeout := newFlags()
	switch {
	case len(args) == 1 && args[0] == "--version":
		fmt.Println(version.String())
		return 0
	case len(args) == 2 && args[0] == "image":
		return makeImage(ctx, machine.Suite(args[1]))
	case len(args) > 0 && args[0] == "run":
		if err := flags.Parse(args[1:]); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return 0
			}
			return exitUsage
		}
		if flags.NArg() > 0 {
			return runCommand(ctx, *config, *timeout, flags.Args())
		}
	}
	flags.Usage()
	return exitUsage
}

func newFlags() (*flag.FlagSet, *machine.Config, *time.Duration) {
	flags := flag.NewFlagSet("gpuherd-machine run", flag.ContinueOnError)
	config := &machine.Config{Env: map[string]string{}, Log: os.Stderr}
	flags.Func("backend", "`uml`, nspawn or host (default uml)", func(s string) error { config.Backend = machine.Backend(s); return nil })
	flags.Func("suite", "`bookworm` or trixie (default bookworm)", func(s string) error { config.Suite = machine.Suite(s); return nil })
	flags.Func("package", "`NAME` of a Debian package beside those that every machine has (repeatable)", func(s string) error {
		config.Packages = append(config.Packages, s)
		return nil
	})
	flags.Func("memory", "`SIZE` of the machine's memory, uml only (default 1500M)", func(s string) (err error) {
		config.Memory, err = units.RAMInBytes(s)
		return err
	})
	flags.StringVar(&config.Hostname, "hostname", "machine", "`NAME` of the machine")
	flags.StringVar(&config.Share, "share", "", "`DIR` of the host to be seen as "+machine.SharePath)
	flags.Func("env", "`NAME=VALUE` in the environment of PID 1 (repeatable)", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=VALUE")
		}
		config.Env[name] = value
		return nil
	})
	flags.Func("kernel-arg", "`WORD` of the kernel command line (repeatable)", func(s string) error {
		config.KernelArgs = append(config.KernelArgs, s)
		return nil
	})
	flags.Func("install", "`DIR`, as made by make install DESTDIR=DIR, to lay over the machine's root (repeatable)", func(s string) error {
		config.Trees = append(config.Trees, s)
		return nil
	})
	flags.Func("early", "`FILE`, a shell script to run in the machine before systemd", func(s string) error {
		script, err := os.ReadFile(s)
		config.Early = string(script)
		return err
	})
	timeout := flags.Duration("timeout", 10*time.Minute, "`TIME` for the boot and the command together")
	flags.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flags.PrintDefaults()
	}
	return flags, config, timeout
}

func makeImage(ctx context.Context, suite machine.Suite) int {
	if suite != machine.Bookworm && suite != machine.Trixie {
		fmt.Fprintf(os.Stderr, "gpuherd-machine: unknown suite %q\n", suite)
		return exitUsage
	}
	dir, err := machine.CacheDir()
	if err == nil {
		_, err = machine.EnsureImage(ctx, dir, suite, nil, os.Stderr)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "gpuherd-machine: %v\n", err)
		return exitFailed
	}
	return 0
}

func runCommand(ctx context.Context, config machine.Config, timeout time.Duration, argv []string) (status int) {
	errTimeout := fmt.Errorf("not ended within %s", timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	m, err := machine.Boot(ctx, config)
	if err == nil {
		defer func() {
			if err := m.Close(); err != nil {
				fmt.Fprintf(os.Stderr, "gpuherd-machine: cannot clean up: %v\n", err)
				status = max(status, exitFailed)
			}
		}()
		status, err = m.Run(ctx, argv, os.Stdout, os.Stderr)
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			m.Report(os.Stderr)
		}
	}
	switch {
	case errors.Is(err, errTimeout):
		fmt.Fprintf(os.Stderr, "gpuherd-machine: %v\n", err)
		return exitTimeout
	case err != nil:
		fmt.Fprintf(os.Stderr, "gpuherd-machine: %v\n", err)
		return exitFailed
	}
	return status
}
