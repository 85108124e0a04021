package redisworker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/units/queue"
)

// A progress is what a job tells, and when.
type progress struct {
	at   time.Duration
	text string
}

// each has the job tell the texts, one after the other, beginning at once.
func each(d time.Duration, texts ...string) (all []progress) {
	for i, text := range texts {
		all = append(all, progress{time.Duration(i) * d, text})
	}
	return all
}

// keepFor keeps a lease for so long, and returns the renewals that Redis was
// asked for, each as "1s: PROGRESS". says, unless nil, is how Redis answers them.
func keepFor(t *testing.T, lasts, d time.Duration, job []progress, says func(at time.Duration) error) (asked []string, l *lease) {
	t.Helper()
	begun := time.Now()
	l = newLease(lasts, func(ctx context.Context, progress string) error {
		at := time.Since(begun)
		asked = append(asked, strings.TrimSpace(fmt.Sprintf("%v: %s", at, progress)))
		if says == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		return says(at)
	}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(ctx)
	}()
	for _, p := range job {
		time.Sleep(time.Until(begun.Add(p.at)))
		l.tell(p.text)
	}
	time.Sleep(time.Until(begun.Add(d)))
	synctest.Wait()
	cancel()
	<-kept
	return asked, l
}

func TestLeaseTellsProgress(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		job  []progress
		ends time.Duration
		want []string
	}{
		"ends before": {each(time.Millisecond, "1", "2"), 99 * time.Millisecond, nil},
		"none":        {nil, 16 * time.Second, []string{"5s:", "10s:", "15s:"}},
		"once":        {[]progress{{200 * time.Millisecond, "10"}}, 11 * time.Second, []string{"200ms: 10", "5.2s:", "10.2s:"}},
		"the same again": {
			each(300*time.Millisecond, "10", "10", "10", "10", "10", "10", "10", "10", "10"), 6 * time.Second,
			[]string{"100ms: 10", "5.1s:"},
		},
		"faster than it is told": {
			each(310*time.Millisecond, "1", "2", "3", "4", "5", "6", "7", "8", "9"), 9 * time.Second,
			[]string{"100ms: 1", "1.1s: 4", "2.1s: 7", "3.1s: 9", "8.1s:"},
		},
		"slowly": {each(3*time.Second, "1", "2", "3"), 12 * time.Second, []string{"100ms: 1", "3s: 2", "6s: 3", "11s:"}},
		"back to what was told": {
			[]progress{{0, "1"}, {300 * time.Millisecond, "2"}, {600 * time.Millisecond, "1"}}, 5 * time.Second,
			[]string{"100ms: 1", "1.1s:"},
		},
		"when a renewal is due": {
			[]progress{{4500 * time.Millisecond, "1"}, {4900 * time.Millisecond, "2"}}, 6 * time.Second,
			[]string{"4.5s: 1", "5.5s: 2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked, _ := keepFor(t, 30*time.Second, tc.ends, tc.job, nil)
				if diff := cmp.Diff(tc.want, asked); diff != "" {
					t.Errorf("renewals (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestProgressDoesNotHurry: while Redis is away no progress brings a try
// forward, and the last one is told once it is back.
func TestProgressDoesNotHurry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const back = 10 * time.Second
		away := 0
		asked, l := keepFor(t, 30*time.Second, 20*time.Second, each(100*time.Millisecond, strings.Split("abcdefghijklmnopqrstuvwxyz", "")...), func(at time.Duration) error {
			if at < back {
				away++
				return errors.New("it is away")
			}
			return nil
		})
		// From 250 ms on twice as long each time, up to 5 s, less a random half.
		if away < 6 || away > 10 {
			t.Errorf("%d tries: %v", away, asked)
		}
		if !strings.HasSuffix(asked[away], ": z") || !strings.HasSuffix(asked[away+1], ":") || l.away.Load() != nil {
			t.Errorf("after %d tries: %v", away, asked)
		}
	})
}

// TestProgressDoesNotDelay: a short lease is renewed in time whatever the job
// tells.
func TestProgressDoesNotDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, _ := keepFor(t, 600*time.Millisecond, 350*time.Millisecond, each(35*time.Millisecond, strings.Split("abcdefghi", "")...), nil)
		if diff := cmp.Diff([]string{"100ms: c", "200ms: f", "300ms: i"}, asked); diff != "" {
			t.Errorf("renewals (-want +got):\n%s", diff)
		}
	})
}

func TestProgressOfALostLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, l := keepFor(t, 30*time.Second, time.Minute, each(2*time.Second, "1", "2", "3"), func(at time.Duration) error {
			if at >= 2*time.Second {
				return fmt.Errorf("cannot renew: %w", queue.ErrLost)
			}
			return nil
		})
		if diff := cmp.Diff([]string{"100ms: 1", "2s: 2"}, asked); diff != "" {
			t.Errorf("renewals (-want +got):\n%s", diff)
		}
		select {
		case <-l.lost:
		default:
			t.Error("nobody is told")
		}
	})
}
