package redisworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gpuherd/units/queue"
)

// lay writes files below root.
func lay(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		// As in the kernel's files, nobody reads half of it.
		if err := os.WriteFile(path+"~", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
}

const group = "sys/fs/cgroup/gpuherd.slice/w.service/"

// layMemory makes the control group of a unit.
func layMemory(t *testing.T) (m *Memory, write func(name, text string)) {
	t.Helper()
	root := t.TempDir()
	lay(t, root, map[string]string{
		"proc/self/cgroup":       "1:name=systemd:/other\n0::/gpuherd.slice/w.service\n",
		group + "memory.events":  "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n",
		group + "memory.max":     "1000\n",
		group + "memory.current": "950\n",
		group + "memory.stat":    "anon 500\nfile 420\ninactive_file 400\nactive_file 20\nslab_reclaimable 10\n",
	})
	m, err := ownMemory(root)
	if err != nil {
		t.Fatal(err)
	}
	return m, func(name, text string) { lay(t, root, map[string]string{group + name: text}) }
}

func TestMemory(t *testing.T) {
	t.Parallel()
	m, write := layMemory(t)
	if n, err := m.Kills(); n != 2 || err != nil {
		t.Errorf("%d kills, %v", n, err)
	}
	if used, limit, err := m.Use(); used != 520 || limit != 1000 || err != nil {
		t.Errorf("uses %d of %d, %v", used, limit, err)
	}
	w := New(Options{Queue: &queue.Queue{}, Memory: m, RecycleMemory: 52})
	if why := w.worn(); why != "" {
		t.Error(why)
	}
	w.RecycleMemory = 51
	if why := w.worn(); why != "520 of 1000 bytes of memory are in use" {
		t.Errorf("worn: %q", why)
	}
	write("memory.max", "max\n")
	if why := w.worn(); why != "" {
		t.Error(why)
	}
	write("memory.max", "a lot\n")
	if _, _, err := m.Use(); err == nil {
		t.Error("no error")
	}
	for name, text := range map[string]string{"of version 1": "4:memory:/x\n", "not there": "0::/other\n"} {
		root := t.TempDir()
		lay(t, root, map[string]string{"proc/self/cgroup": text})
		if m, err := ownMemory(root); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		run  func(ctx context.Context, kill func()) Outcome
		want string
	}{
		"the job itself": {func(_ context.Context, kill func()) Outcome {
			kill()
			return Outcome{Verdict: Failed, Error: "ended by signal 9 (killed)"}
		}, "out of memory: the kernel killed 1 of its processes, ended by signal 9 (killed)"},
		// The rest of it goes on, and would for ever.
		"a part of it": {func(ctx context.Context, kill func()) Outcome {
			kill()
			<-ctx.Done()
			return Outcome{Verdict: Stopped, Error: "stopped"}
		}, "out of memory: the kernel killed 1 of its processes, stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, queue.Options{})
			m, write := layMemory(t)
			if _, err := f.queue.Enqueue(f.ctx, queue.Job{ID: "j", MaxAttempts: 1}); err != nil {
				t.Fatal(err)
			}
			_, stop := f.start(Options{Consumer: "a", Memory: m, Executor: script(func(ctx context.Context, a Attempt, _ func(string)) Outcome {
				if a.ID != "j" {
					return Outcome{Result: []byte("r")}
				}
				return tt.run(ctx, func() { write("memory.events", "oom_kill 3\n") })
			})})
			f.until("dead", func() bool { return f.record("j").State == queue.Dead })
			if r := f.record("j"); r.Reason != ReasonOOM || r.Error != tt.want {
				t.Errorf("record %+v", r)
			}
			// The next has nothing to do with it.
			f.add("k")
			f.until("success", func() bool { return f.record("k").State == queue.Succeeded })
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestJobsAreKilledFirst: by what the kernel goes by.
func TestJobsAreKilledFirst(t *testing.T) {
	t.Parallel()
	e, _ := shell(`sleep 0.05; cat /proc/self/oom_score_adj`)
	o := e.Run(context.Background(), Attempt{ID: "j"}, func(string) {})
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(string(own), &n); err != nil {
		t.Fatal(err)
	}
	if got := string(o.Result); got != fmt.Sprint(min(n+jobScore, 1000)) {
		t.Errorf("the job's score is raised to %q from %d", got, n)
	}
}

func TestEndsForASuccessorAfterMaxJobs(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	for _, id := range []string{"1", "2", "3"} {
		f.add(id)
	}
	o := Options{Consumer: "a", MaxJobs: 2, Executor: script(func(context.Context, Attempt, func(string)) Outcome {
		return Outcome{Result: []byte("r")}
	})}
	log, stop := f.start(o)
	f.until("the end", func() bool { return strings.Contains(log.String(), `reason="2 jobs were run"`) })
	// Its successor has its name, and so comes after it.
	if err := stop(); err != nil {
		t.Error(err)
	}
	// A job that was claimed and handed back waits among the urgent.
	if f.redis.XLen(f.ctx, f.queue.Key("jobs")).Val() != 1 || f.redis.XLen(f.ctx, f.queue.Key("jobs:high")).Val() != 0 {
		t.Errorf("it claimed what only its successor was to run:\n%s", log)
	}
	f.start(o)
	f.until("success", func() bool { return f.record("3").State == queue.Succeeded })
	if r := f.record("3"); r.Attempts != 1 {
		t.Errorf("record %+v", r)
	}
}

// TestDrainLasts: how long is what systemd says, and systemd is told to wait
// where it is more.
func TestDrainLasts(t *testing.T) {
	t.Parallel()
	asked := func(d time.Duration, err error) func(context.Context) (time.Duration, error) {
		return func(context.Context) (time.Duration, error) { return d, err }
	}
	for name, tt := range map[string]struct {
		opts Options
		want time.Duration
		told string
	}{
		"nothing known":   {Options{}, 25 * time.Second, "STOPPING=1"},
		"given":           {Options{DrainTimeout: time.Minute, StopTimeout: asked(time.Second, nil)}, time.Minute, "STOPPING=1"},
		"extended":        {Options{DrainTimeout: time.Minute, Extend: true}, time.Minute, "STOPPING=1 EXTEND_TIMEOUT_USEC=30000000"},
		"asked":           {Options{StopTimeout: asked(90*time.Second, nil)}, 85 * time.Second, "STOPPING=1"},
		"short":           {Options{StopTimeout: asked(4*time.Second, nil)}, 2 * time.Second, "STOPPING=1"},
		"infinity":        {Options{StopTimeout: asked(1<<63-1, nil)}, longestDrain - stopMargin, "STOPPING=1"},
		"asked in vain":   {Options{StopTimeout: asked(0, context.DeadlineExceeded)}, 25 * time.Second, "STOPPING=1"},
		"asked, extended": {Options{StopTimeout: asked(90*time.Second, nil), Extend: true}, 85 * time.Second, "STOPPING=1 EXTEND_TIMEOUT_USEC=30000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []string
			tt.opts.Queue, tt.opts.Log = &queue.Queue{}, discard
			tt.opts.Notify = func(s string) { told = append(told, s) }
			w := New(tt.opts)
			w.tick = newTick(t)
			begin := time.Now()
			w.stopping()
			end := w.over()
			if d := end.Sub(begin); d < tt.want || d > tt.want+time.Minute/2 {
				t.Errorf("it lasts %v, want %v", d, tt.want)
			}
			w.prolong() // too soon for another
			if got := strings.Join(told, " "); got != tt.told {
				t.Errorf("told systemd %q, want %q", got, tt.told)
			}
			if again := w.over(); again != end {
				t.Errorf("it lasts until %v, then until %v", end, again)
			}
		})
	}
}

func TestCancelledJobEnds(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.add("j")
	begun := make(chan struct{})
	causes := make(chan error, 1)
	log, stop := f.start(Options{Consumer: "a", Executor: script(func(ctx context.Context, _ Attempt, _ func(string)) Outcome {
		close(begun)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return Outcome{Verdict: Stopped}
	})})
	<-begun
	if state, err := f.queue.Cancel(f.ctx, "j"); state != queue.Running || err != nil {
		t.Fatalf("cancel: %s, %v", state, err)
	}
	f.until("cancelled", func() bool { return f.record("j").State == queue.Cancelled })
	if cause := <-causes; !errors.Is(cause, errCancelled) {
		t.Errorf("cause %v", cause)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), `msg="job cancelled" job=j`) {
		t.Errorf("log:\n%s", log)
	}
}
