// Command gpuherd-generator is the systemd generator (systemd.generator(7))
// that makes the units of the herd, at boot and on every daemon-reload.
//
// It exits 0 where everything was made or nothing was to be made, 1 where
// something was wrong (what was right is made all the same), 2 on wrong usage.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/version"
)

const usage = `usage: gpuherd-generator [--root DIR] [--dry-run] NORMAL-DIR [EARLY-DIR LATE-DIR]

systemd runs this; by hand, --dry-run shows what it would write.
`

// What the run is about, for the timer that ends it.
const (
	computing = iota
	writing
	late
)

func main() {
	// The whole run allocates a few megabytes: collecting them is wasted time.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(64 << 20)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("gpuherd-generator", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		_, _ = fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	var (
		root     = flags.String("root", "/", "read `DIR`/{etc,run,usr,proc,sys} instead of /")
		dryRun   = flags.Bool("dry-run", false, "print the units instead of writing them")
		deadline = flags.Duration("deadline", 2*time.Second, "give up after this `time`, writing nothing: boot waits for generators")
		showVer  = flags.Bool("version", false, "print the version")
	)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	dirs := flags.Args()
	switch {
	case *showVer:
		if _, err := fmt.Fprintln(stdout, version.String()); err != nil {
			return 1
		}
		return 0
	case os.Getenv("SYSTEMD_IN_INITRD") == "1":
		return 0 // the units belong to the machine, not to what boots it
	case len(dirs) != 1 && len(dirs) != 3 && (len(dirs) != 0 || !*dryRun):
		flags.Usage()
		return 2
	}

	bySystemd := os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid())
	log := newLogger(stderr, bySystemd)
	// The clock is looked at between steps; the timer is for a step that hangs.
	begin := time.Now()
	expired := func() bool { return time.Since(begin) >= *deadline }
	var stage atomic.Int32
	gaveUp := func() { log.error("gave up after %v: nothing is generated", *deadline) }
	giveUp := func() {
		if stage.CompareAndSwap(computing, late) {
			gaveUp()
			os.Exit(1)
		}
	}
	timer := time.AfterFunc(*deadline, giveUp)
	defer timer.Stop()

	if info, err := os.Stat(*root); err != nil || !info.IsDir() {
		log.error("--root: %s is no folder", *root)
		return 2
	}
	opts, err := options(*root, bySystemd)
	if err != nil {
		log.warning("%v", err)
	}
	result := generator.Compute(opts)
	log.problems(result.Problems)
	failed := result.Problems.Failed()
	if why := result.Quiet(); why != "" {
		log.info("%s", why)
	}

	if expired() {
		giveUp()
	}
	if !stage.CompareAndSwap(computing, writing) {
		select {} // the timer has its say, and ends the process
	}
	if *dryRun {
		err = show(stdout, result)
	} else {
		err = result.WriteUntil(dirs[0], expired)
	}
	switch {
	case errors.Is(err, generator.ErrDeadline):
		gaveUp()
		return 1
	case err != nil:
		log.error("%v", err)
		return 1
	case failed:
		return 1
	}
	return 0
}

// options says for which machine to generate. systemd hands PID 1's
// environment to its generators; by hand it is read from where PID 1 has it,
// so that the units come out the same.
func options(root string, bySystemd bool) (generator.Options, error) {
	if bySystemd && root == "/" {
		return generator.Options{Root: root, Environ: os.Environ()}, nil
	}
	src, err := config.HostSource(root)
	return generator.Options{Root: src.Root, Environ: src.Environ}, err
}
