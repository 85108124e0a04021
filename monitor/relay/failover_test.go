package relay

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// load lets units crash and start again until the function it returns is
// called.
func (m *monitor) load(names ...string) (stop func()) {
	ctx, cancel := context.WithCancel(m.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			for _, name := range names {
				m.crash(name, n)
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// more waits until n events have come about since the call.
func (m *monitor) more(n uint64) {
	m.t.Helper()
	from := m.herd.Seq()
	eventually(m.t, "the herd goes on", func() bool { return m.herd.Seq() >= from+n })
}

// converged waits until Redis has what the herd has, and checks the way there:
// every event once and in order, or told by a gap.
func (m *monitor) converged(c redis.UniversalClient) {
	m.t.Helper()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("herd at %d, relay %+v, %v", m.herd.Seq(), m.relay.Stats(), m.relay.Ready())
		}
	})
	began := time.Now()
	eventually(m.t, "the state in Redis is that of the herd", func() bool {
		s := m.relay.Stats()
		if !s.Connected || s.Pending > 0 {
			return false
		}
		raw, err := c.HGetAll(m.t.Context(), "gpuherd:{box}:units").Result()
		if err != nil {
			return false
		}
		want := map[string]string{}
		for _, u := range m.herd.Units() {
			want[u.Name] = encode(u)
		}
		last, err := c.XRevRangeN(m.t.Context(), "gpuherd:{box}:events", "+", "-", 1).Result()
		return err == nil && len(last) == 1 && reflect.DeepEqual(raw, want) && last[0].Values["seq"] == strconv.FormatUint(m.herd.Seq(), 10)
	})
	m.t.Logf("converged %v after Redis took writes again", time.Since(began).Round(time.Millisecond))
	all := events(m.t, c)
	all = all[slices.IndexFunc(all, func(e entry) bool { return e.Epoch == m.relay.Stats().Epoch }):]
	inOrder(m.t, all)
	if first, last := all[0], all[len(all)-1]; first.Seq != 1+first.lost() || last.Epoch != first.Epoch {
		m.t.Errorf("the stream begins with %+v and ends with %+v", first, last)
	}
}

// The primary is killed while units crash; where it has replicas, one of them
// takes its place, and may lack what the primary had confirmed.
func primaryDies(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	m := newMonitor(t, d, bootA, 1)
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1), m.at("w@1.service", "active", "running", 1)}, "connected")
	m.run()
	m.drained()
	stop := m.load("w@0.service", "w@1.service")
	defer stop()
	m.more(100)
	primary := d.Primary("gpuherd:{box}:events")
	primary.Kill()
	eventually(t, "it is noticed", func() bool { return m.relay.Ready() != nil })
	m.more(100)
	if len(d.Servers) > 1 {
		eventually(t, "another takes its place", func() bool { return m.relay.Ready() == nil })
	}
	primary.Restart()
	eventually(t, "Redis takes writes", func() bool { return m.relay.Ready() == nil })
	m.more(100)
	stop()
	m.converged(c)
}

// underLoad runs a monitor whose units crash all the time, lets change do
// something to Redis in between, and wants nothing lost that is not told.
func underLoad(t *testing.T, d *redistest.Deployment, change func(m *monitor)) {
	t.Helper()
	// A replica that was not there when all was emptied may still know of the
	// monitor before, so this one has to be newer.
	m := newMonitor(t, d, bootA, epochs.Add(1))
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1), m.at("w@1.service", "active", "running", 1)}, "connected")
	m.run()
	m.drained()
	stop := m.load("w@0.service", "w@1.service")
	defer stop()
	m.more(100)
	change(m)
	m.more(100)
	eventually(t, "Redis takes writes", func() bool { return m.relay.Ready() == nil })
	stop()
	m.converged(d.Admin(t))
}

var epochs atomic.Uint64

const eventsKey = "gpuherd:{box}:events"

