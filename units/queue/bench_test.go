package queue_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gpuherd/units/queue"
)

// durable is what a production server has: tests wait for the disk each time.
var durable = []string{"--appendfsync", "everysec"}

// BenchmarkClaimFinish is a worker with a backlog and jobs that take no time.
func BenchmarkClaimFinish(b *testing.B) {
	f := setup(b, queue.Options{}, durable...)
	pipe := f.redis.Pipeline()
	for i := range b.N {
		pipe.Do(f.ctx, "XADD", f.Key("jobs"), "*", "id", fmt.Sprint("job-", i), "payload", "{}")
		if i%1000 == 999 || i == b.N-1 {
			if _, err := pipe.Exec(f.ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	w := f.Consumer("a")
	b.ResetTimer()
	for range b.N {
		if err := f.claim(w).Finish(f.ctx, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkPickup is from XADD to the claim by an idle worker.
func BenchmarkPickup(b *testing.B) {
	f := setup(b, queue.Options{}, durable...)
	w := f.Consumer("a")
	claimed := make(chan time.Time)
	go func() {
		defer close(claimed)
		for range b.N {
			c := f.claim(w)
			claimed <- time.Now()
			if err := c.Finish(f.ctx, nil); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for i := range b.N {
		f.blocked(1)
		start := time.Now()
		f.add("id", fmt.Sprint("job-", i), "payload", "{}")
		at, ok := <-claimed
		if !ok {
			b.Fatal("the worker gave up")
		}
		took = append(took, at.Sub(start))
	}
	b.StopTimer()
	if _, ok := <-claimed; ok {
		b.Fatal("one job too many")
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(0, "ns/op") // includes the wait for the worker to be idle
}
