// Command bench measures gpuherd against systemd's own tools, PM2, asynq and
// BullMQ, side by side in one run, and writes a table and a JSON file:
//
//   - the generator for 8 GPUs and for 16 with MIG, next to
//     systemd-fstab-generator;
//   - what gpuherd adds to the boot of a machine without GPUs and with 8, next to
//     the same machine without gpuherd;
//   - the monitor's memory with 64 workers, next to PM2's daemon and relay;
//   - the monitor's memory and CPU with 256 units, at rest and while systemd
//     makes as many transitions as it can, next to systemd itself;
//   - from the SIGKILL of one of 64 workers to the message at a Redis
//     subscriber, next to PM2 with the relay that its users write;
//   - from the enqueuing of a job to an idle worker that has it, and how long
//     workers take for a backlog, next to asynq and BullMQ;
//   - from the SIGKILL of a redis-worker to its job running again, and its
//     memory;
//   - how long `gpuherd list` and `gpuherd restart` take with 64 workers, next
//     to systemctl and pm2.
//
// It needs root, and installs PM2 and BullMQ (and node, where there is none)
// into the user's cache folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

func main() {
	tree := flag.String("tree", "bin/tree", "`folder` with gpuherd as `make tree` lays it down")
	out := flag.String("out", "dist/bench", "`folder` for the JSON file")
	runs := flag.Int("runs", 500, "how often each generator runs")
	kills := flag.Int("kills", 258, "how many workers of each supervisor are killed")
	only := flag.String("only", "", "measure one `part` alone: "+strings.Join(parts, ", "))
	flag.Parse()
	if flag.NArg() > 0 || (*only != "" && !slices.Contains(parts, *only)) {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, *only, *tree, *out, *runs, *kills)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// The parts of -only.
const (
	partGenerator = "generator"
	partBoot      = "boot"
	partMonitor   = "monitor"
	partCrashes   = "crashes"
	partQueue     = "queue"
	partHands     = "hands"
)

var parts = []string{partGenerator, partBoot, partMonitor, partCrashes, partQueue, partHands}

// bench measures everything, or one part of it, and reports.
func bench(ctx context.Context, only, tree, out string, runs, kills int) error {
	r := newResult()
	for _, part := range parts {
		if only != "" && only != part {
			continue
		}
		var err error
		switch part {
		case partGenerator:
			for _, s := range shapes {
				err = errors.Join(err, benchGenerator(r, tree, s, runs))
			}
		case partBoot:
			for _, s := range bootShapes {
				err = errors.Join(err, benchBoot(ctx, r, tree, s))
			}
		case partMonitor:
			err = benchMonitor(ctx, r, tree)
		case partCrashes:
			err = besidePM2(ctx, tree, func(db *redis.Client, ours *herd, theirs *pm2) error {
				return benchCrashes(ctx, r, db, ours, theirs, kills)
			})
		case partQueue:
			err = benchQueue(ctx, r, tree)
		case partHands:
			err = besidePM2(ctx, tree, func(_ *redis.Client, ours *herd, theirs *pm2) error {
				return benchHands(ctx, r, ours, theirs)
			})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	path, err := r.save(out)
	if err != nil {
		return err
	}
	if err := r.table(os.Stdout); err != nil {
		return err
	}
	fmt.Println("written to " + path)
	return nil
}

func benchGenerator(r *result, tree string, s shape, runs int) error {
	ours, theirs, err := timeGenerators(tree, s, runs)
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%d runs in turn", len(ours))
	r.addTimes("gpuherd-generator, "+s.name, times(ours), note)
	r.addTimes("systemd-fstab-generator", times(theirs), note)
	r.add(figure{Name: "generator, " + s.name + ": ratio of wall times", Value: medianRatio(times(ours), times(theirs)), Goal: s.goal, Note: "median of the pairs"})
	r.add(figure{Name: "generator, " + s.name + ": peak RSS", Value: peak(ours), Unit: "MB", Goal: peakGoal, Note: "highest of the runs, or what the benchmark itself held"})
	return nil
}

func times(runs []generatorRun) []time.Duration {
	list := make([]time.Duration, len(runs))
	for i, run := range runs {
		list[i] = run.took
	}
	return list
}

func peak(runs []generatorRun) float64 {
	highest := 0.0
	for _, run := range runs {
		highest = max(highest, run.peak)
	}
	return highest
}

// besidePM2 starts a herd and a PM2 with as many workers and the same Redis, has
// f measure them, and stops them.
func besidePM2(ctx context.Context, tree string, f func(*redis.Client, *herd, *pm2) error) (err error) {
	modules, err := installPM2(ctx)
	if err != nil {
		return err
	}
	db, share, stopRedis, err := startRedis(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopRedis()) }()
	ours, err := startHerd(ctx, tree, share, db, workers, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	theirs, err := startPM2(ctx, modules, filepath.Join(share, redisSocket), workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.stop()) }()
	return f(db, ours, theirs)
}

func benchCrashes(ctx context.Context, r *result, db *redis.Client, ours *herd, theirs *pm2, kills int) error {
	times, err := timeCrashes(ctx, db, kills, ours, theirs)
	if err != nil {
		return err
	}
	for i, s := range []supervisor{ours, theirs} {
		note := fmt.Sprintf("%d kills in turn, %d workers", len(times[i].crash), workers)
		r.addTimes(s.name()+": SIGKILL → crash told", times[i].crash, note)
		if len(times[i].failure) > 0 {
			r.addTimes(s.name()+": SIGKILL → failure told", times[i].failure, "as systemd told it, with the exit code")
		}
		r.addTimes(s.name()+": SIGKILL → running told", times[i].restart, note)
	}
	for _, p := range []int{50, 99} {
		ratio := func(ours, theirs []time.Duration) float64 {
			return float64(percentile(ours, p)) / float64(percentile(theirs, p))
		}
		r.add(figure{Name: fmt.Sprintf("SIGKILL → crash told: ratio to PM2, p%d", p), Value: ratio(times[0].crash, times[1].crash), Goal: 1})
		r.add(figure{Name: fmt.Sprintf("SIGKILL → failure told: ratio to PM2's crash, p%d", p), Value: ratio(times[0].failure, times[1].crash)})
		r.add(figure{Name: fmt.Sprintf("SIGKILL → running told: ratio to PM2, p%d", p), Value: ratio(times[0].restart, times[1].restart), Goal: 1})
	}
	return addMemory(ctx, r, ours, theirs)
}

// addMemory measures what the supervisors hold after all that, once their
// garbage collectors had a moment.
func addMemory(ctx context.Context, r *result, ours *herd, theirs *pm2) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
	}
	monitor, errMonitor := ours.monitor()
	daemon, relay, errPM2 := theirs.pids()
	if err := errors.Join(errMonitor, errPM2); err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		pid  int
		goal float64
	}{{"gpuherd-monitor: RSS", monitor, 25}, {"PM2 daemon: RSS", daemon, 0}, {"PM2 relay: RSS", relay, 0}} {
		m, err := readMemory(p.pid)
		if err != nil {
			return err
		}
		r.add(figure{Name: p.name, Value: m.Rss, Unit: "MB", Goal: p.goal, Note: fmt.Sprintf("Pss %.1f MB, %d workers", m.Pss, workers)})
	}
	return nil
}
