package relay

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// BenchmarkChangeToSubscriber takes the time from a change of a unit, as the
// bus hands it on, to the message on the channel.
func BenchmarkChangeToSubscriber(b *testing.B) {
	srv := redistest.Start(b, "--appendonly", "no")
	r := New(srv.Client(b), slog.New(slog.DiscardHandler), Config{
		Prefix: "gpuherd", Host: "box", BootID: bootA, Epoch: 1,
		Alive: func() bool { return true }, Uptime: func() time.Duration { return 0 },
	})
	herd := state.NewHerd(r.Push, time.Now)
	r.From(herd)
	first := state.Observation{Name: "w@0.service", Active: "active", Sub: "running", InvocationID: "a", ChangedMonoUS: 1}
	herd.Sync([]state.Observation{first}, "connected")
	ctx := b.Context()
	sub := srv.Client(b).Subscribe(ctx, "gpuherd:{box}:notify")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	b.Cleanup(func() { <-done })
	for range 2 { // host and snapshot
		if _, err := sub.ReceiveMessage(ctx); err != nil {
			b.Fatal(err)
		}
	}
	var took []time.Duration
	states := [][2]string{{"failed", "failed"}, {"active", "running"}}
	n := uint64(1)
	for b.Loop() {
		n++
		o := first
		o.Active, o.Sub, o.ChangedMonoUS = states[n%2][0], states[n%2][1], n
		began := time.Now()
		herd.Observe(o)
		if _, err := sub.ReceiveMessage(ctx); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
