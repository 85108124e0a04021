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
	other change = iota
	crashed
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

// crashTimes are the times from SIGKILL to the arrival of a message.
type crashTimes struct{ crash, restart []time.Duration }

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
			crash, restart, err := timeCrash(ctx, subscription, p, n%workers)
			if err != nil {
				return nil, fmt.Errorf("%s, kill %d: %w", p.name(), n+1, err)
			}
			if n >= 2 { // the first kills only warm the caches
				times[i].crash, times[i].restart = append(times[i].crash, crash), append(times[i].restart, restart)
			}
		}
	}
	return times, nil
}

// timeCrash kills one worker and waits until both messages are there.
func timeCrash(ctx context.Context, subscription *redis.PubSub, p supervisor, worker int) (crash, restart time.Duration, err error) {
	if err := drain(ctx, subscription); err != nil {
		return 0, 0, err
	}
	pid, err := p.victim(worker)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find worker %d: %w", worker, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	begin := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, 0, fmt.Errorf("cannot kill worker %d: %w", worker, err)
	}
	for crash == 0 || restart == 0 {
		message, err := subscription.ReceiveMessage(ctx)
		if err != nil {
			return 0, 0, fmt.Errorf("no message of worker %d (crash after %v, restart after %v): %w", worker, crash, restart, err)
		}
		took := time.Since(begin)
		if message.Channel != p.channel() {
			continue
		}
		about, what, err := p.told(message.Payload)
		if err != nil {
			return 0, 0, err
		}
		switch {
		case about != worker:
		case what == crashed && crash == 0:
			crash = took
		case what == running && crash != 0 && restart == 0:
			restart = took
		}
	}
	return crash, restart, nil
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
