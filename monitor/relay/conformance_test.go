package relay

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// rights has those that a user of Redis needs.
const rights = "../../packaging/redis/gpuherd.rights"

// TestConformance holds the relay to its promises in every form of Redis, with
// the credentials and rights that the manual asks for.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, form := range redistest.Forms(redistest.Rights(t, rights)) {
		t.Run(form.Name, func(t *testing.T) {
			t.Parallel()
			d := form.Start(t)
			for _, promise := range []struct {
				name string
				keep func(*testing.T, *redistest.Deployment)
			}{
				{"tells all there is", messages},
				{"a batch sent twice counts once", replays},
				{"of two the older is fenced", fences},
				{"what Redis forgot is a gap", forgets},
				{"what a stranger deletes comes back", comesBack},
				{"hostile names and texts", hostile},
				{"the primary dies", primaryDies},
			} {
				t.Run(promise.name, func(t *testing.T) {
					empty(t, d.Admin(t))
					promise.keep(t, d)
				})
			}
		})
	}
}

// The documented user can do what the programs do, and nothing in that is newer
// than Redis 6.2.
func TestCommandsAreOld(t *testing.T) {
	t.Parallel()
	c := redistest.Start(t).Client(t)
	if c.Do(t.Context(), "command", "docs", "ping").Err() != nil {
		return // this one is older than the question
	}
	for right := range strings.FieldsSeq(redistest.Rights(t, rights)) {
		name, ok := strings.CutPrefix(right, "+")
		if !ok {
			continue
		}
		docs, err := c.Do(t.Context(), "command", "docs", name).Result()
		if err != nil {
			t.Fatal(err)
		}
		since := ""
		for _, doc := range docs.(map[any]any) {
			since, _ = doc.(map[any]any)["since"].(string)
		}
		if since == "" || since > "6.2.0" { // all of one digit
			t.Errorf("%s is there since %q", name, since)
		}
	}
}

// empty removes everything, as a restart without a disk would.
func empty(t *testing.T, c redis.UniversalClient) {
	t.Helper()
	flush := func(ctx context.Context, c redis.Cmdable) error { return c.FlushAll(ctx).Err() }
	err := errors.New("no client")
	switch c := c.(type) {
	case *redis.Client:
		err = flush(t.Context(), c)
	case *redis.ClusterClient:
		err = c.ForEachMaster(t.Context(), func(ctx context.Context, c *redis.Client) error { return flush(ctx, c) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Keys, types and messages are a promise to every reader of Redis.
func messages(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	// What an earlier boot left.
	c.HSet(t.Context(), "gpuherd:{box}:units", "gone.service", "{}")
	c.HSet(t.Context(), "gpuherd:{box}:gpus", "7", "{}")
	sub := c.Subscribe(t.Context(), "gpuherd:{box}:notify")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}

	m := newMonitor(t, d, bootA, 3)
	m.herd.SetGPUs([]state.GPU{{Index: 0, UUID: "GPU-0", Health: state.HealthUnknown}})
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1), m.at("w@1.service", "active", "running", 1)}, "connected")
	m.run()
	m.drained()
	var types []string
	next := func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		msg, err := sub.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			BootID string `json:"boot_id"`
			Epoch  uint64
			Seq    *uint64
			AtUS   int64 `json:"at_us"`
			Type   string
			Data   map[string]any
		}
		if err := json.Unmarshal([]byte(msg.Payload), &e); err != nil || e.BootID != bootA || e.Epoch != 3 || e.Seq == nil || e.AtUS == 0 || e.Data == nil {
			t.Errorf("message %s: %v", msg.Payload, err)
		}
		types = append(types, e.Type)
	}
	m.herd.Ended("w@0.service", m.herd.Units()[0].PID, 1)
	for range 3 { // before systemd says so, it is told
		next()
	}
	m.herd.Observe(m.at("w@0.service", "failed", "failed", 1))
	o := m.at("w@0.service", "active", "running", 2)
	m.herd.Observe(o)
	m.drained()
	o.StatusText, o.ReceivedUS = "job-1", 1
	m.herd.Observe(o)
	eventually(t, "the status is told", func() bool { return units(t, c)["w@0.service"].StatusText == "job-1" })

	want := []entry{
		{3, 1, "host", "online", 0},
		{3, 2, "snapshot", "connected", 0},
		{3, 3, "unit", "failed", 0},
		{3, 4, "unit", "running", 1},
	}
	all := events(t, c)
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if got := units(t, c); len(got) != 2 || got["w@0.service"].Seq != 4 || got["w@0.service"].Restarts != 1 || got["w@1.service"].Seq != 0 {
		t.Errorf("units are %+v", got)
	}
	if got := c.HKeys(t.Context(), "gpuherd:{box}:gpus").Val(); len(got) != 1 || got[0] != "0" {
		t.Errorf("GPUs are %v", got)
	}
	m.herd.SetGPUs([]state.GPU{{Index: 1, UUID: "GPU-1"}})
	eventually(t, "the GPUs are others", func() bool {
		got := c.HKeys(t.Context(), "gpuherd:{box}:gpus").Val()
		return len(got) == 1 && got[0] == "1"
	})

	var beat map[string]any
	if err := json.Unmarshal([]byte(c.Get(t.Context(), "gpuherd:{box}:heartbeat").Val()), &beat); err != nil {
		t.Fatal(err)
	}
	// Of the event that was the last as it was written, which may be any.
	seq, _ := beat["seq"].(float64)
	if diff := cmp.Diff(map[string]any{"boot_id": bootA, "epoch": 3., "seq": seq, "version": "1.2.3", "uptime": 90.}, beat); diff != "" || seq < 1 || seq > 4 {
		t.Errorf("heartbeat (-want +got):\n%s", diff)
	}
	if ttl := c.PTTL(t.Context(), "gpuherd:{box}:heartbeat").Val(); ttl <= 0 || ttl > 15*time.Second {
		t.Errorf("the heartbeat lives %v", ttl)
	}
	if at := c.ZScore(t.Context(), "gpuherd:hosts", "box").Val(); at != float64(int64(at)) || time.Since(time.UnixMilli(int64(at))) > time.Minute {
		t.Errorf("the host was last seen at %v", at)
	}

	m.stop()
	if n := c.Exists(t.Context(), "gpuherd:{box}:heartbeat").Val(); n != 0 {
		t.Error("the heartbeat is there after the end")
	}
	all = events(t, c)
	want = append(want, entry{3, 5, "gpu", "removed", 0}, entry{3, 6, "gpu", "added", 0}, entry{3, 7, "host", "offline", 0})
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("events at the end (-want +got):\n%s", diff)
	}

	// The channel had the same, and the hints besides.
	for len(types) < len(all)+2 {
		next()
	}
	if diff := cmp.Diff([]string{"host", "snapshot", "exit", "unit", "unit", "status", "gpu", "gpu", "host"}, types); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// A batch whose answer was lost is sent again and counts once; one that comes
