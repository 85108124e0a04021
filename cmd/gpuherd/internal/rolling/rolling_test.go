package rolling

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

// A fake is a herd whose units take a second to restart.
type fake struct {
	fails  map[string]bool          // units whose restart fails
	dies   map[string]time.Duration // units that crash so long after their restart, and are started again
	broken error                    // of States

	mu     sync.Mutex
	states map[string]State
	starts int
	order  []string
	down   int // units under way
	most   int
	idle   map[string]bool // services that were seen without a worker
}

func newFake(states map[string]string) *fake {
	f := &fake{states: map[string]State{}, fails: map[string]bool{}, dies: map[string]time.Duration{}, idle: map[string]bool{}}
	for unit, active := range states {
		active, sub, _ := strings.Cut(active, "/")
		f.states[unit] = State{Active: active, Sub: sub, Invocation: "first"}
	}
	return f
}

func (f *fake) States(context.Context) (map[string]State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.states), f.broken
}

func (f *fake) set(unit string, s State) {
	f.states[unit] = s
	up := map[string]bool{}
	for unit, s := range f.states {
		name, _, _ := strings.Cut(unit, "@")
		up[name] = up[name] || s.up()
	}
	for name, is := range up {
		if !is {
			f.idle[name] = true
		}
	}
}

func (f *fake) Restart(_ context.Context, unit string) jobs.Outcome {
	f.mu.Lock()
	f.order = append(f.order, unit)
	f.down++
	f.most = max(f.most, f.down)
	f.set(unit, State{Active: "deactivating"})
	f.mu.Unlock()

	time.Sleep(time.Second)

	f.mu.Lock()
	defer f.mu.Unlock()
	f.down--
	f.starts++
	if f.fails[unit] {
		f.set(unit, State{Active: "failed", Sub: "failed"})
		return jobs.Outcome{Unit: unit, Verb: jobs.Reload, Result: jobs.Failed}
	}
	s := State{Active: "active", Sub: "running", Invocation: strconv.Itoa(f.starts)}
	f.set(unit, s)
	if after, ok := f.dies[unit]; ok {
		time.AfterFunc(after, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			s.Invocation += "again"
			f.set(unit, s)
		})
	}
	return jobs.Outcome{Unit: unit, Verb: jobs.Reload, Result: jobs.Done, OK: true}
}

func workers(n int) map[string]string {
	states := map[string]string{}
	for i := range n {
		states[worker(i)] = "active/running"
	}
	return states
}

func worker(i int) string { return fmt.Sprintf("w@%d.service", i) }

