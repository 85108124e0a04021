package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

// A scene is a Herd with its Backfill, and what is told.
type scene struct {
	t    *testing.T
	herd *state.Herd
	fill *Backfill
	log  bytes.Buffer

	mu   sync.Mutex
	told []string
	asks []uint64
}

// play makes a scene; the journal answers with the excerpts in turn, and with
// the last one for ever.
func play(t *testing.T, kept Since, journal ...Excerpt) *scene {
	s := &scene{t: t}
	s.herd = state.NewHerd(func(d state.Delta) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range d.Events {
			l := fmt.Sprintf("%d %s", e.Seq, e.Type)
			if u, ok := e.Data.(*state.UnitEvent); ok {
				l = fmt.Sprintf("%d %s %s restarts=%d", e.Seq, u.Event, u.InvocationID, u.Restarts)
				if u.Backfilled {
					l += " backfilled"
				}
				if u.Resynced {
					l += " resynced"
				}
			}
			s.told = append(s.told, l)
		}
	}, time.Now)
	s.fill = NewBackfill(s.herd, func(_ context.Context, monoUS uint64) Excerpt {
		s.asks = append(s.asks, monoUS)
		x := journal[0]
		if len(journal) > 1 {
			journal = journal[1:]
		}
		return x
	}, kept, slog.New(slog.NewTextHandler(&s.log, nil)))
	return s
}

func (s *scene) want(lines ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(lines, s.told); diff != "" {
		s.t.Errorf("told (-want +got):\n%s\n%s", diff, &s.log)
	}
}

const unit = "w.service"

func found(active, sub, invocation string, us uint64) state.Observation {
	return state.Observation{Name: unit, Active: active, Sub: sub, Result: "success", InvocationID: invocation, ChangedUS: us}
}

func seeds(restarts uint64, invocation, phase string) map[string]state.Seed {
	return map[string]state.Seed{unit: {Restarts: restarts, InvocationID: invocation, Phase: phase, SinceMS: 1}}
}

func record(kind Kind, invocation string, us int64) Record {
	return Record{Kind: kind, Unit: unit, Invocation: invocation, AtUS: us, MonoUS: uint64(us)}
}

// crash is a restart in the journal.
var crash = Excerpt{Records: []Record{record(Failed, "a", 11_000), record(Started, "b", 12_000)}}

func TestBackfill(t *testing.T) {
	t.Parallel()
	kept := Since{Seeds: seeds(5, "a", state.Running), MonoUS: 10_000_000}
	for _, tt := range []struct {
		name    string
		kept    Since
		redis   map[string]state.Seed
		journal []Excerpt
		asks    int
		want    []string
		says    string
	}{
		{"what Redis was told counts", kept, seeds(7, "a", state.Running), []Excerpt{crash}, 1,
			[]string{"2 failed a restarts=7 backfilled", "3 running b restarts=8 backfilled"}, "records=2 phases=2"},
		{"Redis has lost it", kept, nil, []Excerpt{crash}, 1,
			[]string{"2 failed a restarts=5 backfilled", "3 running b restarts=6 backfilled"}, ""},
		{"nothing was kept", Since{}, seeds(7, "a", state.Running), []Excerpt{crash}, 1,
			[]string{"2 failed a restarts=7 backfilled", "3 running b restarts=8 backfilled"}, ""},
		{"the first monitor", Since{}, nil, []Excerpt{crash}, 0, nil, ""},
		{"all was told", kept, seeds(7, "b", state.Running), []Excerpt{crash}, 0, nil, ""},
		{"the journal comes late", kept, nil, []Excerpt{{}, {Records: crash.Records[:1]}, crash}, 3,
			[]string{"2 failed a restarts=5 backfilled", "3 running b restarts=6 backfilled"}, ""},
		{"the journal cannot be read", kept, nil, []Excerpt{{Short: errors.New("no permission")}}, 1,
			[]string{"2 running b restarts=6 resynced"}, "no permission"},
		{"the journal does not reach back", kept, nil, []Excerpt{{Records: crash.Records[1:], Short: errors.New("rotated")}}, 1,
			[]string{"2 running b restarts=6 backfilled resynced"}, "rotated"},
		{"the journal does not know it", kept, nil, []Excerpt{{}}, rereads,
			[]string{"2 running b restarts=6 resynced"}, "units=[w.service]"},
		{"it can be read once only", kept, nil, []Excerpt{{Records: crash.Records[:1]}, {Short: errors.New("hangs")}}, 2,
			[]string{"2 failed a restarts=5 backfilled", "3 running b restarts=6 resynced"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := play(t, tt.kept, tt.journal...)
			s.fill.Seed(tt.redis)
			s.fill.Host(state.HostEvent{Event: "online"})
			s.fill.Resync(tt.redis)
			s.want("1 host")
			if s.fill.Synced() {
				t.Error("the herd counts as known")
			}
			stop := s.run()
			s.herd.Sync([]state.Observation{found("active", "running", "b", 12_000)}, "connected")
			s.speaks()
			stop()
			s.want(append([]string{"1 host"}, tt.want...)...)
			if len(s.asks) != tt.asks {
				t.Errorf("read %d times, want %d", len(s.asks), tt.asks)
			}
			for _, from := range s.asks {
				if tt.kept.Seeds != nil && from != tt.kept.MonoUS {
					t.Errorf("read from %d µs, want what was kept", from)
				}
			}
			if !strings.Contains(s.log.String(), tt.says) {
				t.Errorf("the log does not say %q:\n%s", tt.says, &s.log)
			}
			// From now on it is the herd's own.
			s.told = nil
			s.fill.Seed(nil)
			s.fill.Resync(nil)
			s.herd.Observe(found("failed", "failed", "b", 20_000))
			if len(s.told) != 1 || !strings.Contains(s.told[0], " failed b restarts=") || strings.Contains(s.told[0], "backfilled") {
				t.Errorf("later it tells %q", s.told)
			}
		})
	}
}

