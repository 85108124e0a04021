// Command redis-worker runs jobs from the queue, one at a time: as
// redis-worker@N.service on GPU N, or from a terminal:
//
//	redis-worker --redis redis://127.0.0.1:6379 --queue gpu --exec 'prog arg'
//	redis-worker --redis redis://127.0.0.1:6379 --queue gpu --comfyui http://127.0.0.1:8188
//
// SIGTERM and Ctrl-C let the job finish first; the second kills it and hands
// it back. It exits 0 when told to stop or to be begun anew, 1 where no job can
// be run, 2 on wrong usage, 69 (EX_UNAVAILABLE) where the GPU does not work and
// 78 (EX_CONFIG) on a wrong configuration.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"gpuherd/generator/config"
	"gpuherd/generator/version"
	"gpuherd/units/journal"
	"gpuherd/units/redisclient"
	"gpuherd/units/redisworker"
	"gpuherd/units/subreaper"
)

const (
	exitUsage  = 2
	exitUnfit  = 69
	exitConfig = 78
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "echo" { // the job jobs/echo
		if err := redisworker.Echo(os.Stdin, os.Stdout, os.Getenv); err != nil {
			fmt.Fprintln(os.Stderr, "redis-worker echo:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	var set settings
	flags := flag.NewFlagSet("redis-worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	set.register(flags)
	showVersion := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if *showVersion {
		if _, err := fmt.Fprintln(stdout, version.String()); err != nil {
			return 1
		}
		return 0
	}
	if flags.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "redis-worker: unexpected argument %q\n", flags.Arg(0))
		flags.Usage()
		return exitUsage
	}

	native, err := journal.OpenNative()
	log := journal.NewJobLogger(stderr, native)
	if err != nil {
		log.Warn("jobs' lines have no field JOB_ID=", "error", err)
	}
	redisclient.LogTo(log)
	conf, problems := config.Load(config.Source{Root: "/", Environ: os.Environ()})
	for _, p := range problems {
		log.Warn("configuration", "problem", p.Error())
	}
	opts, err := set.options(conf, output{stderr, native}, log)
	if err != nil {
		log.Error("cannot start", "error", err)
		return exitConfig
	}
	defer func() { _ = opts.client.Close() }()
	opts.Notify = func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Debug("cannot tell systemd", "error", err)
		}
	}
	if opts.Watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("cannot read the watchdog's time", "error", err)
	}
	if err := subreaper.Become(); err != nil {
		log.Error("cannot start", "error", err)
		return 1
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	drain := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		log.Info("stopping after the job that runs", "signal", (<-signals).String())
		close(drain)
		for sig := range signals {
			if sig != syscall.SIGHUP { // comes with SIGTERM when a session ends
				log.Warn("stopping at once", "signal", sig.String())
				cancel()
			}
		}
	}()
	if err := redisworker.New(opts.Options).Run(ctx, drain); err != nil {
		log.Error("cannot go on", "error", err)
		if errors.Is(err, redisworker.ErrUnfit) {
			return exitUnfit
		}
		return 1
	}
	return 0
}