func TestSentinelUnderLoad(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	t.Run("failover in good order", func(t *testing.T) {
		empty(t, s.Admin(t))
		underLoad(t, &s.Deployment, func(*monitor) { s.Failover() })
	})
	// The old master comes back to life and takes writes until it is told that
	// it is none any more: those are lost, and told to be.
	t.Run("the master hangs and comes back", func(t *testing.T) {
		empty(t, s.Admin(t))
		underLoad(t, &s.Deployment, func(m *monitor) {
			before := s.Master()
			before.Pause()
			eventually(t, "another is master", func() bool { return s.Master() != before })
			m.more(100)
			before.Resume()
		})
	})
	t.Run("the replicas lag", func(t *testing.T) {
		empty(t, s.Admin(t))
		underLoad(t, &s.Deployment, func(m *monitor) {
			master := s.Master()
			for _, srv := range s.Servers {
				if srv != master {
					srv.Pause()
				}
			}
			if err := master.Client(t).ClientKillByFilter(t.Context(), "type", "replica").Err(); err != nil {
				t.Fatal(err)
			}
			before := m.relay.Stats().Written
			eventually(t, "the master has confirmed what no replica has", func() bool { return m.relay.Stats().Written > before+50 })
			master.Kill()
			for _, srv := range s.Servers {
				if srv != master {
					srv.Resume()
				}
			}
			eventually(t, "the loss is told", func() bool { return m.relay.Stats().Errors[reasonLost] > 0 })
			master.Restart()
		})
		lost := uint64(0)
		for _, e := range events(t, s.Admin(t)) {
			lost += e.lost()
		}
		if lost < 40 {
			t.Errorf("gaps tell of %d events", lost)
		}
	})
	t.Run("a Sentinel dies", func(t *testing.T) {
		empty(t, s.Admin(t))
		underLoad(t, &s.Deployment, func(*monitor) {
			s.Sentinels[1].Kill()
			s.Failover()
			s.Sentinels[1].Restart()
		})
	})
}

func TestClusterUnderLoad(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	for name, change := range map[string]func(*monitor){
		"a slot migrates": func(m *monitor) {
			for range 3 {
				c.Migrate(eventsKey)
				m.more(20)
			}
		},
		"failover in good order": func(*monitor) { c.Failover(eventsKey) },
		"the master hangs": func(m *monitor) {
			before := c.Primary(eventsKey)
			before.Pause()
			eventually(t, "it is noticed", func() bool { return m.relay.Ready() != nil })
			m.more(50)
			before.Resume()
		},
	} {
		t.Run(name, func(t *testing.T) {
			empty(t, c.Admin(t))
			underLoad(t, &c.Deployment, change)
		})
	}
}

// A server that was primary before and becomes it again has applied batches of
// numbers that are in use anew, unless numbers never come again.
func TestBackToAnOlderServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	older, newer := redistest.Start(t), redistest.Start(t)
	m := newMonitor(t, older, bootA, 1)
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	write := func() {
		t.Helper()
		if !m.relay.claimed {
			if err := m.relay.claim(ctx); err != nil {
				t.Fatal(err)
			}
		}
		err := m.relay.flush(ctx, true)
		if errors.Is(err, errLost) {
			if err = m.relay.claim(ctx); err == nil {
				err = m.relay.flush(ctx, true)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	crashes := 0
	for _, turn := range []struct {
		srv     *redistest.Server
		batches int
	}{{older, 10}, {newer, 3}, {older, 3}, {newer, 5}} {
		m.relay.client = turn.srv.Client(t)
		for range turn.batches {
			crashes++
			m.crash("w@0.service", crashes)
			write()
		}
		c := turn.srv.Client(t)
		if u := units(t, c)["w@0.service"]; u.Restarts != uint64(crashes) {
			t.Fatalf("after %d crashes the unit is %+v", crashes, u)
		}
		inOrder(t, events(t, c))
	}
}
