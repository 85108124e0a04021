// Command gpuherd-monitor follows the herd over D-Bus and its GPUs through NVML,
// and tells Redis and HTTP what happens. It changes nothing on the machine: where
// the GPUs have changed, it asks gpuherd-rescan.service to look.
//
// It runs as gpuherd-monitor.service: Type=notify, with a watchdog, and with
// the folder of its epoch in $STATE_DIRECTORY. It exits 0 when told to stop, 1
// when a part of it failed or another monitor has the lock in that folder, 2 on wrong usage and 78 (EX_CONFIG) where it cannot
// be started as it is configured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sync/errgroup"

	"gpuherd/generator/config"
	"gpuherd/generator/version"
	"gpuherd/monitor/relay"
	"gpuherd/units/journal"
	"gpuherd/units/redisclient"
)

const (
	exitFailure = 1
	exitUsage   = 2
	exitConfig  = 78
)

// self is the monitor's own unit, which is of the herd, too.
const self = "gpuherd-monitor.service"

// defaultState is where the epoch is kept where systemd names no folder.
const defaultState = "/var/lib/gpuherd"

// A task is one part of the monitor. Run returns nil when ctx ends; an error
// ends the monitor, and systemd starts it again.
type task interface {
	Run(ctx context.Context) error
	String() string
}

func main() {
	// A few goroutines that mostly wait: more threads, or garbage kept for
	// longer, would only take memory that belongs to the workers.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("gpuherd-monitor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	showVersion := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if *showVersion {
		if _, err := fmt.Fprintln(stdout, version.String()); err != nil {
			return exitFailure
		}
		return 0
	}
	if flags.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "gpuherd-monitor: unexpected argument %q\n", flags.Arg(0))
		return exitUsage
	}

	log := journal.NewLogger(stderr)
	redisclient.LogTo(log)
	conf, problems := config.Load(config.Source{Root: "/", Environ: os.Environ()})
	for _, p := range problems {
		log.Warn("configuration", "problem", p.Error())
	}
	stateDir := os.Getenv("STATE_DIRECTORY")
	if stateDir == "" {
		stateDir = defaultState
	}
	m, err := wire(conf, stateDir, log)
	if err != nil {
		log.Error("cannot start", "error", err)
		if errors.Is(err, relay.ErrLocked) {
			return exitFailure // the other one may end: it is worth trying again
		}
		return exitConfig
	}
	defer m.close()
	tasks, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() {
		linger(ctx, m.units, self)
		stop()
	}()
	if err := supervise(tasks, m.tasks, log); err != nil {
		log.Error("failed", "error", err)
		return exitFailure
	}
	return 0
}

// supervise runs all tasks until ctx ends or one of them fails.
func supervise(ctx context.Context, tasks []task, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			log.Debug("ended", "task", t.String())
			return nil
		})
	}
	return group.Wait()
}
