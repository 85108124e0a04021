package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// workers is how many workers each supervisor holds while one is killed.
const workers = 64

// A change is what a message tells of a worker.
type change int

const (
	other  change = iota
	ended         // its process has
	failed        // and so it has failed, with the exit code
	running
)

// A supervisor restarts workers and tells it on a Redis channel.
type supervisor interface {
	name() string
	channel() string
	// victim returns the process id of worker i, as this process sees it.
	victim(i int) (int, error)
	// told reads one message.
	told(payload string) (worker int, what change, err error)
}

// crashTimes are the times from SIGKILL to the arrival of a message: the first
// that tells the end of the process, the one that tells the failure (of whoever
// tells both), and the one that tells the next run.
type crashTimes struct{ crash, failure, restart []time.Duration }

// timeCrashes kills workers of each supervisor in turn, in the same run on the
// same machine, and times the messages at one subscriber.
func timeCrashes(ctx context.Context, db *redis.Client, kills int, peers ...supervisor) ([]crashTimes, error) {
	times := make([]crashTimes, len(peers))
	var channels []string
	for _, p := range peers {
		channels = append(channels, p.channel())
	}
	subscription := db.Subscribe(ctx, channels...)
	defer func() { _ = subscription.Close() }()
	for range channels {
		if _, err := subscription.Receive(ctx); err != nil { // its confirmation
			return nil, fmt.Errorf("cannot subscribe: %w", err)
		}
	}
	for n := range kills {
		for i, p := range peers {
			t, err := timeCrash(ctx, subscription, p, n%workers)
			if err != nil {
				return nil, fmt.Errorf("%s, kill %d: %w", p.name(), n+1, err)
			}
			if n >= 2 { // the first kills only warm the caches
				times[i].crash, times[i].restart = append(times[i].crash, t.crash), append(times[i].restart, t.restart)
				if t.failure != 0 {
					times[i].failure = append(times[i].failure, t.failure)
				}
			}
		}
	}
	return times, nil
}

// A crash is what one kill took.
type crash struct{ crash, failure, restart time.Duration }

// timeCrash kills one worker and waits until it is told to run again.
func timeCrash(ctx context.Context, subscription *redis.PubSub, p supervisor, worker int) (t crash, err error) {
	if err := drain(ctx, subscription); err != nil {
		return t, err
	}
	pid, err := p.victim(worker)
	if err != nil {
		return t, fmt.Errorf("cannot find worker %d: %w", worker, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	begin := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return t, fmt.Errorf("cannot kill worker %d: %w", worker, err)
	}
	for t.restart == 0 {
		message, err := subscription.ReceiveMessage(ctx)
		if err != nil {
			return t, fmt.Errorf("no message that worker %d runs (its end was told after %v): %w", worker, t.crash, err)
		}
		took := time.Since(begin)
		if message.Channel != p.channel() {
			continue
		}
		about, what, err := p.told(message.Payload)
		if err != nil {
			return t, err
		}
		if about != worker {
			continue
		}
		if (what == ended || what == failed) && t.crash == 0 {
			t.crash = took
		}
		if what == failed {
			t.failure = took
		}
		if what == running && t.crash != 0 {
			t.restart = took
		}
	}
	return t, nil
}

// drain reads what is left of earlier kills, until it has been quiet for long
// enough that the machine is idle again.
func drain(ctx context.Context, subscription *redis.PubSub) error {
	for {
		m, err := subscription.ReceiveTimeout(ctx, 30*time.Millisecond)
		if m == nil && isTimeout(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