// Where Redis is not heard of, what was kept has to do; when it is, what it
// has is only compared.
func TestBackfillWithoutRedis(t *testing.T) {
	t.Parallel()
	s := play(t, Since{Seeds: seeds(5, "a", state.Running), MonoUS: 10}, crash)
	s.fill.patience = time.Millisecond
	s.herd.Sync([]state.Observation{found("active", "running", "b", 12_000)}, "connected")
	defer s.run()()
	s.speaks()
	s.want("1 failed a restarts=5 backfilled", "2 running b restarts=6 backfilled")
	if raised := s.fill.Seed(seeds(9, "a", state.Running))[unit]; raised != 4 {
		t.Errorf("raised by %d, want 4", raised)
	}
	s.fill.Resync(seeds(9, "a", state.Running))
	s.want("1 failed a restarts=5 backfilled", "2 running b restarts=6 backfilled")
}

// Where Redis answers while the journal is read for what was kept, what it
// says counts.
func TestBackfillRedisComesMeanwhile(t *testing.T) {
	t.Parallel()
	s := play(t, Since{Seeds: seeds(5, "a", state.Running), MonoUS: 10}, crash)
	s.fill.patience = 0
	read := s.fill.read
	s.fill.read = func(ctx context.Context, monoUS uint64) Excerpt {
		if len(s.asks) == 0 {
			s.fill.Seed(seeds(9, "b", state.Running))
			s.fill.Resync(seeds(9, "b", state.Running))
		}
		return read(ctx, monoUS)
	}
	s.herd.Sync([]state.Observation{found("failed", "failed", "b", 12_500)}, "connected")
	defer s.run()()
	s.speaks()
	s.want("1 failed b restarts=9 resynced")
}

// What is missed while it runs, as in a reload of systemd, is read back, too.
func TestBackfillLater(t *testing.T) {
	t.Parallel()
	s := play(t, Since{}, crash)
	defer s.run()()
	s.fill.Seed(nil)
	s.herd.Sync([]state.Observation{found("active", "running", "a", 1_000)}, "connected")
	s.speaks()
	s.herd.Lost(time.Now().UnixMicro() - 5_000_000)
	if s.fill.Synced() {
		t.Error("the herd counts as known")
	}
	s.herd.Sync([]state.Observation{found("active", "running", "b", 12_000)}, "reload")
	s.speaks()
	s.want("1 failed a restarts=0 backfilled", "2 running b restarts=1 backfilled")
	if ago := Monotonic() - s.asks[0]; len(s.asks) != 1 || ago < 5_000_000 || ago > 60_000_000 {
		t.Errorf("read %d times, from %d µs ago, want 5 s", len(s.asks), ago)
	}
	// Where nothing changed there is nothing to read.
	s.herd.Lost(time.Now().UnixMicro())
	s.herd.Sync([]state.Observation{found("active", "running", "b", 12_000)}, "reload")
	s.speaks()
	if len(s.asks) != 1 {
		t.Error("the journal is read though nothing changed")
	}
}

// Changes that are lost again while the journal is read are read, too.
func TestBackfillLostMeanwhile(t *testing.T) {
	t.Parallel()
	more := Excerpt{Records: append(crash.Records[:2:2], record(Failed, "b", 13_000), record(Started, "c", 14_000))}
	s := play(t, Since{}, crash, more)
	read := s.fill.read
	s.fill.read = func(ctx context.Context, monoUS uint64) Excerpt {
		x := read(ctx, monoUS)
		if len(s.asks) == 1 {
			s.herd.Lost(1)
			s.herd.Sync([]state.Observation{found("active", "running", "c", 14_000)}, "reload")
		}
		return x
	}
	s.fill.Seed(seeds(5, "a", state.Running))
	s.herd.Sync([]state.Observation{found("active", "running", "b", 12_000)}, "connected")
	defer s.run()()
	s.speaks()
	s.want("1 failed a restarts=5 backfilled", "2 running b restarts=6 backfilled", "3 failed b restarts=6 backfilled", "4 running c restarts=7 backfilled")
}

// Told to stop, it waits for nothing.
func TestBackfillStops(t *testing.T) {
	t.Parallel()
	s := play(t, Since{Seeds: seeds(5, "a", state.Running)}, Excerpt{})
	s.run()()
	s.want()
}

// run runs the Backfill until the function it returns is called.
func (s *scene) run() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error)
	go func() { done <- s.fill.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

// speaks waits until the Herd does.
func (s *scene) speaks() {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !s.fill.Synced(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("the herd does not speak")
		}
	}
}

func TestLastChange(t *testing.T) {
	t.Parallel()
	now := Monotonic()
	for _, tt := range []struct {
		since int64
		want  uint64
	}{
		{time.Now().Add(-2 * time.Second).UnixMilli(), now - 2_000_000},
		{time.Now().Add(time.Hour).UnixMilli(), now}, // the clock was set back
		{1, 0},
	} {
		got := lastChange(map[string]state.Seed{"a": {SinceMS: tt.since}, "b": {SinceMS: 1}})
		if diff := max(got, tt.want) - min(got, tt.want); diff > 1_000_000 {
			t.Errorf("since %d: %d µs, want %d", tt.since, got, tt.want)
		}
	}
}
