package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder notes what a Watcher hands on, one line each.
type recorder struct {
	lines chan string
	lost  *bool // since the last Sync; more than once says no more
}

func (r recorder) Observe(o state.Observation) {
	r.lines <- fmt.Sprintf("%s %s/%s %s", o.Name, o.Active, o.Sub, o.StatusText)
}

func (r recorder) Lost(int64) {
	if !*r.lost {
		*r.lost = true
		r.lines <- "lost"
	}
}

func (r recorder) Sync(herd []state.Observation, reason string) {
	*r.lost = false
	line := "sync " + reason
	for _, o := range herd {
		line += fmt.Sprintf(" %s=%s", o.Name, o.Sub)
	}
	r.lines <- line
}

func (r recorder) next(t *testing.T) string {
	t.Helper()
	select {
	case l := <-r.lines:
		return l
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was handed on")
		return ""
	}
}

// skipTo reads on to a line that ends so.
func (r recorder) skipTo(t *testing.T, end string) {
	t.Helper()
	for l := ""; !strings.HasSuffix(l, end); {
		l = r.next(t)
	}
}

func (r recorder) want(t *testing.T, lines ...string) {
	t.Helper()
	var got []string
	for range lines {
		got = append(got, r.next(t))
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Fatalf("handed on (-want +got):\n%s", diff)
	}
}

// watch runs a Watcher on s until the test ends.
func watch(t *testing.T, s *bustest.Systemd, opts ...bus.Option) (recorder, *bus.Watcher) {
	t.Helper()
	r := recorder{make(chan string, 10000), new(bool)}
	w := bus.NewWatcher(slog.New(slog.DiscardHandler), r, nil, append(opts, bus.WithAddress(s.Address))...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run does not end")
		}
	})
	return r, w
}

// at returns a unit in a state, changed at time n by its nth invocation.
func at(name, active, sub string, n, invocation int) state.Observation {
	return state.Observation{Name: name, Active: active, Sub: sub, Result: "success", InvocationID: bustest.Invocation(invocation),
		MainPID: uint32(1000 + invocation), ChangedMonoUS: uint64(n), ChangedUS: 1_700_000_000_000_000 + uint64(n)}
}

