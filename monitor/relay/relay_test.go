package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bootA, bootB = "aaaaaaaa-0000-4000-8000-000000000000", "bbbbbbbb-0000-4000-8000-000000000000"

// A monitor is a Herd with its Relay.
type monitor struct {
	t     *testing.T
	herd  *state.Herd
	relay *Relay
	alive atomic.Bool
	saved atomic.Uint64
	clock int // of the units' changes

	cancel context.CancelFunc
	done   chan error
}

// A place is Redis, as a server alone or in one of its forms.
type place interface {
	Client(testing.TB, ...redisclient.Option) redis.UniversalClient
}

// newMonitor makes a monitor that does not run yet.
func newMonitor(t *testing.T, srv place, boot string, epoch uint64, change ...func(*Config)) *monitor {
	t.Helper()
	m := &monitor{t: t}
	m.alive.Store(true)
	cfg := Config{
		Prefix: "gpuherd", Host: "box", BootID: boot, Epoch: epoch, Version: "1.2.3",
		Alive: m.alive.Load, Uptime: func() time.Duration { return 90 * time.Second },
		SaveEpoch: func(n uint64) error { m.saved.Store(n); return nil },
	}
	for _, f := range change {
		f(&cfg)
	}
	log := &journal{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the monitor of epoch %d said:\n%s", epoch, strings.Join(log.lines(), "\n"))
		}
	})
	m.relay = New(srv.Client(t), slog.New(slog.NewTextHandler(log, nil)), cfg)
	m.herd = state.NewHerd(m.relay.Push, time.Now)
	m.relay.From(m.herd)
	return m
}

// run starts the relay; it is stopped with the test at the latest.
func (m *monitor) run() *monitor {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.done = cancel, make(chan error, 1)
	go func() { m.done <- m.relay.Run(ctx) }()
	m.t.Cleanup(m.stop)
	return m
}

