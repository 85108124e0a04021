package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

const workerKills = 102

// A bareWorker is a redis-worker without systemd, restarted by this program,
// and the one job that it never finishes.
type bareWorker struct {
	program, socket, job string

	cmd  *exec.Cmd
	told *bufio.Reader // a line of the job's ID from each attempt that begins
}

// benchWorker measures from the SIGKILL of a worker to its job running again,
// and what the worker holds while it does.
func benchWorker(ctx context.Context, r *result, tree string) error {
	return withRedis(ctx, func(socket string) (err error) {
		dir := filepath.Dir(socket)
		w := bareWorker{program: filepath.Join(tree, "usr/lib/gpuherd/redis-worker"), socket: socket, job: filepath.Join(dir, "job")}
		pipe := filepath.Join(dir, "told")
		script := fmt.Sprintf("#!/bin/sh\necho \"$JOB_ID\" >%s\nexec sleep infinity\n", pipe)
		if err := os.WriteFile(w.job, []byte(script), 0o755); err != nil {
			return err
		}
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			return err
		}
		told, err := os.OpenFile(pipe, os.O_RDWR, 0) // for writing too, so that no end is read
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, told.Close()) }()
		w.told = bufio.NewReader(told)

		client, q, err := openQueue(socket, 1)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, client.Close()) }()
		if err := client.XAdd(ctx, &redis.XAddArgs{Stream: q.Key("jobs"), Values: []any{"id", "endless", "max_attempts", 1000}}).Err(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.kill()) }()
		if err := w.begin(ctx, told); err != nil {
			return err
		}
		var times []time.Duration
		for n := range workerKills {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			begin := time.Now()
			if err := w.kill(); err != nil {
				return err
			}
			if err := w.begin(ctx, told); err != nil {
				return err
			}
			if took := time.Since(begin); n >= 2 { // the first only warm the caches
				times = append(times, took)
			}
		}
		m, err := readMemory(w.cmd.Process.Pid)
		if err != nil {
			return err
		}
		note := fmt.Sprintf("%d kills, started anew at once", len(times))
		r.add(figure{Name: "redis-worker: SIGKILL → the job runs again p50", Value: ms(percentile(times, 50)), Unit: "ms", Goal: 50, Note: note})
		r.add(figure{Name: "redis-worker: SIGKILL → the job runs again p99", Value: ms(percentile(times, 99)), Unit: "ms", Note: note})
		r.add(figure{Name: "redis-worker: RSS", Value: m.Rss, Unit: "MB", Goal: 20, Note: fmt.Sprintf("Pss %.1f MB, with a job", m.Pss)})
		return nil
	})
}

// begin starts the worker and waits until its job runs.
func (w *bareWorker) begin(ctx context.Context, told *os.File) error {
	w.cmd = exec.CommandContext(ctx, w.program, "--redis", "unix://"+w.socket, "--queue", "bench", "--consumer", "bench", "--exec", w.job)
	var log strings.Builder
	w.cmd.Stderr = &log
	if err := w.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start redis-worker: %w", err)
	}
	if err := told.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return err
	}
	line, err := w.told.ReadString('\n')
	if err == nil && line != "endless\n" {
		err = fmt.Errorf("job %q runs", line)
	}
	if err != nil {
		err = fmt.Errorf("the job does not run: %w", err)
		return errors.Join(err, w.kill(), errors.New(log.String()))
	}
	return nil
}

// kill ends the worker by SIGKILL, as a crash does.
func (w *bareWorker) kill() error {
	if w.cmd == nil || w.cmd.ProcessState != nil {
		return nil
	}
	err := w.cmd.Process.Kill()
	_ = w.cmd.Wait() // "signal: killed" is what was asked for
	return err
}
