package redistest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	masters     = 3
	slots       = 16384
	nodeTimeout = "2000" // ms until a node counts as down
)

// A Cluster is three masters with a replica each.
type Cluster struct {
	Deployment

	tb testing.TB
}

// StartCluster starts them and waits until the Cluster takes writes.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	var addrs []string
	for range 2 * masters {
		srv := startPort(tb, "--port", "--cluster-enabled", "yes", "--cluster-node-timeout", nodeTimeout, "--repl-diskless-sync-delay", "0")
		c.Servers = append(c.Servers, srv)
		addrs = append(addrs, srv.Addr())
	}
	c.URL = "redis://" + addrs[0] + "?addr=" + strings.Join(addrs[1:], "&addr=")
	c.primary = c.master

	for i, srv := range c.Servers {
		c.do(srv, "cluster", "set-config-epoch", i+1)
		if i > 0 {
			c.do(c.Servers[0], "cluster", "meet", "127.0.0.1", srv.Port)
		}
		if i < masters {
			add := []any{"cluster", "addslots"}
			for slot := i * slots / masters; slot < (i+1)*slots/masters; slot++ {
				add = append(add, slot)
			}
			c.do(srv, add...)
		}
	}
	for i, srv := range c.Servers {
		until(tb, "a node knows the others", func(context.Context) bool {
			return strings.Count(c.do(srv, "cluster", "nodes"), "connected") == 2*masters &&
				strings.Count(c.do(srv, "cluster", "nodes"), "handshake") == 0
		})
		if i >= masters {
			c.do(srv, "cluster", "replicate", c.id(c.Servers[i-masters]))
		}
	}
	for i, srv := range c.Servers {
		until(tb, "the cluster is well and each master has a replica", func(ctx context.Context) bool {
			return strings.Contains(c.do(srv, "cluster", "info"), "cluster_state:ok") &&
				strings.Count(c.do(srv, "cluster", "nodes"), "slave") == masters &&
				(i >= masters || strings.Contains(replication(ctx, tb, srv), "state=online"))
		})
	}
	return c
}

// Migrate moves the slot of key to another master, key by key, while it is in
// use.
func (c *Cluster) Migrate(key string) {
	c.tb.Helper()
	from := c.master(key)
	var to *Server
	for _, srv := range c.Servers {
		if srv != from && strings.Contains(replication(c.tb.Context(), c.tb, srv), "role:master") {
			to = srv
		}
	}
	slot := c.do(from, "cluster", "keyslot", key)
	c.do(to, "cluster", "setslot", slot, "importing", c.id(from))
	c.do(from, "cluster", "setslot", slot, "migrating", c.id(to))
	for {
		keys := strings.Fields(c.do(from, "cluster", "getkeysinslot", slot, 1))
		if len(keys) == 0 {
			break
		}
		c.do(from, "migrate", "127.0.0.1", to.Port, keys[0], 0, 5000)
	}
	for _, srv := range []*Server{to, from} {
		c.do(srv, "cluster", "setslot", slot, "node", c.id(to))
	}
}

// Failover makes the replica of key's master take its place in good order.
func (c *Cluster) Failover(key string) {
	c.tb.Helper()
	before := c.master(key)
	for _, srv := range c.Servers {
		if strings.Contains(replication(c.tb.Context(), c.tb, srv), "master_port:"+strconv.Itoa(before.Port)) {
			c.do(srv, "cluster", "failover")
		}
	}
	until(c.tb, "another is master", func(context.Context) bool { return c.master(key) != before })
}

// master returns the master of key's slot, as most nodes see it.
func (c *Cluster) master(key string) (m *Server) {
	c.tb.Helper()
	until(c.tb, "the nodes agree on a master", func(ctx context.Context) bool {
		votes := map[string]int{}
		for _, srv := range c.Servers {
			if srv.process == nil {
				continue
			}
			client := srv.Client(c.tb)
			slot := client.ClusterKeySlot(ctx, key).Val()
			for _, r := range client.ClusterSlots(ctx).Val() {
				if r.Start <= int(slot) && int(slot) <= r.End && len(r.Nodes) > 0 {
					_, port, _ := net.SplitHostPort(r.Nodes[0].Addr)
					votes[port]++
				}
			}
			_ = client.Close()
		}
		i := slices.IndexFunc(c.Servers, func(srv *Server) bool { return votes[strconv.Itoa(srv.Port)] > len(c.Servers)/2 })
		if i >= 0 {
			m = c.Servers[i]
		}
		return i >= 0
	})
	return m
}

func (c *Cluster) id(srv *Server) string { return c.do(srv, "cluster", "myid") }

// do runs a command on one node.
func (c *Cluster) do(srv *Server, args ...any) string {
	c.tb.Helper()
	client := srv.Client(c.tb)
	defer func() { _ = client.Close() }()
	v, err := client.Do(c.tb.Context(), args...).Result()
	if err != nil {
		c.tb.Fatalf("%s: %.60v: %v", srv.Addr(), args, err)
	}
	if list, ok := v.([]any); ok {
		return strings.Trim(fmt.Sprint(list), "[]")
	}
	return fmt.Sprint(v)
}

// until waits for what servers agree on between themselves.
func until(tb testing.TB, what string, ok func(context.Context) bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			tb.Fatalf("it does not come about that %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