func (m *monitor) stop() {
	m.t.Helper()
	if m.cancel == nil {
		return
	}
	m.cancel()
	m.cancel = nil
	select {
	case err := <-m.done:
		if err != nil {
			m.t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		m.t.Error("Run does not end")
	}
}

// kill stops the relay without a farewell, as SIGKILL would.
func (m *monitor) kill() {
	_ = m.relay.client.Close() // so that the farewell does not arrive
	m.stop()
}

// at is a unit in a state, changed now.
func (m *monitor) at(name, active, sub string, invocation int) state.Observation {
	m.clock++
	return state.Observation{Name: name, Active: active, Sub: sub, Result: "success", InvocationID: fmt.Sprintf("%032d", invocation),
		MainPID: uint32(invocation), ChangedMonoUS: uint64(m.clock), ChangedUS: uint64(m.clock)}
}

// crash lets a unit fail and start again.
func (m *monitor) crash(name string, invocation int) {
	m.herd.Observe(m.at(name, "failed", "failed", invocation))
	m.herd.Observe(m.at(name, "active", "running", invocation+1))
}

type entry struct {
	Epoch, Seq uint64
	Type       string
	What       string // of the data: event or reason, and whether resynced
	Restarts   uint64
}

func events(t *testing.T, c redis.UniversalClient) []entry {
	t.Helper()
	raw, err := c.XRange(t.Context(), "gpuherd:{box}:events", "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	var all []entry
	for _, x := range raw {
		f := func(name string) string { s, _ := x.Values[name].(string); return s }
		e := entry{Type: f("type")}
		e.Epoch, _ = strconv.ParseUint(f("epoch"), 10, 64)
		e.Seq, _ = strconv.ParseUint(f("seq"), 10, 64)
		var data struct {
			Event, Reason, Unit string
			Count, Restarts     uint64
			Resynced            bool
		}
		if err := json.Unmarshal([]byte(f("data")), &data); err != nil {
			t.Fatalf("data %s: %v", f("data"), err)
		}
		e.What, e.Restarts = strings.TrimSpace(data.Event+" "+data.Reason), data.Restarts
		if e.Type == state.TypeGap {
			e.What += " " + strconv.FormatUint(data.Count, 10)
		}
		if data.Resynced {
			e.What += " resynced " + data.Unit
		}
		all = append(all, e)
	}
	return all
}

// inOrder fails where events are not in rising order of (epoch, seq), or a
// number within an epoch is missing that no gap tells of.
func inOrder(t *testing.T, all []entry) {
	t.Helper()
	for i, e := range all {
		if i == 0 || e.Epoch != all[i-1].Epoch {
			continue
		}
		if before := all[i-1]; e.Seq != before.Seq+1+e.lost() {
			t.Fatalf("after %+v comes %+v", before, e)
		}
	}
}

// lost is how many numbers before its own a gap stands for.
func (e entry) lost() uint64 {
	if e.Type != state.TypeGap {
		return 0
	}
	_, count, _ := strings.Cut(e.What, " ")
	n, _ := strconv.ParseUint(count, 10, 64)
	return n - 1
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// drained waits until Redis has confirmed everything.
func (m *monitor) drained() {
	m.t.Helper()
	eventually(m.t, "everything is written", func() bool {
		s := m.relay.Stats()
		return s.Connected && s.Pending == 0 && s.Written+s.Dropped >= m.herd.Seq()
	})
}

func units(t *testing.T, c redis.UniversalClient) map[string]state.Unit {
	t.Helper()
	raw, err := c.HGetAll(t.Context(), "gpuherd:{box}:units").Result()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]state.Unit{}
	for name, data := range raw {
		var u state.Unit
		if err := json.Unmarshal([]byte(data), &u); err != nil {
			t.Fatal(err)
		}
		all[name] = u
	}
	return all
}

// A snapshot waits until systemd has told the herd: an empty one would say
// that nothing is there.
func TestNoSnapshotBeforeSync(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	c.HSet(t.Context(), "gpuherd:{box}:units", "w@0.service", "{}")
	m := newMonitor(t, srv, bootA, 1).run()
	eventually(t, "it is connected", func() bool { return m.relay.Ready() == nil })
	m.drained()
	if n := c.HLen(t.Context(), "gpuherd:{box}:units").Val(); n != 1 {
		t.Errorf("%d units, want that of before", n)
	}
	m.herd.Sync([]state.Observation{m.at("w@1.service", "active", "running", 1)}, "connected")
	eventually(t, "the snapshot is written", func() bool { _, ok := units(t, c)["w@1.service"]; return ok })
	if got := units(t, c); len(got) != 1 {
		t.Errorf("units are %v", got)
	}
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct{ begin, end func(*redistest.Server) }{
		"paused": {(*redistest.Server).Pause, (*redistest.Server).Resume},
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Restart},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			c := srv.Client(t)
			m := newMonitor(t, srv, bootA, 1)
			m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
			m.run()
			m.drained()
			fault.begin(srv)
			const crashes = 500
			for i := range crashes {
				m.crash("w@0.service", i+1)
			}
			// Paused, the first call times out and is sent again, though the
			// server will do what it has read.
			eventually(t, "the fault is noticed", func() bool { return m.relay.Ready() != nil })
			fault.end(srv)
			m.crash("w@0.service", crashes+1)
			m.drained()
			// The last crash may come before that snapshot or after it.
			eventually(t, "the snapshot of the return is written", func() bool {
				snapshots := 0
				for _, e := range events(t, c) {
					if e.Type == state.TypeSnapshot {
						snapshots++
					}
				}
				return snapshots == 2
			})
			all := events(t, c)
			inOrder(t, all)
			failed, running := 0, 0
			for _, e := range all {
				switch {
				case e.What == "failed":
					failed++
				case e.What == "running":
					running++
				case e.Type == state.TypeGap:
					t.Errorf("there is a gap: %+v", e)
				}
			}
			if failed != crashes+1 || running != crashes+1 {
				t.Errorf("%d failed and %d running, want %d of each", failed, running, crashes+1)
			}
			if u := units(t, c)["w@0.service"]; u.Restarts != crashes+1 || u.Active != "active" {
				t.Errorf("the unit is %+v", u)
			}
		})
	}
}

func TestOverflowIsAGap(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	m := newMonitor(t, srv, bootA, 1, func(c *Config) { c.Capacity = 10 })
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	m.run()
	m.drained()
	before := m.herd.Seq()
	srv.Kill()
	for i := range 100 {
		m.crash("w@0.service", i+1)
	}
	srv.Restart()
	m.drained()
	all := events(t, c)
	inOrder(t, all)
	gaps, lost := 0, uint64(0)
	for _, e := range all {
		if e.Type == state.TypeGap {
			gaps++ // one, or a second where the first was on its way already
			var n uint64
			if _, err := fmt.Sscanf(e.What, "overflow %d", &n); err != nil {
				t.Fatalf("gap %+v: %v", e, err)
			}
			lost += n
		}
	}
	if lost == 0 || lost != m.relay.Stats().Dropped || before+200 > uint64(len(all)-gaps)+lost {
		t.Errorf("%d gaps over %d events, %d in the stream; stats %+v", gaps, lost, len(all), m.relay.Stats())
	}
	if u := units(t, c)["w@0.service"]; u.Restarts != 100 || u.Active != "active" {
		t.Errorf("the latest state did not survive: %+v", u)
	}
}

