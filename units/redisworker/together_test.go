package redisworker

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
)

func TestPace(t *testing.T) {
	t.Parallel()
	repeat := func(n int, took time.Duration) (all []time.Duration) {
		for range n {
			all = append(all, took)
		}
		return all
	}
	for _, tt := range []struct {
		name  string
		ran   []time.Duration // below 0: it failed
		most  int
		after int // one more that takes 2 ms
	}{
		{"nothing is known", nil, 1, 1},
		{"not for long", repeat(proven-1, time.Microsecond), 1, MostTogether},
		{"no time at all", repeat(proven, 0), MostTogether, MostTogether},
		{"2 ms", repeat(proven, 2*time.Millisecond), 5, 5},
		{"5 ms", repeat(proven, 5*time.Millisecond), 2, 2},
		{"a little more", repeat(10*proven, 5*time.Millisecond+1), 1, 1},
		{"one was long", append(repeat(proven, 1), time.Second), 1, 1},
		{"one failed", append(repeat(proven, 1), -1), 1, 1},
		{"and then none", append([]time.Duration{-1}, repeat(proven, 1)...), MostTogether, MostTogether},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var p pace
			for _, took := range tt.ran {
				if took < 0 {
					p.ran(Failed, time.Microsecond)
				} else {
					p.ran(Succeeded, took)
				}
			}
			before := p.most()
			if p.ran(Succeeded, 2*time.Millisecond); before != tt.most || p.most() != tt.after {
				t.Errorf("%d at once, then %d, want %d and %d", before, p.most(), tt.most, tt.after)
			}
		})
	}
}

// A runs notes which jobs were run.
type runs struct {
	mu  sync.Mutex
	ids map[string]int
}

func (r *runs) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		r.ids = map[string]int{}
	}
	r.ids[id]++
}

// quick is an Executor whose jobs take no time.
func (r *runs) quick() Executor {
	return script(func(_ context.Context, a Attempt, _ func(string)) Outcome {
		r.add(a.ID)
		return Outcome{Result: []byte("r")}
	})
}

func (r *runs) number() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ids)
}

func (r *runs) copied() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.ids)
}

// once wants that n jobs were run, each once, in one attempt.
func (f *fixture) once(r *runs, n int) {
	f.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids) != n {
		f.t.Errorf("%d jobs were run, of %d", len(r.ids), n)
	}
	for id, times := range r.ids {
		if record := f.record(id); times != 1 || record.State != queue.Succeeded || record.Attempts != 1 {
			f.t.Errorf("%s was run %d times: %+v", id, times, record)
		}
	}
}

func (f *fixture) addMany(n int) {
	f.t.Helper()
	for i := range n {
		f.add(strconv.Itoa(i))
	}
}

// scripts returns how many scripts Redis has run.
func (f *fixture) scripts() (calls int) {
	f.t.Helper()
	info, err := f.redis.InfoMap(f.ctx, "commandstats").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := fmt.Sscanf(info["Commandstats"]["cmdstat_evalsha"], "calls=%d,", &calls); err != nil {
		f.t.Fatal(err)
	}
	return calls
}

func TestShortJobsGoTogether(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	const jobs = 400
	f.addMany(jobs)
	before := f.scripts()
	var ran runs
	_, stop := f.start(Options{Consumer: "a", Executor: script(func(_ context.Context, a Attempt, _ func(string)) Outcome {
		ran.add(a.ID)
		return Outcome{Result: []byte(a.ID)}
	})})
	f.until("the end of all", func() bool { return ran.number() == jobs })
	f.until("their results", func() bool { return f.record(strconv.Itoa(jobs-1)).State == queue.Succeeded })
	if err := stop(); err != nil {
		t.Error(err)
	}
	// A loaded machine makes some of them long.
	if calls := f.scripts() - before; calls > jobs*3/4 {
		t.Errorf("%d scripts for %d jobs", calls, jobs)
	}
	f.once(&ran, jobs)
	if r := f.record("7").Result; r != "7" {
		t.Errorf("result %q", r)
	}
}

// blocks is an Executor whose jobs take no time, but for one of several that were
// claimed together: that one is told to begun, and ends with end.
func (f *fixture) blocks(ran *runs, begun chan<- string, end <-chan struct{}) Executor {
	blocked := false
	return script(func(ctx context.Context, a Attempt, _ func(string)) Outcome {
		ran.add(a.ID)
		if ran.number() > 2*proven && !blocked && len(f.running()) > 2 {
			blocked = true
			begun <- a.ID
			select {
			case <-end:
			case <-ctx.Done():
				return Outcome{Verdict: Stopped}
			}
		}
		return Outcome{Result: []byte("r")}
	})
}

