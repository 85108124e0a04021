package relay

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// A journal collects log lines of level warning and above.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) lines() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Split(strings.TrimSpace(j.text.String()), "\n")
}

// A trouble is what can be wrong with Redis.
type trouble struct {
	name   string
	start  func(testing.TB) *redistest.Deployment
	spoil  func(*testing.T, *redistest.Deployment)
	reason string
	says   string                                  // what the log and /readyz say
	mend   func(*testing.T, *redistest.Deployment) // nil: there is no mending it here
}

// Whatever is wrong with Redis: the log says it once, with what mends it, the
// metric counts each try under its reason, /readyz has the reason, and once it
// is mended everything arrives.
func TestTroubles(t *testing.T) {
	t.Parallel()
	rights := redistest.Rights(t, rights)
	do := func(args ...any) func(*testing.T, *redistest.Deployment) {
		return func(t *testing.T, d *redistest.Deployment) {
			t.Helper()
			if err := d.Admin(t).Do(t.Context(), args...).Err(); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
		}
	}
	config := func(key, value string) func(*testing.T, *redistest.Deployment) {
		return do("config", "set", key, value)
	}
	for _, tt := range []trouble{
		{"no password", redistest.TCP, do("acl", "setuser", "default", "resetpass", ">right"), redisclient.Unauthorised, "credential gpuherd.redis-password", nil},
		{"wrong password", func(tb testing.TB) *redistest.Deployment { return redistest.ACL(tb, rights) },
			do("acl", "setuser", "gpuherd", "resetpass", ">other"), redisclient.Unauthorised, "credential gpuherd.redis-password",
			do("acl", "setuser", "gpuherd", "resetpass", ">secret")},
		{"a right is missing", func(tb testing.TB) *redistest.Deployment { return redistest.ACL(tb, rights) },
			do("acl", "setuser", "gpuherd", "-xadd"), redisclient.Forbidden, "gpuherd-redis(7)",
			do("acl", "setuser", "gpuherd", "+xadd")},
		{"the channel is missing", func(tb testing.TB) *redistest.Deployment { return redistest.ACL(tb, rights) },
			do("acl", "setuser", "gpuherd", "resetchannels"), redisclient.Forbidden, "gpuherd-redis(7)",
			do("acl", "setuser", "gpuherd", "&gpuherd:*")},
		{"the keys are missing", func(tb testing.TB) *redistest.Deployment { return redistest.ACL(tb, rights) },
			do("acl", "setuser", "gpuherd", "resetkeys"), redisclient.Forbidden, "gpuherd-redis(7)",
			do("acl", "setuser", "gpuherd", "~gpuherd:*")},
		{"wrong authority", redistest.TLS, func(t *testing.T, d *redistest.Deployment) {
			d.Credentials = redistest.Credentials(t, map[string][]byte{redisclient.CredentialCA: redistest.NewAuthority(t).PEM})
		}, redisclient.Certificate, "credentials gpuherd.redis-ca", nil},
		{"no authority", redistest.TLS, func(_ *testing.T, d *redistest.Deployment) { d.Credentials = "" }, redisclient.Certificate, "credentials gpuherd.redis-ca", nil},
		{"a replica", redistest.Unix, do("replicaof", "127.0.0.1", "1"), redisclient.ReadOnly, "it is a replica", do("replicaof", "no", "one")},
		{"full", redistest.Unix, config("maxmemory", "1"), redisclient.OutOfMemory, "raise its maxmemory", config("maxmemory", "0")},
		{"loading", redistest.Unix, loading, redisclient.Loading, "reads its data from disk", func(*testing.T, *redistest.Deployment) {}},
		{"no node for the slot", func(tb testing.TB) *redistest.Deployment {
			srv := redistest.Start(tb, "--cluster-enabled", "yes")
			return redistest.Alone(srv)
		}, func(*testing.T, *redistest.Deployment) {}, redisclient.Unclustered, "?addr=", func(t *testing.T, d *redistest.Deployment) {
			all := []any{"cluster", "addslots"}
			for slot := range 16384 {
				all = append(all, slot)
			}
			do(all...)(t, d)
		}},
		{"no Sentinel", redistest.TCP, func(_ *testing.T, d *redistest.Deployment) { d.URL += "?master_name=m" }, redisclient.Leaderless, "?master_name=", nil},
		{"nobody listens", redistest.Unix, func(_ *testing.T, d *redistest.Deployment) { d.Servers[0].Kill() }, redisclient.Unreachable, "no such file",
			func(_ *testing.T, d *redistest.Deployment) { d.Servers[0].Restart() }},
		{"it hangs", redistest.Unix, func(_ *testing.T, d *redistest.Deployment) { d.Servers[0].Pause() }, redisclient.Timeout, "it gives no answer",
			func(_ *testing.T, d *redistest.Deployment) { d.Servers[0].Resume() }},
		wrongType("fence"), wrongType("units"), wrongType("gpus"), wrongType("events"), wrongType(""),
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := tt.start(t)
			tt.spoil(t, d)
			m := newMonitor(t, d, bootA, 1)
			log := &journal{}
			m.relay.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			m.herd.SetGPUs([]state.GPU{{Index: 0, UUID: "GPU-0"}})
			m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
			m.run()
			eventually(t, "it is tried again", func() bool { return m.relay.Stats().Errors[tt.reason] >= 3 })
			if lines := log.lines(); len(lines) != 1 || !strings.Contains(lines[0], tt.says) || !strings.Contains(lines[0], "reason="+tt.reason) {
				t.Errorf("want one line with %q and reason %s, the log says:\n%s", tt.says, tt.reason, strings.Join(lines, "\n"))
			}
			if err := m.relay.Ready(); err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Ready says %v, want %q", err, tt.says)
			}
			if tt.mend == nil {
				return
			}
			tt.mend(t, d)
			m.drained()
			inOrder(t, events(t, d.Admin(t)))
		})
	}
}

// wrongType lets somebody else have a key of ours.
func wrongType(name string) trouble {
	key := "gpuherd:{box}:" + name
	if name == "" {
		key = "gpuherd:hosts"
	}
	return trouble{"somebody's " + key, redistest.Unix, func(t *testing.T, d *redistest.Deployment) {
		if err := d.Admin(t).Set(t.Context(), key, "somebody's", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}, redisclient.WrongType, key + " is of type string, not ", func(t *testing.T, d *redistest.Deployment) { d.Admin(t).Del(t.Context(), key) }}
}

// loading starts the server anew with so much to read, so slowly, that it is
// at it for a while.
func loading(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	if _, err := c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range 8000 {
			p.Set(t.Context(), "key", i, 0)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	d.Servers[0].Kill()
	d.Servers[0].Launch("--key-load-delay", "500")
	eventually(t, "it is loading", func() bool { return redis.IsLoadingError(c.Ping(t.Context()).Err()) })
}