// One that was fenced stays a while, says so, and ends with an error. Started
// again it is the writer, whether it could raise its epoch over the other's or
// not.
func TestFencedEnds(t *testing.T) {
	t.Parallel()
	const stay = 200 * time.Millisecond
	for _, tt := range []struct {
		name             string
		boot             string // of the other
		other, next, won uint64
	}{
		{"the next epoch", bootA, 6, 7, 7},
		{"started by hand with a folder of its own", bootA, 9, 6, 10},
		{"another machine of this name", bootB, 9, 6, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			service := newMonitor(t, srv, bootA, 5, func(c *Config) { c.FencedFor = stay })
			service.herd.Sync([]state.Observation{service.at("w@0.service", "active", "running", 1)}, "connected")
			service.run()
			service.drained()
			other := newMonitor(t, srv, tt.boot, tt.other)
			other.herd.Sync([]state.Observation{other.at("w@0.service", "active", "running", 1)}, "connected")
			other.run()
			other.drained()
			other.stop()

			began := time.Now()
			service.crash("w@0.service", 1)
			eventually(t, "the service says so", func() bool { return errors.Is(service.relay.Ready(), ErrFenced) })
			select {
			case err := <-service.done:
				if !errors.Is(err, ErrFenced) {
					t.Errorf("Run ends with %v, want ErrFenced", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the fenced monitor stays for ever")
			}
			service.cancel()
			service.cancel = nil
			if took := time.Since(began); took < stay {
				t.Errorf("it ended after %v, want no sooner than %v", took, stay)
			}

			again := newMonitor(t, srv, bootA, tt.next)
			again.herd.Sync([]state.Observation{again.at("w@0.service", "active", "running", 2)}, "connected")
			again.run()
			again.drained()
			if s := again.relay.Stats(); s.Epoch != tt.won || !s.Connected {
				t.Errorf("started again it is %+v, want epoch %d", s, tt.won)
			}
			if n := srv.Client(t).Exists(t.Context(), "gpuherd:{box}:heartbeat").Val(); n != 1 {
				t.Error("the heart does not beat again")
			}
		})
	}
}

// Where the folder with the epoch was lost, Redis' is taken.
func TestEpochLost(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	before := newMonitor(t, srv, bootA, 41)
	before.herd.Sync(nil, "connected")
	before.run()
	before.drained()
	before.stop()
	m := newMonitor(t, srv, bootB, 1)
	m.herd.Sync(nil, "connected")
	m.run()
	m.drained()
	if got := m.saved.Load(); got != 42 {
		t.Errorf("epoch %d was kept, want 42", got)
	}
	all := events(t, c)
	if last := all[len(all)-1]; last.Epoch != 42 || last.Type != "snapshot" {
		t.Errorf("the last event is %+v", last)
	}
}

// A monitor that was killed is followed by one that goes on counting, also
// for what it saw before it reached Redis.
func TestRestartsSurviveTheMonitor(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	a := newMonitor(t, srv, bootA, 1)
	a.herd.Sync([]state.Observation{a.at("w@0.service", "active", "running", 1)}, "connected")
	a.run()
	for i := range 4 {
		a.crash("w@0.service", i+1)
	}
	a.drained()
	a.kill()

	srv.Kill()
	b := newMonitor(t, srv, bootA, 2)
	b.herd.Sync([]state.Observation{b.at("w@0.service", "active", "running", 6)}, "connected") // 5 was the last known
	b.run()
	b.crash("w@0.service", 6)
	srv.Restart()
	b.drained()
	if u := units(t, c)["w@0.service"]; u.Restarts != 6 {
		t.Errorf("%d restarts, want 6", u.Restarts)
	}
	var got []uint64
	for _, e := range events(t, c) {
		if e.Epoch == 2 && e.Type == "unit" {
			got = append(got, e.Restarts)
		}
	}
	if diff := cmp.Diff([]uint64{5, 6}, got); diff != "" {
		t.Errorf("restarts told (-want +got):\n%s", diff)
	}

	// Another boot counts anew.
	b.kill()
	n := newMonitor(t, srv, bootB, 3)
	n.herd.Sync([]state.Observation{n.at("w@0.service", "active", "running", 9)}, "connected")
	n.run()
	n.drained()
	eventually(t, "counting begins anew", func() bool { return units(t, c)["w@0.service"].Restarts == 0 })
}

// What happened while no monitor ran is told by the next one, marked, after it
// says that it is online and before the snapshot.
func TestResyncedAfterTheMonitor(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late herd %v", late), func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			c := srv.Client(t)
			a := newMonitor(t, srv, bootA, 1)
			a.herd.Sync([]state.Observation{
				a.at("same@0.service", "active", "running", 1), a.at("start@0.service", "activating", "start", 2), a.at("again@0.service", "active", "running", 3),
			}, "connected")
			a.run()
			a.drained()
			a.kill()

			b := newMonitor(t, srv, bootA, 2)
			sync := func() {
				b.herd.Sync([]state.Observation{
					b.at("same@0.service", "active", "running", 1), b.at("start@0.service", "active", "running", 2), b.at("again@0.service", "active", "running", 4),
				}, "connected")
			}
			if !late {
				sync()
			}
			b.run()
			if late {
				eventually(t, "Redis is claimed", func() bool { return b.relay.Ready() == nil })
				sync()
			}
			var got []string
			eventually(t, "the snapshot is there", func() bool {
				got = nil
				for _, e := range events(t, c) {
					if e.Epoch == 2 {
						got = append(got, fmt.Sprintf("%s %s %d", e.Type, e.What, e.Restarts))
					}
				}
				return len(got) > 0 && strings.HasPrefix(got[len(got)-1], "snapshot")
			})
			want := []string{"host online 0", "unit running resynced again@0.service 1", "unit running resynced start@0.service 0", "snapshot connected 0"}
			slices.Sort(got[1:max(1, len(got)-1)]) // the order between units is the herd's
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// The heartbeat stops with the view of the herd, not with the process, and
// comes back with it. Redis is written to all the same.
func TestHeartbeatNeedsProgress(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	m := newMonitor(t, srv, bootA, 1)
	m.relay.every = 5 * time.Millisecond
	m.herd.Sync(nil, "connected")
	const key = "gpuherd:{box}:heartbeat"
	beats := func() bool { return c.Exists(t.Context(), key).Val() == 1 }
	m.run()
	eventually(t, "the heart beats", beats)
	m.alive.Store(false)
	more := func() {
		t.Helper()
		n := m.relay.Stats().Batches
		eventually(t, "it writes on", func() bool { return m.relay.Stats().Batches > n+3 })
	}
	more() // one may be on its way
	c.Del(t.Context(), key)
	more()
	if beats() {
		t.Error("the heart beats though nothing proves life")
	}
	if err := m.relay.Ready(); err != nil {
		t.Errorf("Redis takes what is written, but Ready says %v", err)
	}
	m.alive.Store(true)
	eventually(t, "the heart beats again", beats)
}

// Also one that finds Redis empty at its end says that it goes.
func TestOfflineIsToldToAnEmptyRedis(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	m := newMonitor(t, srv, bootA, 1)
	m.herd.Sync(nil, "connected")
	m.run()
	m.drained()
	empty(t, c)
	m.stop()
	all := events(t, c)
	inOrder(t, all)
	offline := slices.ContainsFunc(all, func(e entry) bool { return e.What == "offline" })
	if all[0].Type != state.TypeGap || !offline || c.Exists(t.Context(), "gpuherd:{box}:heartbeat").Val() != 0 {
		t.Errorf("the last words are %+v", all)
	}
}

// The stream is a ring: the newest events stay, in order.
func TestRing(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendonly", "no")
	c := srv.Client(t)
	m := newMonitor(t, srv, bootA, 1, func(c *Config) { c.Capacity = 3 * streamLength })
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	m.run()
	for n := range streamLength {
		m.crash("w@0.service", n+1)
	}
	m.drained()
	all := events(t, c)
	inOrder(t, all)
	// Redis drops whole nodes of its tree, of 100 entries unless it is told else.
	if n := len(all); n < streamLength || n > streamLength+200 {
		t.Errorf("the stream has %d entries", n)
	}
	if all[len(all)-1].Seq != m.herd.Seq() || m.relay.Stats().Dropped != 0 {
		t.Errorf("it ends with %+v, the herd with %d; %+v", all[len(all)-1], m.herd.Seq(), m.relay.Stats())
	}
}

func TestEpochFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for want := uint64(1); want < 4; want++ {
		if got, err := NextEpoch(dir); got != want || err != nil {
			t.Fatalf("epoch is %d, %v, want %d", got, err, want)
		}
	}
	if err := SaveEpoch(dir, 99); err != nil {
		t.Fatal(err)
	}
	if got, _ := NextEpoch(dir); got != 100 {
		t.Errorf("epoch is %d, want 100", got)
	}
	if got, err := NextEpoch(dir + "/missing"); got != 1 || err == nil {
		t.Errorf("epoch is %d, %v, want 1 and an error", got, err)
	}
}
