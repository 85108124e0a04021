package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// What the queues are measured with.
const (
	consumers     = 8
	manyConsumers = 1000
	backlog       = 100_000 // jobs that take no time
)

// Versions of the peers, so that a run can be repeated. That of asynq is in
// peers/go.mod.
const (
	asynqVersion  = "0.26.0"
	bullmqVersion = "6.7.0"
)

//go:embed bullmq.js
var bullmqProgram []byte

// A jobQueue is a job queue on the Redis at a unix socket, with workers.
type jobQueue interface {
	name() string
	// pickup puts in jobs, one at a time and after a pause of up to most, and
	// returns the times until a worker had them.
	pickup(ctx context.Context, socket string, workers, jobs int, most time.Duration) ([]time.Duration, error)
	// drain puts in jobs and returns how long the workers take for them.
	drain(ctx context.Context, socket string, workers, jobs int) (time.Duration, error)
}

// A peer is another queue: a program that prints times in ns as JSON.
type peer struct {
	title string
	argv  []string
	dir   string
}

func (p *peer) name() string { return p.title }

func (p *peer) run(ctx context.Context, args ...any) ([]time.Duration, error) {
	argv := append([]string(nil), p.argv...)
	for _, a := range args {
		argv = append(argv, fmt.Sprint(a))
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.title, err)
	}
	var times []time.Duration
	if err := json.Unmarshal(out.Bytes(), &times); err != nil || len(times) == 0 {
		return nil, fmt.Errorf("%s says %.200q (%w)", p.title, out.String(), err)
	}
	return times, nil
}

func (p *peer) pickup(ctx context.Context, socket string, workers, jobs int, most time.Duration) ([]time.Duration, error) {
	return p.run(ctx, "pickup", socket, workers, jobs, most.Milliseconds())
}

func (p *peer) drain(ctx context.Context, socket string, workers, jobs int) (time.Duration, error) {
	times, err := p.run(ctx, "drain", socket, workers, jobs, 0)
	if err != nil {
		return 0, err
	}
	return times[0], nil
}

// asynq is built from its own module by `make bench`, beside this program.
func asynq() (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(filepath.Dir(self), "bench-asynq")
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("asynq is not built, `make bench` does that: %w", err)
	}
	return &peer{title: "asynq " + asynqVersion, argv: []string{program}}, nil
}

func bullmq(ctx context.Context) (*peer, error) {
	dir, err := installModules(ctx, map[string]string{"bullmq": bullmqVersion, "ioredis": ioredisVersion}, "bullmq.js", bullmqProgram)
	if err != nil {
		return nil, err
	}
	return &peer{title: "BullMQ " + bullmqVersion, argv: []string{"node", "bullmq.js"}, dir: dir}, nil
}

// benchQueue measures the queues, each on a Redis of its own, and the worker.
func benchQueue(ctx context.Context, r *result, tree string) error {
	first, err := asynq()
	if err != nil {
		return err
	}
	second, err := bullmq(ctx)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		queue   jobQueue
		workers int
		jobs    int
		most    time.Duration // asynq looks once a second: its jobs have to come at any time of it
		p50     float64
		p99     float64
	}{
		{ours, consumers, 1000, 20 * time.Millisecond, 0.5, 0},
		{first, consumers, 60, time.Second, 0, 0},
		{second, consumers, 1000, 20 * time.Millisecond, 0, 0},
		{ours, manyConsumers, 1000, 20 * time.Millisecond, 0, 2},
	} {
		var times []time.Duration
		if err := withRedis(ctx, func(socket string) (err error) {
			times, err = m.queue.pickup(ctx, socket, m.workers, m.jobs, m.most)
			return err
		}); err != nil {
			return fmt.Errorf("pickup: %w", err)
		}
		name := fmt.Sprintf("%s: pickup by one of %d idle workers", m.queue.name(), m.workers)
		note := strconv.Itoa(m.jobs) + " jobs, one at a time"
		r.add(figure{Name: name + " p50", Value: ms(percentile(times, 50)), Unit: "ms", Goal: m.p50, Note: note})
		r.add(figure{Name: name + " p99", Value: ms(percentile(times, 99)), Unit: "ms", Goal: m.p99, Note: note})
	}

	queues := []jobQueue{ours, first, second, herdQueue{1}}
	took := make([][]time.Duration, len(queues))
	for range 3 { // in turn, so that a slow moment of the machine is nobody's own
		for i, q := range queues {
			if err := withRedis(ctx, func(socket string) error {
				d, err := q.drain(ctx, socket, consumers, backlog)
				took[i] = append(took[i], d)
				return err
			}); err != nil {
				return fmt.Errorf("drain: %w", err)
			}
		}
	}
	for i, q := range queues {
		d := percentile(took[i], 50)
		r.add(figure{Name: fmt.Sprintf("%s: drain of %d jobs", q.name(), backlog), Value: ms(d), Unit: "ms",
			Note: fmt.Sprintf("%d workers, %.0f jobs/s, median of %d", consumers, backlog/d.Seconds(), len(took[i]))})
		if i > 0 {
			r.add(figure{Name: "drain: ratio of wall times to " + q.name(), Value: medianRatio(took[0], took[i]), Goal: drainGoal[i], Note: "median of the pairs"})
		}
	}
	return benchWorker(ctx, r, tree)
}

// drainGoal is twice as fast as asynq, and none for the others.
var drainGoal = []float64{0, 0.5, 0, 0}

// withRedis runs do with a Redis of its own.
func withRedis(ctx context.Context, do func(socket string) error) (err error) {
	_, dir, stop, err := startRedis(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return do(filepath.Join(dir, redisSocket))
}
