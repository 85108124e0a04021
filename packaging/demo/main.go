// Command demo boots a disposable machine with two simulated GPUs and shows
// gpuherd at work in it: jobs, a crash, and what everybody is told of it. It
// checks each thing that it shows, and ends with 0 only if all of it happened.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"gpuherd/packaging/machine"
)

func main() {
	tree := flag.String("tree", "bin/tree", "`folder` with gpuherd as `make tree` lays it down")
	suite := flag.String("suite", string(machine.Trixie), "Debian `release` of the machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *tree, machine.Suite(*suite))
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// run boots the machine, plays the demonstration in it, and ends it.
func run(ctx context.Context, tree string, suite machine.Suite) (err error) {
	if _, err := os.Stat(filepath.Join(tree, "usr/bin/gpuherd")); err != nil {
		return fmt.Errorf("cannot find gpuherd (run make tree): %w", err)
	}
	begin := time.Now()
	// Nothing that hangs keeps a user waiting for ever.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	extra, err := os.MkdirTemp("", "gpuherd-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(extra)) }()
	if err := layTree(extra); err != nil {
		return fmt.Errorf("cannot lay out the machine: %w", err)
	}
	fmt.Println("Booting a disposable machine: a Linux kernel of its own, systemd, Redis and two simulated GPUs …")
	m, err := machine.Boot(ctx, machine.Config{
		Suite: suite, Hostname: "gpubox", Trees: []string{tree, extra}, Log: os.Stderr,
		Env: map[string]string{"NUM_GPUS": "2"}, KernelArgs: []string{"gpuherd.simulate=yes"},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	d := &demo{m: m}
	if err := d.play(ctx); err != nil {
		m.Report(os.Stderr)
		return err
	}
	fmt.Printf("\nAll of it happened, in %.0f s, of which the boot took %.0f. The machine is gone.\n",
		time.Since(begin).Seconds(), m.BootTime.Seconds())
	return nil
}

// layTree lays out what the machine has beside gpuherd itself.
func layTree(dir string) error {
	conf := filepath.Join(dir, "etc/gpuherd/gpuherd.conf")
	long := filepath.Join(dir, longJobs)
	wants := filepath.Join(dir, "etc/systemd/system/multi-user.target.wants")
	err := os.Chmod(dir, 0o755)
	for _, folder := range []string{filepath.Dir(conf), filepath.Dir(long), wants} {
		err = errors.Join(err, os.MkdirAll(folder, 0o755))
	}
	if err != nil {
		return err
	}
	text := "[Worker]\nExec=/bin/sh -c \"while [ -e " + longJobs + " ]; do sleep 0.3; done; exec /usr/lib/gpuherd/jobs/echo\"\n"
	// The link is what `systemctl enable gpuherd.target` makes.
	return errors.Join(os.WriteFile(conf, []byte(text), 0o644), os.WriteFile(long, nil, 0o644),
		os.Symlink("/usr/lib/systemd/system/gpuherd.target", filepath.Join(wants, "gpuherd.target")))
}
