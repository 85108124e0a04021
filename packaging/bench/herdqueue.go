package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"gpuherd/generator/config"
	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
	"gpuherd/units/redisworker"
)

// herdQueue is gpuherd's queue, with a consumer for each worker in this process.
type herdQueue struct {
	together int // how many jobs a worker claims in one round trip, at most
}

// ours claims as many as redis-worker does of jobs that take no time.
var ours = herdQueue{redisworker.MostTogether}

func (h herdQueue) name() string {
	if h.together == 1 {
		return "gpuherd, a job in a round trip"
	}
	return "gpuherd"
}

// A claimed is a job that a consumer has.
type claimed struct {
	id string
	at time.Time
}

// work claims and finishes jobs until ctx is done. A consumer that waits has then
// what is left of its wait.
func (h herdQueue) work(ctx context.Context, q *queue.Queue, workers int, have func(claimed)) *errgroup.Group {
	group, ctx := errgroup.WithContext(ctx)
	for i := range workers {
		consumer := q.Consumer("bench-" + strconv.Itoa(i))
		group.Go(func() error {
			for ctx.Err() == nil {
				c, err := consumer.Claim(context.WithoutCancel(ctx))
				if err != nil {
					return err
				}
				for next := []*queue.Claim{c}; c != nil && len(next) > 0; {
					var done []queue.Done
					for _, c := range next {
						have(claimed{c.ID, time.Now()})
						done = append(done, queue.Done{Claim: c})
					}
					if next, _, err = consumer.FinishAll(context.WithoutCancel(ctx), done, h.together); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return group
}

func openQueue(socket string, workers int) (redis.UniversalClient, *queue.Queue, error) {
	client, err := redisclient.Open(config.Redis{URL: "unix://" + socket}, "", redisclient.WithPoolSize(workers+2))
	if err != nil {
		return nil, nil, err
	}
	q, err := queue.New(client, "gpuherd", "bench", queue.Options{})
	return client, q, err
}

// enqueue puts jobs in as any producer does.
func enqueue(ctx context.Context, client redis.Cmdable, q *queue.Queue, ids ...string) error {
	pipe := client.Pipeline()
	for _, id := range ids {
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: q.Key("jobs"), Values: []any{"id", id, "payload", "{}"}})
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (h herdQueue) pickup(ctx context.Context, socket string, workers, jobs int, most time.Duration) (times []time.Duration, err error) {
	client, q, err := openQueue(socket, workers)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	had := make(chan claimed, 1)
	group := h.work(ctx, q, workers, func(c claimed) { had <- c })
	failed := make(chan error, 1)
	go func() { failed <- group.Wait() }()
	if err := idle(ctx, client, workers); err != nil {
		return nil, err
	}
	for i := range jobs {
		time.Sleep(most/4 + rand.N(most*3/4))
		id := "job-" + strconv.Itoa(i)
		begin := time.Now()
		if err := enqueue(ctx, client, q, id); err != nil {
			return nil, err
		}
		select {
		case c := <-had:
			if c.id != id {
				return nil, fmt.Errorf("%s came instead of %s", c.id, id)
			}
			times = append(times, c.at.Sub(begin))
		case err := <-failed:
			return nil, errors.Join(errors.New("a worker gave up"), err)
		}
	}
	cancel()
	return times, <-failed
}

// idle waits until all workers wait for a job.
func idle(ctx context.Context, client redis.UniversalClient, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		info, err := client.InfoMap(ctx, "clients").Result()
		if err != nil {
			return fmt.Errorf("the workers do not become idle: %w", err)
		}
		// A few are always about to ask again.
		if n, _ := strconv.Atoi(info["Clients"]["blocked_clients"]); n >= workers*9/10 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (h herdQueue) drain(ctx context.Context, socket string, workers, jobs int) (took time.Duration, err error) {
	client, q, err := openQueue(socket, workers)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	const batch = 1000
	for i := 0; i < jobs; i += batch {
		ids := make([]string, 0, batch)
		for n := i; n < min(i+batch, jobs); n++ {
			ids = append(ids, "job-"+strconv.Itoa(n))
		}
		if err := enqueue(ctx, client, q, ids...); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done atomic.Int64
	begin := time.Now()
	group := h.work(ctx, q, workers, func(claimed) {
		if done.Add(1) == int64(jobs) {
			took = time.Since(begin)
			cancel()
		}
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return took, nil
}
