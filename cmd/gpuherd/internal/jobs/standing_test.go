package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRunTellsWhereUnitsStand has one job end after 9.5 seconds, in which the
// unit says one thing and then another.
func TestRunTellsWhereUnitsStand(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		before, after fakeUnit // until 2.5 s, and from then on
		end           fakeUnit
		within        time.Duration // of the wait; 0: for as long as it takes
		want          []string      // where it stands, each told once
		text          string        // of the outcome
	}{
		"waits": {
			before: fakeUnit{active: "activating", result: "success", says: "waiting for Redis"},
			after:  fakeUnit{active: "activating", result: "success", says: "Redis refuses"},
			end:    fakeUnit{job: "done", active: "active", sub: "running", result: "success", says: "idle"},
			want:   []string{"not ready yet: waiting for Redis", "not ready yet: Redis refuses"},
			text:   "restarted in 9.5s",
		},
		"drains": {
			before: fakeUnit{active: "deactivating", result: "success", says: "job j"},
			after:  fakeUnit{active: "activating", result: "success"},
			end:    fakeUnit{job: "failed", active: "failed", sub: "failed", result: "exit-code", code: 1, status: 203},
			want:   []string{"not stopped yet: job j", "not ready yet"},
			text:   "failed to restart: exit-code, status 203", // what it said before it was stopped is not why
		},
		"fails and is started anew": {
			before: fakeUnit{active: "activating", sub: "auto-restart", result: "exit-code", code: 1, status: 78, says: "looking"},
			after:  fakeUnit{active: "activating", sub: "auto-restart", result: "signal", code: 2, status: 9},
			end:    fakeUnit{job: "failed", active: "activating", sub: "start", result: "success"},
			want:   []string{"not ready yet: exit-code, status 78; it said: looking", "not ready yet: signal 9"},
			text:   "failed to restart: it is activating/start; it said: looking", // systemd has forgotten it by now
		},
		"fails": {
			before: fakeUnit{active: "activating", result: "success", says: "loading"},
			after:  fakeUnit{active: "activating", result: "success", says: "loading"},
			end:    fakeUnit{job: "failed", active: "failed", sub: "failed", result: "timeout", says: "Redis refuses"},
			want:   []string{"not ready yet: loading"},
			text:   "failed to restart: timeout; it said: Redis refuses",
		},
		"is not started for another unit's sake": {
			before: fakeUnit{active: "inactive", result: "success", says: "job j"},
			after:  fakeUnit{active: "inactive", result: "success", says: "job j"},
			end:    fakeUnit{job: "dependency", active: "inactive", sub: "dead", result: "success", says: "job j"},
			text:   "failed to restart: a unit it needs failed",
		},
		"is not waited for": {
			before: fakeUnit{active: "activating", result: "success", says: "loading"},
			within: time.Second,
			text:   "not yet restarted: the time is up; it says: loading",
		},
		"is up before": {
			before: fakeUnit{active: "active", result: "success", says: "idle"},
			within: time.Second,
			text:   "not yet restarted: the time is up",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				bus := &slow{ends: make(chan string, 1), now: tc.before}
				defer time.AfterFunc(2500*time.Millisecond, func() { bus.become(tc.after) }).Stop()
				defer time.AfterFunc(9500*time.Millisecond, func() {
					bus.become(tc.end)
					bus.ends <- tc.end.job
				}).Stop()
				ctx := t.Context()
				if tc.within > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeoutCause(ctx, tc.within, errors.New("the time is up"))
					defer cancel()
				}
				var got []string
				looks := 0
				outcome := Run(ctx, bus, Restart, []string{"u"}, true, Listener{Standing: func(s Standing) {
					looks++
					if text := s.String(); s.Unit == "u" && (len(got) == 0 || got[len(got)-1] != text) {
						got = append(got, text)
					}
				}})[0]
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("where it stands (-want +got):\n%s", diff)
				}
				if len(tc.want) > 0 && looks != 8 { // from 2 s to 9 s
					t.Errorf("%d looks", looks)
				}
				if diff := cmp.Diff(tc.text, outcome.String()); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
			})
		})
	}
}
