package relay

import (
	"errors"
	"sync/atomic"
	"testing"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

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
		underLoad(t, &s.Deployment, func(m *monitor) {
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
