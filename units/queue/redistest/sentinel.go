package redistest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Times of Sentinel in ms: when a server counts as down, and how long one of
// them has for a failover before another tries.
const (
	downAfter       = 1000
	failoverTimeout = 5000
	masterName      = "gpuherd"
)

// A Sentinel is a master with two replicas, watched by three Sentinels.
type Sentinel struct {
	Deployment
	Sentinels []*Server

	tb testing.TB
}

// StartSentinel starts them and waits until all know each other.
func StartSentinel(tb testing.TB) *Sentinel {
	tb.Helper()
	s := &Sentinel{tb: tb}
	for i := range 3 {
		args := []string{"--repl-diskless-sync-delay", "0"}
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1", strconv.Itoa(s.Servers[0].Port))
		}
		s.Servers = append(s.Servers, startPort(tb, "--port", args...))
	}
	var addrs []string
	for range 3 {
		w := prepare(tb)
		w.Port = freePort(tb)
		w.file = filepath.Join(w.Dir, "conf")
		write(tb, w.Dir, "conf", fmt.Appendf(nil, `port %d
bind 127.0.0.1
unixsocket %s
dir %s
sentinel monitor %[4]s 127.0.0.1 %[5]d 2
sentinel down-after-milliseconds %[4]s %[6]d
sentinel failover-timeout %[4]s %[7]d
`, w.Port, w.Socket, w.Dir, masterName, s.Servers[0].Port, downAfter, failoverTimeout))
		w.Restart()
		s.Sentinels = append(s.Sentinels, w)
		addrs = append(addrs, w.Addr())
	}
	s.URL = fmt.Sprintf("redis://%s?master_name=%s&addr=%s", addrs[0], masterName, strings.Join(addrs[1:], "&addr="))
	s.primary = func(string) *Server { return s.Master() }
	for _, w := range s.Sentinels {
		until(tb, "a Sentinel knows the others", func(ctx context.Context) bool {
			m, err := s.ask(w).Master(ctx, masterName).Result()
			return err == nil && m["num-slaves"] == "2" && m["num-other-sentinels"] == "2"
		})
	}
	s.replicates()
	return s
}

// Master returns the master that the Sentinels name.
func (s *Sentinel) Master() (m *Server) {
	s.tb.Helper()
	until(s.tb, "the Sentinels name a master", func(ctx context.Context) bool {
		addr, err := s.ask(s.Sentinels[0]).GetMasterAddrByName(ctx, masterName).Result()
		if err != nil || len(addr) != 2 {
			return false
		}
		for _, srv := range s.Servers {
			if net.JoinHostPort(addr[0], addr[1]) == srv.Addr() {
				m = srv
			}
		}
		return m != nil
	})
	return m
}

// Failover makes a replica the master in good order.
func (s *Sentinel) Failover() {
	s.tb.Helper()
	before := s.Master()
	until(s.tb, "a failover begins", func(ctx context.Context) bool {
		return s.ask(s.Sentinels[0]).Failover(ctx, masterName).Err() == nil
	})
	until(s.tb, "another is master", func(context.Context) bool { return s.Master() != before })
}

// replicates waits until both replicas have what the master has.
func (s *Sentinel) replicates() {
	s.tb.Helper()
	until(s.tb, "the replicas follow", func(ctx context.Context) bool {
		return strings.Count(replication(ctx, s.tb, s.Servers[0]), "state=online") == 2
	})
}

func (s *Sentinel) ask(w *Server) *redis.SentinelClient {
	c := redis.NewSentinelClient(&redis.Options{Network: "unix", Addr: w.Socket, MaxRetries: -1})
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// replication is what a server says of it.
func replication(ctx context.Context, tb testing.TB, srv *Server) string {
	tb.Helper()
	c := srv.Client(tb)
	defer func() { _ = c.Close() }()
	return c.Info(ctx, "replication").Val()
}
