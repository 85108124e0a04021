// Command peers is asynq, for `make bench` to measure: it prints times in ns as
// JSON. It is a module of its own, so that gpuherd needs nothing that asynq does.
//
//	peers pickup SOCKET WORKERS JOBS PAUSE
//	peers drain SOCKET WORKERS JOBS PAUSE
//
// PAUSE is how many ms may pass before the next job of pickup at most.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: peers pickup|drain SOCKET WORKERS JOBS PAUSE")
		os.Exit(2)
	}
	times, err := measure(os.Args[1], os.Args[2], number(os.Args[3]), number(os.Args[4]), number(os.Args[5]))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(times)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		fmt.Fprintf(os.Stderr, "peers: %q is no number\n", s)
		os.Exit(2)
	}
	return n
}

func measure(what, socket string, workers, jobs, pause int) ([]time.Duration, error) {
	at := asynq.RedisClientOpt{Network: "unix", Addr: socket}
	client := asynq.NewClient(at)
	defer func() { _ = client.Close() }()
	server := asynq.NewServer(at, asynq.Config{Concurrency: workers, LogLevel: asynq.FatalLevel})
	switch what {
	case "pickup":
		return pickup(client, server, jobs, time.Duration(pause)*time.Millisecond)
	case "drain":
		took, err := drain(client, server, workers, jobs)
		return []time.Duration{took}, err
	}
	return nil, fmt.Errorf("there is no %q", what)
}

func pickup(client *asynq.Client, server *asynq.Server, jobs int, pause time.Duration) ([]time.Duration, error) {
	had := make(chan time.Time, 1)
	if err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		had <- time.Now()
		return nil
	})); err != nil {
		return nil, err
	}
	defer server.Shutdown()
	times := make([]time.Duration, 0, jobs)
	for range jobs {
		time.Sleep(pause/4 + rand.N(pause*3/4+1))
		begin := time.Now()
		if _, err := client.Enqueue(asynq.NewTask("job", []byte("{}"))); err != nil {
			return nil, err
		}
		times = append(times, (<-had).Sub(begin))
	}
	return times, nil
}

func drain(client *asynq.Client, server *asynq.Server, workers, jobs int) (time.Duration, error) {
	var group sync.WaitGroup
	errs := make(chan error, workers)
	for i := range workers {
		group.Go(func() {
			for range (jobs + i) / workers {
				if _, err := client.Enqueue(asynq.NewTask("job", []byte("{}"))); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
	}
	var done atomic.Int64
	end := make(chan time.Time, 1)
	begin := time.Now()
	if err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if done.Add(1) == int64(jobs) {
			end <- time.Now()
		}
		return nil
	})); err != nil {
		return 0, err
	}
	defer server.Shutdown()
	return (<-end).Sub(begin), nil
}