func TestEveryChangeOnceInOrder(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, w := watch(t, s)
	r.want(t, "sync connected w@0.service=running")

	const rounds = 500
	var want []string
	for i := range rounds {
		n, inv := 10*i+2, i+1
		for _, o := range []state.Observation{
			at("w@0.service", "failed", "failed", n, inv),
			at("w@0.service", "activating", "auto-restart", n+1, inv),
			at("w@0.service", "activating", "auto-restart", n+1, inv), // its job
			at("w@0.service", "inactive", "dead", n+2, inv+1),         // stale
			at("w@0.service", "active", "running", n+3, inv+1),
			at("w@0.service", "active", "running", n+3, inv+1), // its job is done
		} {
			s.Announce(o)
		}
		want = append(want, "w@0.service failed/failed ", "w@0.service activating/auto-restart ", "w@0.service active/running ")
	}
	r.want(t, want...)
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
	// The last signal of all tells nothing, so nobody waited for it yet.
	until(t, "the last signal is read", func() bool { return w.Stats().Duplicates >= 3*rounds })
	if got := w.Stats(); got.Changes != 3*rounds || got.Duplicates != 3*rounds || got.Connections != 1 {
		t.Errorf("stats are %+v", got)
	}
	if s.Asked() != 1 {
		t.Errorf("a unit was asked for %d times, want once", s.Asked())
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	o := at("w@0.service", "active", "running", 1, 1)
	s := bustest.Start(t, o)
	r, _ := watch(t, s)
	r.want(t, "sync connected w@0.service=running")
	o.StatusText = "job-1 50%"
	s.Announce(o)
	s.Announce(o)
	o.StatusText = "idle"
	s.Announce(o)
	r.want(t, "w@0.service active/running job-1 50%", "w@0.service active/running idle")
}

func TestReload(t *testing.T) {
	t.Parallel()
	w0 := at("w@0.service", "active", "running", 1, 1)
	s := bustest.Start(t, w0, at("old.service", "active", "running", 1, 3))
	r, _ := watch(t, s)
	r.want(t, "sync connected old.service=running w@0.service=running")
	s.Reload(func() {
		// Units come and go: none of it means anything.
		s.Signal(at("w@0.service", "inactive", "dead", 0, 0))
		s.Want("w@0.service", "w@1.service", "no-file.service")
		s.Set(at("w@1.service", "inactive", "dead", 0, 0))
	})
	r.want(t, "lost", "sync reload w@0.service=running w@1.service=dead")
	s.Announce(w0) // says nothing new
	s.Announce(at("w@1.service", "active", "running", 9, 7))
	s.Announce(at("old.service", "failed", "failed", 10, 3)) // no longer ours
	s.Announce(at("w@0.service", "failed", "failed", 11, 1))
	r.want(t, "w@1.service active/running ", "w@0.service failed/failed ")
}

// What is signalled while a resync waits for its answers is neither lost nor
// told twice, also of a unit that the resync brings.
func TestChangesDuringResync(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, _ := watch(t, s)
	r.want(t, "sync connected w@0.service=running")
	release := s.Hold()
	s.Reload(func() {
		s.Want("w@0.service", "w@1.service")
		s.Set(at("w@1.service", "inactive", "dead", 0, 0))
	})
	for s.Asked() < 2 { // once for the first snapshot, then for this one
		time.Sleep(time.Millisecond)
	}
	s.Announce(at("w@0.service", "failed", "failed", 5, 1))
	s.Announce(at("w@1.service", "activating", "start", 6, 2))
	s.Announce(at("w@0.service", "active", "running", 7, 4))
	r.want(t, "lost", "w@0.service failed/failed ", "w@0.service active/running ")
	release()
	r.want(t, "sync reload w@0.service=running w@1.service=start")
	s.Announce(at("w@1.service", "active", "running", 8, 2))
	r.want(t, "w@1.service active/running ")
}

func TestReexec(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, _ := watch(t, s)
	r.want(t, "sync connected w@0.service=running")
	s.Leave()
	s.Set(at("w@0.service", "failed", "failed", 5, 1))
	s.Boot()
	r.want(t, "lost", "sync reexec w@0.service=failed")
	if !s.Subscribed() {
		t.Fatal("nobody subscribed again")
	}
	s.Announce(at("w@0.service", "active", "running", 9, 2))
	r.want(t, "w@0.service active/running ")
}

// A systemd that could not be subscribed to at once is so when it is asked
// again: else the monitor would hear nothing of it, and not know.
func TestReexecRefuses(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, _ := watch(t, s, bus.WithTimes(time.Hour, time.Hour, time.Minute, time.Millisecond))
	r.want(t, "sync connected w@0.service=running")
	s.Leave()
	s.Refuse()
	s.Boot()
	r.want(t, "lost", "sync retry w@0.service=running")
	if !s.Subscribed() {
		t.Fatal("nobody subscribed again")
	}
}

// A patient connection waits for a systemd that re-executes itself, with calls
// that were under way and with new ones; another one fails at once.
func TestPatience(t *testing.T) {
	t.Parallel()
	for _, patient := range []bool{true, false} {
		s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
		opts := []bus.Option{bus.WithAddress(s.Address)}
		if patient {
			opts = append(opts, bus.WithPatience(time.Minute))
		}
		conn, err := bus.Dial(t.Context(), opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		release := s.Hold()
		asked := make(chan error, 1)
		go func() {
			_, err := conn.Observe(t.Context(), []string{"w@0.service"})
			asked <- err
		}()
		until(t, "the unit is asked for", func() bool { return s.Asked() == 1 })
		s.Leave()
		if !patient {
			if err := <-asked; err == nil {
				t.Error("systemd went away, but that is no error")
			}
			if _, err := conn.Herd(t.Context()); err == nil {
				t.Error("systemd is away, but that is no error")
			}
			release()
			continue
		}
		s.Boot()
		release()
		if err := <-asked; err != nil {
			t.Errorf("it did not wait for systemd: %v", err)
		}
		if herd, err := conn.Herd(t.Context()); err != nil || len(herd) != 1 {
			t.Errorf("afterwards it says %v: %v", herd, err)
		}
	}
	// Not for ever.
	s := bustest.Start(t)
	conn, err := bus.Dial(t.Context(), bus.WithAddress(s.Address), bus.WithPatience(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.Leave()
	if _, err := conn.Herd(t.Context()); err == nil {
		t.Error("systemd is gone, but that is no error")
	}
}

func TestBusRestart(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, w := watch(t, s)
	r.want(t, "sync connected w@0.service=running")
	s.StopBus()
	for w.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	s.Set(at("w@0.service", "failed", "failed", 5, 1))
	s.StartBus()
	r.want(t, "lost", "sync connected w@0.service=failed")
	s.Announce(at("w@0.service", "active", "running", 9, 2))
	r.want(t, "w@0.service active/running ")
	if n := w.Stats().Connections; n != 2 {
		t.Errorf("connected %d times, want twice", n)
	}
}

// A subscription that systemd lost is found out, and what was missed is read.
func TestSubscriptionLost(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, w := watch(t, s, bus.WithTimes(20*time.Millisecond, time.Hour, 20*time.Second, time.Second))
	r.want(t, "sync connected w@0.service=running")
	s.Forget()
	s.Announce(at("w@0.service", "failed", "failed", 5, 1)) // to nobody
	r.want(t, "lost", "sync subscription-lost w@0.service=failed")
	if !s.Subscribed() {
		t.Error("nobody subscribed again")
	}
	s.Announce(at("w@0.service", "active", "running", 6, 2))
	r.want(t, "w@0.service active/running ")
	if n := w.Stats().Resyncs[bus.ReasonSubscription]; n != 1 {
		t.Errorf("%d resyncs for a lost subscription, want 1", n)
	}
}

// A reload that is not said to end does not make the monitor deaf.
func TestReloadWithoutEnd(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, _ := watch(t, s, bus.WithTimes(time.Hour, 50*time.Millisecond, 20*time.Second, time.Second))
	r.want(t, "sync connected w@0.service=running")
	s.Reloading()
	s.Set(at("w@0.service", "failed", "failed", 5, 1))
	r.want(t, "lost", "sync reload w@0.service=failed")
	s.Announce(at("w@0.service", "active", "running", 6, 2))
	r.want(t, "w@0.service active/running ")
}

// A systemd that does not answer keeps no call waiting for ever, nor the loop
// that reads signals: the herd is asked for again, in the end by another
// connection.
func TestSilentSystemd(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, w := watch(t, s, bus.WithTimes(time.Hour, time.Hour, 200*time.Millisecond, time.Millisecond))
	r.skipTo(t, " w@0.service=running") // a slow one is asked again
	release := s.Hold()
	s.Reload(func() {})
	s.Announce(at("w@0.service", "failed", "failed", 5, 1))
	r.want(t, "lost", "w@0.service failed/failed ")
	until(t, "it is asked again", func() bool { return w.Stats().Resyncs[bus.ReasonRetry] > 0 })
	until(t, "it dials again", func() bool { return w.Stats().Connections > 1 })
	release()
	r.skipTo(t, "sync connected w@0.service=failed")
}

// What one unit says does not keep others waiting, however much it is.
func TestStatusFlood(t *testing.T) {
	t.Parallel()
	const flood = 5_000
	chatter := at("chatter.service", "active", "running", 1, 1)
	s := bustest.Start(t, chatter, at("w@0.service", "active", "running", 1, 2))
	r, w := watch(t, s)
	r.want(t, "sync connected chatter.service=running w@0.service=running")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range flood {
			chatter.StatusText = fmt.Sprint(i)
			s.Announce(chatter)
		}
	}()
	s.Announce(at("w@0.service", "failed", "failed", 5, 2))
	said := 0
	for l := r.next(t); l != "w@0.service failed/failed "; l = r.next(t) {
		said++
	}
	if said == flood {
		t.Error("the failure came after all that the other said")
	}
	for l := r.next(t); l != fmt.Sprintf("chatter.service active/running %d", flood-1); l = r.next(t) {
		said++
	}
	<-done
	if got := w.Stats(); got.Connections != 1 {
		t.Errorf("stats are %+v", got)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	limit, used := uint64(2<<30), uint64(5<<20)
	o := at("redis-worker@0:1.2.service", "failed", "failed", 2500, 1)
	o.Result, o.MainPID, o.ExecMainCode, o.ExecMainStatus, o.NRestarts = "oom-kill", 0, 2, 9, 4
	o.MemoryMax, o.Memory, o.StatusText = &limit, &used, "job-1"
	s := bustest.Start(t, o, state.Observation{Name: "hello.service", Active: "inactive", Sub: "dead", Result: "success"})
	c, err := bus.Dial(t.Context(), bus.WithAddress(s.Address))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gpu := 0
	want := []state.Unit{
		{Name: "hello.service", Service: "hello", Active: "inactive", Sub: "dead", Result: "success"},
		{Name: "redis-worker@0:1.2.service", Service: "redis-worker", Instance: "0:1.2", GPU: &gpu, Active: "failed", Sub: "failed",
			Result: "oom-kill", Restarts: 4, InvocationID: bustest.Invocation(1), SinceMS: 1_700_000_000_002,
			ExitCode: "killed", ExitStatus: 9, StatusText: "job-1", MemoryBytes: &used, MemoryMaxBytes: &limit},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

func TestDialFails(t *testing.T) {
	t.Parallel()
	if _, err := bus.Dial(t.Context(), bus.WithAddress("unix:path=/nonexistent")); err == nil {
		t.Error("connected to a bus that is not there")
	}
}

func TestUnitPath(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"redis-worker@0.service":     "redis_2dworker_400_2eservice",
		"redis-worker@0:1.2.service": "redis_2dworker_400_3a1_2e2_2eservice",
		"9.service":                  "_39_2eservice",
		"":                           "_",
		"ä.service":                  "_c3_a4_2eservice",
	} {
		if got := string(bus.UnitPath(name)); got != "/org/freedesktop/systemd1/unit/"+want {
			t.Errorf("path of %q is %s, want …/%s", name, got, want)
		}
	}
}

// A bus that accepts and never answers must not hold anybody for ever.
func TestDialSilentBus(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := bus.Dial(ctx, bus.WithAddress("unix:path="+socket)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want that of the context", err)
	}
}
