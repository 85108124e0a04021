package relay

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// load returns what is kept in dir for bootA.
func load(t *testing.T, dir string) *Position {
	t.Helper()
	p, err := LoadPosition(dir, bootA)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What is kept is what Redis has confirmed, and no more.
func TestPosition(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	var clock atomic.Uint64
	m := newMonitor(t, srv, bootA, 1, func(c *Config) { c.Monotonic = func() uint64 { return clock.Add(1) } })
	k := &Keeper{Relay: m.relay, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if k.Keep(); load(t, k.Dir) != nil {
		t.Fatal("something is kept before Redis knows anything")
	}
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1), m.at("w@1.service", "active", "running", 5)}, "connected")
	m.run()
	m.drained()
	m.crash("w@0.service", 1)
	m.drained()
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 2)}, "reload")
	eventually(t, "the unit is gone", func() bool { return len(units(t, srv.Client(t))) == 1 })
	m.drained()
	var p *Position
	eventually(t, "it is kept", func() bool { k.Keep(); p = load(t, k.Dir); return p != nil && len(p.Units) == 1 })
	want := map[string]state.Seed{"w@0.service": {Restarts: 1, InvocationID: fmt.Sprintf("%032d", 2), Phase: state.Running}}
	if diff := cmp.Diff(want, p.Units); diff != "" || p.MonotonicUS == 0 {
		t.Errorf("kept at %d (-want +got):\n%s", p.MonotonicUS, diff)
	}
	info, err := os.Stat(filepath.Join(k.Dir, positionFile))
	if err != nil || info.Mode() != stateMode {
		t.Errorf("the file is %v, %v", info, err)
	}

	// What waits for Redis is not told.
	srv.Pause()
	m.crash("w@0.service", 2)
	k.Keep()
	if diff := cmp.Diff(p.Units, load(t, k.Dir).Units); diff != "" {
		t.Errorf("kept though Redis does not answer (-before +after):\n%s", diff)
	}
	srv.Resume()
	eventually(t, "it is kept in the end", func() bool { k.Keep(); return load(t, k.Dir).Units["w@0.service"].Restarts == 2 })

	if other, err := LoadPosition(k.Dir, bootB); other != nil || err != nil {
		t.Errorf("another boot takes %+v, %v", other, err)
	}
}

// While the view of the herd is not current, time does not count as told.
func TestPositionNeedsAView(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	m := newMonitor(t, srv, bootA, 1, func(c *Config) { c.Monotonic = func() uint64 { return 7 } })
	m.alive.Store(false)
	k := &Keeper{Relay: m.relay, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	m.run()
	m.drained()
	if k.Keep(); load(t, k.Dir) != nil {
		t.Error("a position is kept though nobody looks")
	}

	// Nor before the herd was pushed, however long that takes.
	n := newMonitor(t, redistest.Start(t), bootA, 1, func(c *Config) { c.Monotonic = func() uint64 { return 7 } })
	n.run()
	eventually(t, "the heart beats", func() bool { return n.relay.Stats().Batches > 1 })
	k.Relay = n.relay
	if k.Keep(); load(t, k.Dir) != nil {
		t.Error("a position is kept before anything is known of the herd")
	}
}

func TestPositionBadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, text := range []string{"", "nonsense", `{"units":[]}`} {
		if err := os.WriteFile(filepath.Join(dir, positionFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := LoadPosition(dir, bootA); p != nil || err == nil || !strings.Contains(err.Error(), positionFile) {
			t.Errorf("%q is taken for %+v, %v", text, p, err)
		}
	}
	// A disk that takes nothing is told of once.
	var log bytes.Buffer
	r := New(nil, slog.New(slog.DiscardHandler), Config{BootID: bootA})
	r.told.monoUS = 1
	k := &Keeper{Relay: r, Dir: filepath.Join(dir, "missing"), Log: slog.New(slog.NewTextHandler(&log, nil))}
	k.Keep()
	k.Keep()
	if n := strings.Count(log.String(), "no such file"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &log)
	}
}

// Who finds a unit in Redis finds all that led there in the stream, also when
// the monitor is killed between two batches.
func TestUnitsAfterTheirEvents(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	m := newMonitor(t, srv, bootA, 1)
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	ctx := t.Context()
	if err := m.relay.claim(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.relay.flush(ctx, false); err != nil {
		t.Fatal(err)
	}
	for i := range batchEvents {
		m.crash("w@0.service", i+1)
	}
	for n := 0; n < 2; n++ {
		if n == 1 && units(t, c)["w@0.service"].Restarts != 0 {
			t.Errorf("the unit is ahead of its events: %+v", units(t, c))
		}
		ops, evs, tells := m.relay.take()
		m.relay.flight = m.relay.assemble(ops)
		m.relay.flight.events, m.relay.flight.tells = evs, tells
		if err := m.relay.send(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := units(t, c)["w@0.service"].Restarts; got != batchEvents {
		t.Errorf("%d restarts, want %d", got, batchEvents)
	}
	inOrder(t, events(t, c))
}

// What one unit says without a pause makes few writes, and the last of it
// arrives.
func TestChatter(t *testing.T) {
	t.Parallel()
	const texts = 20_000
	srv := redistest.Start(t)
	m := newMonitor(t, srv, bootA, 1)
	o := m.at("w@0.service", "active", "running", 1)
	m.herd.Sync([]state.Observation{o}, "connected")
	m.run()
	m.drained()
	before := m.relay.Stats().Batches
	for i := range texts {
		o.StatusText = fmt.Sprint(i)
		m.herd.Observe(o)
		if i%1000 == 999 { // as it comes from a bus
			time.Sleep(time.Millisecond)
		}
	}
	c := srv.Client(t)
	eventually(t, "the last is told", func() bool { return units(t, c)["w@0.service"].StatusText == fmt.Sprint(texts-1) })
	if n := m.relay.Stats().Batches - before; n > texts/20 {
		t.Errorf("%d texts made %d writes", texts, n)
	}
}