// running returns the jobs of which Redis was told that they run.
func (f *fixture) running() (ids []string) {
	f.t.Helper()
	entries, err := f.redis.XPendingExt(f.ctx, &redis.XPendingExtArgs{Stream: f.queue.Key("jobs"), Group: queue.Group, Start: "-", End: "+", Count: 100}).Result()
	if err != nil {
		f.t.Error(err)
	}
	for _, e := range entries {
		m, err := f.redis.XRange(f.ctx, f.queue.Key("jobs"), e.ID, e.ID).Result()
		if err != nil || len(m) != 1 {
			f.t.Errorf("entry %s: %v, %v", e.ID, m, err)
			continue
		}
		ids = append(ids, m[0].Values["id"].(string))
	}
	return ids
}

func (f *fixture) begins(begun <-chan string, log *lines) (id string) {
	f.t.Helper()
	select {
	case id = <-begun:
	case <-f.ctx.Done():
		f.t.Fatalf("no jobs are claimed together:\n%s", log)
	}
	return id
}

// quick is a worker whose jobs take no time.
func (f *fixture) quick(consumer string, ran *runs) (stop func() error) {
	f.t.Helper()
	_, stop = f.start(Options{Consumer: consumer, Executor: ran.quick()})
	return stop
}

// succeeded says whether all of n jobs have, but for one.
func (f *fixture) succeeded(n int, but string) func() bool {
	return func() bool {
		for i := range n {
			if id := strconv.Itoa(i); id != but && f.record(id).State != queue.Succeeded {
				return false
			}
		}
		return true
	}
}

// TestLongJobLetsOthersGo: what was claimed with it is run elsewhere while it
// goes on, and what ended before it is told.
func TestLongJobLetsOthersGo(t *testing.T) {
	t.Parallel()
	f := setup(t, noExpiry)
	f.addMany(100)
	var ran runs
	begun, end := make(chan string, 1), make(chan struct{})
	log, stop := f.start(Options{Consumer: "a", Executor: f.blocks(&ran, begun, end)})
	long := f.begins(begun, log)
	stopOther := f.quick("b", &ran)
	f.until("the end of all others", f.succeeded(100, long))
	if r := f.record(long); r.State != queue.Running {
		t.Errorf("%s: %+v", long, r)
	}
	close(end)
	f.until("its end", f.succeeded(100, ""))
	for _, stop := range []func() error{stop, stopOther} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	f.once(&ran, 100)
	if !strings.Contains(log.String(), "handed back") || strings.Contains(log.String(), "lost") {
		t.Errorf("log:\n%s", log)
	}
}

// TestLongJobWithoutRedis: the leases of those that were claimed with it run
// out, and another has them. Only what had been run is run again.
func TestLongJobWithoutRedis(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Lease: 300 * time.Millisecond})
	f.addMany(100)
	var ran, again runs
	begun, end := make(chan string, 1), make(chan struct{})
	log, stop := f.start(Options{Consumer: "a", Executor: f.blocks(&ran, begun, end)})
	// The job waits for running, so Redis goes away before the others are let go.
	long := f.begins(begun, log)
	f.srv.Kill()
	before := ran.copied()
	time.Sleep(2 * f.queue.Lease()) // they run out
	f.srv.Restart()
	stopOther := f.quick("b", &again)
	f.until("the end of all others", f.succeeded(100, long))
	close(end)
	f.until("its end", f.succeeded(100, ""))
	for _, stop := range []func() error{stop, stopOther} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	for id, times := range ran.copied() {
		if times != 1 || before[id] == 0 && again.ids[id] > 0 {
			t.Errorf("%s was run %d times, and elsewhere %d", id, times, again.ids[id])
		}
	}
}

// TestStopsAmongShortJobs: wherever a worker is stopped, and whatever fails,
// each job is run in one attempt more than failed.
func TestStopsAmongShortJobs(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	const jobs = 300
	f.addMany(jobs)
	var ran runs
	executor := script(func(_ context.Context, a Attempt, _ func(string)) Outcome {
		if strings.HasSuffix(a.ID, "50") && a.Number == 1 {
			return Outcome{Verdict: Failed, Error: "e", Delay: time.Millisecond}
		}
		ran.add(a.ID)
		return Outcome{Result: []byte("r")}
	})
	for stopAt := 40; ran.number() < jobs; stopAt += 57 {
		log, stop := f.start(Options{Consumer: "a", Executor: executor, MaxJobs: 50})
		f.until("a good moment to stop", func() bool {
			return ran.number() >= min(stopAt, jobs) || strings.Contains(log.String(), "for a successor to begin anew")
		})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		p, err := f.redis.XPending(f.ctx, f.queue.Key("jobs"), queue.Group).Result()
		if err != nil || p.Count != 0 {
			t.Errorf("%+v are held by nobody, %v", p, err)
		}
	}
	for i := range jobs {
		id, want := strconv.Itoa(i), 1
		if strings.HasSuffix(id, "50") {
			want = 2
		}
		if r := f.record(id); r.State != queue.Succeeded || r.Attempts != want || ran.ids[id] != 1 {
			t.Errorf("%s was run %d times: %+v", id, ran.ids[id], r)
		}
	}
}