// late does nothing.
func replays(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	m := newMonitor(t, d, bootA, 1)
	m.relay.cfg.Alive = func() bool { return false }
	ctx := t.Context()
	if err := m.relay.claim(ctx); err != nil {
		t.Fatal(err)
	}
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	m.herd.Observe(m.at("w@0.service", "failed", "failed", 1))
	if err := m.relay.flush(ctx, false); err != nil {
		t.Fatal(err)
	}
	ops, _, _ := m.relay.take()
	if ops != nil {
		t.Fatalf("flush left %v", ops)
	}
	m.herd.Observe(m.at("w@0.service", "active", "running", 2))
	ops, evs, _ := m.relay.take()
	first := m.relay.assemble(ops)
	first.events, first.last = evs, evs[len(evs)-1].Seq
	for range 3 {
		m.relay.flight = first
		if err := m.relay.send(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	m.herd.Observe(m.at("w@0.service", "deactivating", "stop-sigterm", 2))
	if err := m.relay.flush(ctx, false); err != nil {
		t.Fatal(err)
	}
	m.relay.flight = first // from the grave
	if err := m.relay.send(ctx, nil); err != nil {
		t.Fatal(err)
	}
	want := []entry{{1, 1, "host", "online", 0}, {1, 2, "unit", "failed", 0}, {1, 3, "unit", "running", 1}, {1, 4, "unit", "stopping", 1}}
	if diff := cmp.Diff(want, events(t, c)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if u := units(t, c)["w@0.service"]; u.Sub != "stop-sigterm" {
		t.Errorf("the late batch set back the unit: %+v", u)
	}
}

func fences(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	older := newMonitor(t, d, bootA, 5)
	older.herd.Sync([]state.Observation{older.at("w@0.service", "active", "running", 1)}, "connected")
	older.run()
	older.drained()
	newer := newMonitor(t, d, bootA, 6)
	newer.herd.Sync([]state.Observation{newer.at("w@0.service", "active", "running", 1)}, "connected")
	newer.run()
	newer.drained()

	older.crash("w@0.service", 1)
	eventually(t, "the older knows", func() bool { return errors.Is(older.relay.Ready(), ErrFenced) })
	newer.crash("w@0.service", 1)
	newer.drained()
	older.stop()
	all := events(t, c)
	inOrder(t, all)
	for i, e := range all {
		if i > 0 && e.Epoch < all[i-1].Epoch {
			t.Errorf("the older wrote after the newer: %+v", all)
		}
	}
	if !older.relay.Stats().Fenced || newer.relay.Stats().Fenced {
		t.Errorf("fenced are %v and %v", older.relay.Stats().Fenced, newer.relay.Stats().Fenced)
	}
	if n := c.Exists(t.Context(), "gpuherd:{box}:heartbeat").Val(); n != 1 {
		t.Error("the older took the newer's heartbeat away")
	}
}

// A server that comes back empty lacks what it had confirmed.
func forgets(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	m := newMonitor(t, d, bootA, 1)
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	m.run()
	m.crash("w@0.service", 1)
	m.drained()
	had := m.herd.Seq()
	empty(t, c)
	m.crash("w@0.service", 2)
	eventually(t, "the state is told again", func() bool { return units(t, c)["w@0.service"].Restarts == 2 })
	m.drained()
	all := events(t, c)
	inOrder(t, all)
	want := []entry{
		{1, had, "gap", "redis-lost-writes " + strconv.FormatUint(had, 10), 0},
		{1, had + 1, "unit", "failed", 1},
		{1, had + 2, "unit", "running", 2},
		{1, had + 3, "snapshot", "redis-lost-writes", 0},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// What a stranger deletes, and what was left behind, is mended by the next
// snapshot.
func comesBack(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	m := newMonitor(t, d, bootA, 1, func(c *Config) { c.Reassert = 200 * time.Millisecond })
	m.herd.SetGPUs([]state.GPU{{Index: 0, UUID: "GPU-0"}})
	m.herd.Sync([]state.Observation{m.at("w@0.service", "active", "running", 1)}, "connected")
	m.run()
	m.drained()
	c.Del(t.Context(), "gpuherd:{box}:units", "gpuherd:{box}:gpus")
	eventually(t, "units and GPUs are back", func() bool {
		return c.HExists(t.Context(), "gpuherd:{box}:units", "w@0.service").Val() && c.HExists(t.Context(), "gpuherd:{box}:gpus", "0").Val()
	})
	c.HSet(t.Context(), "gpuherd:{box}:units", "stranger.service", "{}")
	eventually(t, "the stranger is gone", func() bool { return !c.HExists(t.Context(), "gpuherd:{box}:units", "stranger.service").Val() })
	m.herd.Sync(nil, "reload")
	eventually(t, "the unit is gone", func() bool { return c.Exists(t.Context(), "gpuherd:{box}:units").Val() == 0 })

	// Of the stream, and of what fences, the loss is told.
	for _, key := range []string{"gpuherd:{box}:events", "gpuherd:{box}:fence"} {
		before := m.relay.Stats().Errors[reasonLost]
		c.Del(t.Context(), key)
		eventually(t, key+" is missed", func() bool { return m.relay.Stats().Errors[reasonLost] > before && m.relay.Ready() == nil })
	}
	m.stop()
	all := events(t, c)
	inOrder(t, all)
	if all[0].Type != state.TypeGap || all[0].Seq != all[0].lost()+1 {
		t.Errorf("the stream begins with %+v", all[0])
	}
	for _, e := range all[1:] {
		if e.Type == state.TypeGap {
			t.Errorf("with the stream intact nothing was lost, but there is %+v", e)
		}
	}
}

// Names with all that systemd allows in them, and texts with all that nobody
// should send, arrive as JSON that says the same.
func hostile(t *testing.T, d *redistest.Deployment) {
	c := d.Admin(t)
	sub := c.Subscribe(t.Context(), "gpuherd:{box}:notify")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := newMonitor(t, d, bootA, 1)
	texts := []string{
		strings.Repeat("x", 64<<10), strings.Repeat("\xff\xfe", 32<<10), "\"}{'\\\r\n\t\x00\u2028</script>%s%!d{{}}", "job \x7f\x1b[31m, attempt 1 of 3",
	}
	var herd []state.Observation
	for i, name := range []string{
		`ABCXYZabcxyz0123456789:-_.\@.service`, `w@a\x2db\x5c\x7b:0-1.2.service`, "-.service", "@.service", "w@.service", `w@\.service`, "w@0@1.service",
		"w@99999999999999999999:1.2.service", strings.Repeat("n", 247) + ".service", "w@" + strings.Repeat("9", 246) + ".service",
	} {
		o := m.at(name, "active", "running", 1)
		o.StatusText, o.Result = texts[i%len(texts)], "success"
		herd = append(herd, o)
	}
	m.herd.Sync(herd, "connected")
	m.run()
	m.drained()
	for _, o := range herd {
		m.crash(o.Name, 1)
		again := m.at(o.Name, "active", "running", 2)
		again.StatusText = o.StatusText
		m.herd.Observe(again)
	}
	m.drained()
	eventually(t, "all texts are there", func() bool {
		for _, u := range units(t, c) {
			if u.StatusText == "" {
				return false
			}
		}
		return true
	})
	want := map[string]state.Unit{}
	for _, u := range m.herd.Units() {
		want[u.Name] = u
	}
	if diff := cmp.Diff(want, units(t, c)); diff != "" {
		t.Errorf("units in Redis (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	heard := map[string]int{}
	for last := herd[len(herd)-1].Name; heard[last] < 2; {
		msg, err := sub.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Type string
			Data state.UnitEvent
		}
		if err := json.Unmarshal([]byte(msg.Payload), &e); err != nil {
			t.Fatalf("message %.200q: %v", msg.Payload, err)
		}
		if e.Type == state.TypeUnit {
			heard[e.Data.Name]++
		}
	}
	for name := range want {
		if heard[name] != 2 {
			t.Errorf("of %q there were %d messages", name, heard[name])
		}
	}
	inOrder(t, events(t, c))
}
