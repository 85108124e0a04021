package relay

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

const benchUnits = 256

// benched is a monitor of benchUnits running units that has told Redis of all.
type benched struct {
	srv   *redistest.Server
	herd  *state.Herd
	relay *Relay
	units []state.Observation
}

// bench starts one beside a Redis as it comes: the disk is not what is
// measured.
func bench(b *testing.B) *benched {
	b.Helper()
	m := &benched{srv: redistest.Start(b, "--appendonly", "no")}
	m.relay = New(m.srv.Client(b), slog.New(slog.DiscardHandler), Config{
		Prefix: "gpuherd", Host: "box", BootID: bootA, Epoch: 1,
		Alive: func() bool { return true }, Uptime: func() time.Duration { return 0 },
	})
	m.herd = state.NewHerd(m.relay.Push, time.Now)
	m.relay.From(m.herd)
	for i := range benchUnits {
		m.units = append(m.units, state.Observation{Name: fmt.Sprintf("w@%d.service", i), Active: "active", Sub: "running", Result: "success",
			InvocationID: fmt.Sprintf("%032d", i), StatusText: "job horse, attempt 1 of 3: 40%", MainPID: 1, ChangedMonoUS: 1})
	}
	m.herd.Sync(m.units, "connected")
	done := make(chan error, 1)
	go func() { done <- m.relay.Run(b.Context()) }()
	b.Cleanup(func() { <-done })
	m.written(b)
	return m
}

// change lets the next unit fail, or run again.
func (m *benched) change(n int) {
	o := &m.units[n%benchUnits]
	o.ChangedMonoUS++
	if o.Active == "active" {
		o.Active, o.Sub, o.MainPID = "failed", "failed", 0
	} else {
		o.Active, o.Sub, o.MainPID = "active", "running", 1
	}
	m.herd.Observe(*o)
}

// written waits until Redis has confirmed all events there are.
func (m *benched) written(b *testing.B) {
	b.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Microsecond) {
		s := m.relay.Stats()
		if s.Connected && s.Pending == 0 && s.Written+s.Dropped >= m.herd.Seq() && m.herd.Seq() > 1 {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("it is not written: %+v", s)
		}
	}
}

// BenchmarkChangeToSubscriber takes the time from a change of a unit, as the
// bus hands it on, to the message on the channel.
func BenchmarkChangeToSubscriber(b *testing.B) {
	m := bench(b)
	ctx := b.Context()
	sub := m.srv.Client(b).Subscribe(ctx, "gpuherd:{box}:notify")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		began := time.Now()
		m.change(n)
		if _, err := sub.ReceiveMessage(ctx); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkChanges lets units change as fast as Redis takes it.
func BenchmarkChanges(b *testing.B) {
	m := bench(b)
	before := m.relay.Stats()
	n := 0
	for b.Loop() {
		m.change(n)
		n++
		if n%batchEvents == 0 {
			for m.relay.Stats().Pending > Capacity/2 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
	m.written(b)
	s := m.relay.Stats()
	if s.Dropped > 0 {
		b.Fatalf("events were dropped: %+v", s)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(n)/float64(s.Batches-before.Batches), "events/batch")
}

// BenchmarkSnapshot writes the whole herd anew.
func BenchmarkSnapshot(b *testing.B) {
	m := bench(b)
	for b.Loop() {
		m.herd.Snapshot("test")
		m.written(b)
	}
}