func TestRun(t *testing.T) {
	t.Parallel()
	with := func(states map[string]string, more map[string]string) map[string]string {
		maps.Copy(states, more)
		return states
	}
	for _, tc := range []struct {
		name   string
		states map[string]string
		units  []string // of states; nil: all, sorted
		most   int
		fails  []string
		dies   map[string]time.Duration
		want   []string // results, in the order of units
		order  []string // of restarts
		down   int      // the most that were down at once
		idle   bool     // a service was without a worker
	}{
		{name: "one after the other", states: workers(3), most: 1, want: []string{"done", "done", "done"}, order: []string{worker(0), worker(1), worker(2)}, down: 1},
		{name: "two at once", states: workers(4), most: 2, want: []string{"done", "done", "done", "done"}, down: 2},
		{name: "never all of a service", states: workers(3), most: 8, want: []string{"done", "done", "done"}, down: 2},
		{name: "all of its service that there is", states: workers(1), most: 1, want: []string{"done"}, down: 1, idle: true},
		{
			name: "services apart", states: map[string]string{"a@0.service": "active", "b@0.service": "active"},
			most: 8, want: []string{"done", "done"}, down: 2, idle: true,
		},
		{name: "the first failure ends it", states: workers(4), most: 1, fails: []string{worker(1)}, want: []string{"done", "failed", "untouched", "untouched"}, order: []string{worker(0), worker(1)}, down: 1},
		{name: "what is under way is waited for", states: workers(4), most: 2, fails: []string{worker(0)}, want: []string{"failed", "done", "untouched", "untouched"}, down: 2},
		{name: "what is down comes first", states: with(workers(2), map[string]string{worker(2): "failed/failed"}), most: 1, want: []string{"done", "done", "done"}, order: []string{worker(2), worker(0), worker(1)}, down: 1},
		{name: "what crashes comes first, and fails", states: with(workers(2), map[string]string{worker(2): "activating/auto-restart"}), most: 1, fails: []string{worker(2)}, want: []string{"untouched", "untouched", "failed"}, order: []string{worker(2)}, down: 1},
		{name: "what is off stays off", states: with(workers(2), map[string]string{worker(2): "inactive/dead"}), most: 1, want: []string{"done", "done", "off"}, down: 1},
		{
			name: "the only one that is up", states: map[string]string{worker(0): "active/running", worker(1): "failed/failed"},
			units: []string{worker(0)}, most: 1, want: []string{"lonely"},
		},
		{
			name: "it does not stay up", states: workers(3), most: 1, dies: map[string]time.Duration{worker(1): 400 * time.Millisecond},
			want: []string{"done", "unstable", "untouched"}, order: []string{worker(0), worker(1)}, down: 1,
		},
		{
			name: "it dies while a later one is restarted", states: workers(4), most: 1, dies: map[string]time.Duration{worker(0): 1500 * time.Millisecond},
			want: []string{"unstable", "done", "untouched", "untouched"}, order: []string{worker(0), worker(1)}, down: 1,
		},
		{
			name: "it dies while the last one is restarted", states: workers(2), most: 1, dies: map[string]time.Duration{worker(0): 1500 * time.Millisecond},
			want: []string{"unstable", "done"}, down: 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(tc.states)
				for _, unit := range tc.fails {
					f.fails[unit] = true
				}
				f.dies = tc.dies
				units := tc.units
				if units == nil {
					units = slices.Sorted(maps.Keys(tc.states))
				}
				ends := map[string]string{}
				outcomes := Run(t.Context(), f, units, Options{MaxUnavailable: tc.most, Settle: time.Second}, func(o jobs.Outcome) { ends[o.Unit] = o.Result })
				var got []string
				for i, o := range outcomes {
					got = append(got, o.Result)
					if o.Unit != units[i] || ends[o.Unit] != o.Result || o.OK != (o.Result == "done" || o.Result == "off") {
						t.Errorf("%d: %+v, told as %s", i, o, ends[o.Unit])
					}
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if tc.order != nil {
					if diff := cmp.Diff(tc.order, f.order); diff != "" {
						t.Errorf("restarts (-want +got):\n%s", diff)
					}
				}
				if f.most != tc.down {
					t.Errorf("%d were down at once, want %d", f.most, tc.down)
				}
				if (len(f.idle) > 0) != tc.idle {
					t.Errorf("services without a worker: %v", f.idle)
				}
			})
		})
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(workers(3))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(1500*time.Millisecond, cancel) // the first one settles
		var got []string
		for _, o := range Run(ctx, f, []string{worker(0), worker(1), worker(2)}, Options{MaxUnavailable: 1, Settle: time.Second}, nil) {
			got = append(got, o.Result)
		}
		if diff := cmp.Diff([]string{"done", "untouched", "untouched"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestHerdNotToBeSeen(t *testing.T) {
	t.Parallel()
	f := newFake(workers(2))
	f.broken = errors.New("no bus")
	for _, o := range Run(t.Context(), f, []string{worker(0), worker(1)}, Options{MaxUnavailable: 1}, nil) {
		if o.OK || o.Result != jobs.Untouched || o.Error != "no bus" {
			t.Errorf("%+v", o)
		}
	}
	if len(f.order) > 0 {
		t.Errorf("restarted without being seen: %v", f.order)
	}
}
