package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

var (
	tortureJobs = flag.Int("torture", 200, "how many jobs TestTorture runs")
	tortureSeed = flag.Uint64("torture.seed", 0, "what it draws its lots by; 0: another one each time")
)

// The queue of the torture, in workers too: with a lease so short that it is
// lost now and then.
const (
	beTortured   = "REDIS_WORKER_TEST_TORTURE"
	tortureMark  = "TORTURE="
	tortureLease = 1200 * time.Millisecond
)

// A torment is a kind of torture.
type torment struct {
	name    string
	times   int // as many jobs as -torture says
	workers int
	each    int           // of how many jobs about 13 fail, hang or kill
	longest time.Duration // a job
}

func tortureOptions() queue.Options {
	return queue.Options{Lease: tortureLease, Block: 200 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond}
}

// tortureJob does what its payload says, and writes down that it did.
const tortureJob = `read -r kind wait
echo "begin $JOB_ID" >> "$DIR"/effects
case $kind in
fail) exit 1 ;;
once) [ "$JOB_ATTEMPT" -gt 1 ] || exit 1 ;;
hang) exec sleep 600 ;;
kill) kill -KILL $PPID; exec sleep 600 ;;
esac
[ "$wait" = 0.000 ] || sleep "$wait"
echo "end $JOB_ID" >> "$DIR"/effects
echo "$JOB_ID"
`

// A tortured job is one of them.
type tortured struct {
	id, kind   string
	begun, end int // as the job itself wrote down
	runs       []tortureRun
}

// A tortureRun is what a worker's log tells of an attempt.
type tortureRun struct {
	attempt string
	end     string // what it logged last of it; killed: nothing
}

const killed = "killed"

// TestTorture: workers and Redis are killed, stopped and restarted while jobs
// run that fail, hang and kill their worker. In the end each job has one
// outcome, was done at least once, and more than once only where its worker
// lost the lease, or its life, before it could tell.
func TestTorture(t *testing.T) {
	for _, torment := range []torment{
		{"jobs of all kinds", 1, 8, 100, 200 * time.Millisecond},
		{"short jobs, claimed together", 5, 2, 2000, 0},
	} {
		t.Run(torment.name, func(t *testing.T) { torture(t, torment) })
	}
}

func torture(t *testing.T, torment torment) {
	seed := cmp.Or(*tortureSeed, rand.Uint64())
	t.Logf("-torture %d -torture.seed %d", *tortureJobs, seed)
	lots := rand.New(rand.NewPCG(seed, 0))
	srv := redistest.Start(t)
	f := &fixture{t: t, srv: srv, redis: srv.Client(t), dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute+time.Duration(*tortureJobs)*200*time.Millisecond)
	defer cancel()
	f.ctx = ctx
	var err error
	if f.queue, err = queue.New(f.redis, "gpuherd", "gpu", tortureOptions()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "job"), []byte(tortureJob), 0o600); err != nil {
		t.Fatal(err)
	}

	jobs := f.enqueue(lots, torment)
	var herd []*supervised
	for i := range torment.workers {
		herd = append(herd, f.supervise(fmt.Sprintf("h/redis-worker@%d", i)))
	}
	begin := time.Now()
	harm := f.harm(lots, herd, len(jobs))
	took := time.Since(begin)
	for _, w := range herd {
		w.stop()
	}
	f.orphans()
	together := f.read(jobs, herd)
	f.judge(jobs)
	t.Logf("%d jobs in %v, up to %d told of together; harm done: %v", len(jobs), took.Round(time.Millisecond), together, harm)
}

// enqueue puts the jobs in, as any language would.
func (f *fixture) enqueue(lots *rand.Rand, torment torment) map[string]*tortured {
	f.t.Helper()
	jobs := map[string]*tortured{}
	pipe := f.redis.Pipeline()
	for i := range *tortureJobs * torment.times {
		j := &tortured{id: fmt.Sprintf("t-%d", i), kind: "fine"}
		more := []any{"max_attempts", 50, "timeout", "30"}
		switch lot := lots.IntN(torment.each); {
		case lot < 5:
			j.kind, more = "fail", []any{"max_attempts", 2}
		case lot < 10:
			j.kind = "once"
		case lot < 12:
			j.kind, more = "hang", []any{"max_attempts", 2, "timeout", "0.3"}
		case lot < 13 || i == 0:
			j.kind, more = "kill", []any{"max_attempts", 2}
		}
		jobs[j.id] = j
		wait := time.Duration(lots.Int64N(int64(torment.longest) + 1))
		stream := []string{"jobs", "jobs:high", "jobs:low"}[lots.IntN(3)]
		pipe.XAdd(f.ctx, &redis.XAddArgs{Stream: f.queue.Key(stream), Values: append([]any{"id", j.id, "payload", fmt.Sprintf("%s %.3f", j.kind, wait.Seconds())}, more...)})
	}
	if _, err := pipe.Exec(f.ctx); err != nil {
		f.t.Fatal(err)
	}
	return jobs
}

// A supervised worker is started again when it ends, as by systemd.
type supervised struct {
	f    *fixture
	name string
	log  string
	done chan struct{}

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended bool
}

func (f *fixture) supervise(name string) *supervised {
	w := &supervised{f: f, name: name, log: filepath.Join(f.dir, strings.ReplaceAll(name, "/", "-")), done: make(chan struct{})}
	go w.run()
	f.t.Cleanup(w.stop)
	return w
}

func (w *supervised) run() {
	defer close(w.done)
	log, err := os.OpenFile(w.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		w.f.t.Error(err)
		return
	}
	defer log.Close()
	for {
		cmd := exec.Command(os.Args[0], "--redis", w.f.srv.URL(), "--consumer", w.name, "--exec", "/bin/sh "+filepath.Join(w.f.dir, "job"))
		cmd.Env = append(os.Environ(), beMain+"=1", beTortured+"=1", "NOTIFY_SOCKET=", "REDIS_URL=", "DIR="+w.f.dir, tortureMark+w.f.dir)
		cmd.Stdout, cmd.Stderr = log, log
		w.mu.Lock()
		if w.ended {
			w.mu.Unlock()
			return
		}
		err := cmd.Start()
		w.cmd = cmd
		w.mu.Unlock()
		if err != nil {
			w.f.t.Error(err)
			return
		}
		_ = cmd.Wait() // the code tells
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			w.f.t.Errorf("%s ended with %d", w.name, code)
			return
		}
		fmt.Fprintln(log, "msg=ended")
	}
}

func (w *supervised) signal(sig syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cmd != nil && w.cmd.Process != nil {
		_ = w.cmd.Process.Signal(sig) // it may have ended just now
	}
}

// stop ends it for good.
func (w *supervised) stop() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.signal(syscall.SIGTERM)
	select {
	case <-w.done:
	case <-time.After(time.Minute):
		w.f.t.Errorf("%s does not end", w.name)
		w.signal(syscall.SIGKILL)
		<-w.done
	}
}

// harm does it until all jobs have ended.
func (f *fixture) harm(lots *rand.Rand, herd []*supervised, jobs int) map[string]int {
	f.t.Helper()
	one := func() *supervised { return herd[lots.IntN(len(herd))] }
	kinds := []struct {
		name string
		do   func()
	}{
		{"workers killed", func() { one().signal(syscall.SIGKILL) }},
		{"Redis killed", f.srv.Restart},
		{"workers killed", func() { one().signal(syscall.SIGKILL) }},
		{"workers restarted", func() { one().signal(syscall.SIGTERM) }},
		{"Redis stopped for longer than a lease", func() {
			f.srv.Pause()
			time.Sleep(tortureLease * 3 / 2)
			f.srv.Resume()
		}},
		// It loses its lease, and goes on as if nothing had happened.
		{"workers stopped for longer than a lease", func() {
			w := one()
			w.signal(syscall.SIGSTOP)
			time.Sleep(tortureLease * 3 / 2)
			w.signal(syscall.SIGCONT)
		}},
	}
	done := map[string]int{}
	for i := 0; ; i++ {
		// Not all at once, and at any point of a job.
		time.Sleep(time.Duration(100+lots.IntN(400)) * time.Millisecond)
		n, err := f.redis.ZCard(f.ctx, f.queue.Key("ended")).Result()
		switch {
		case f.ctx.Err() != nil:
			f.t.Fatalf("%d of %d jobs have ended: %v", n, jobs, err)
		case err == nil && int(n) == jobs:
			return done
		}
		k := kinds[i%len(kinds)]
		done[k.name]++
		k.do()
	}
}

// orphans wants no process of the workers to be left.
func (f *fixture) orphans() {
	f.t.Helper()
	left := func() (pids []string) {
		environs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, path := range environs {
			data, _ := os.ReadFile(path) // it may have ended
			if slices.ContainsFunc(bytes.Split(data, []byte{0}), func(v []byte) bool { return string(v) == tortureMark+f.dir }) {
				pids = append(pids, filepath.Base(filepath.Dir(path)))
			}
		}
		return pids
	}
	// What a killed job had started ends by itself: without systemd there is no
	// control group to end it.
	var pids []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if pids = left(); len(pids) == 0 {
			return
		}
	}
	f.t.Errorf("processes %v are left", pids)
}

var tortureLine = regexp.MustCompile(`msg="([^"]*)".* job=(\S+) attempt=(\d+)`)

// read collects what the jobs and the workers have written down, and returns
// how many jobs had ended at most before their worker told of them.
func (f *fixture) read(jobs map[string]*tortured, herd []*supervised) (together int) {
	f.t.Helper()
	effects, err := os.ReadFile(filepath.Join(f.dir, "effects"))
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(string(effects)) {
		what, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		j, ok := jobs[id]
		switch {
		case !ok:
			f.t.Errorf("effect %q", line)
		case what == "begin":
			j.begun++
		default:
			j.end++
		}
	}
	for _, w := range herd {
		log, err := os.ReadFile(w.log)
		if err != nil {
			f.t.Fatal(err)
		}
		if bytes.Contains(log, []byte("panic:")) || bytes.Contains(log, []byte("DATA RACE")) {
			f.t.Errorf("%s:\n%s", w.name, log)
		}
		open := map[string]*tortured{} // by the last of their runs they run, or nobody heard of their end
		for line := range strings.Lines(string(log)) {
			if line == "msg=ended\n" {
				clear(open)
				continue
			}
			m := tortureLine.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			switch what, id, attempt := m[1], m[2], m[3]; what {
			case "job begins":
				open[id] = jobs[id]
				open[id].runs = append(open[id].runs, tortureRun{attempt, killed})
				together = max(together, len(open))
			case "job finished", "job failed", "job handed back", "lease is lost, nothing is written", "cannot tell Redis before the end":
				j := open[id]
				if j == nil && !strings.Contains(line, " took=") {
					continue // it was claimed, and did not begin
				}
				if j == nil {
					f.t.Errorf("%s tells of no run: %s", w.name, line)
					continue
				}
				j.runs[len(j.runs)-1].end = what
				delete(open, id)
			}
		}
	}
	return together
}

// judge holds what Redis has against it.
func (f *fixture) judge(jobs map[string]*tortured) {
	f.t.Helper()
	ctx := context.Background()
	buried := map[string]int{}
	dead, err := f.redis.XRange(ctx, f.queue.Key("dead"), "-", "+").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, entry := range dead {
		buried[fmt.Sprint(entry.Values["id"])]++
	}
	outcomes, duplicates := map[string]int{}, map[string]int{}
	for id, j := range jobs {
		r, ok, err := f.queue.Get(ctx, id)
		if err != nil || !ok {
			f.t.Fatalf("job %s: %v, %v", id, ok, err)
		}
		finished, lost := 0, map[string]int{}
		for _, run := range j.runs {
			switch run.end {
			case "job finished":
				finished++
			case "job failed", "job handed back":
			default:
				lost[run.end]++
			}
		}
		wrong := func(format string, args ...any) {
			f.t.Errorf("job %s (%s): %s\n%+v\n%+v, in dead %d times", id, j.kind, fmt.Sprintf(format, args...), r, *j, buried[id])
		}
		reasons := map[string][]string{"fail": {queue.Failed, queue.Lost}, "hang": {"timeout", queue.Lost}, "kill": {queue.Lost}}[j.kind]
		outcomes[r.State+" "+r.Reason]++
		switch {
		case reasons != nil && (r.State != queue.Dead || !slices.Contains(reasons, r.Reason)):
			wrong("is to be dead, for one of %v", reasons)
		case reasons == nil && (r.State != queue.Succeeded || r.Result != id):
			wrong("is to succeed, with its ID as the result")
		case r.State == queue.Dead && (buried[id] != 1 || finished > 0):
			wrong("is dead, and finished %d times", finished)
		case r.State == queue.Succeeded && (buried[id] != 0 || finished > 1 || finished == 0 && len(lost) == 0):
			wrong("finished %d times", finished)
		case j.begun == 0 || r.State == queue.Succeeded && j.end == 0:
			wrong("was not done")
		case j.end > 1:
			// The one that counts, and those of which nobody heard.
			extra := j.end - 1
			if finished == 0 {
				lost[killed]-- // it was heard of before the worker was killed
			}
			total := 0
			for why, n := range lost {
				total += n
				duplicates[why] += min(n, extra)
			}
			if total < extra {
				wrong("was done %d times, but only %d times without being told", j.end, total)
			}
			duplicates["all"] += extra
		}
	}
	for _, name := range []string{"jobs", "jobs:high", "jobs:low"} {
		pending, err := f.redis.XPending(ctx, f.queue.Key(name), queue.Group).Result()
		length := f.redis.XLen(ctx, f.queue.Key(name)).Val()
		if err != nil || pending.Count != 0 || length != 0 {
			f.t.Errorf("%s: %+v pending of %d, %v", name, pending, length, err)
		}
	}
	if n := f.redis.ZCard(ctx, f.queue.Key("delayed")).Val(); n != 0 {
		f.t.Errorf("%d jobs are delayed", n)
	}
	f.t.Logf("outcomes %v; done more often than told, at most by cause: %v", outcomes, duplicates)
}

// TestClocksDoNotMatter: nothing that a worker sends to Redis is a time of its
// own clock, so that it may be as wrong as it likes. Times are Redis' own.
func TestClocksDoNotMatter(t *testing.T) {
	t.Parallel()
	f := setup(t)
	monitored, err := os.Create(filepath.Join(f.dir, "monitored"))
	if err != nil {
		t.Fatal(err)
	}
	defer monitored.Close()
	cli := exec.Command("redis-cli", "-s", f.srv.Socket, "MONITOR")
	cli.Stdout = monitored
	if err := cli.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cli.Process.Kill()
		cli.Wait()
	}()
	read := func() string {
		data, err := os.ReadFile(monitored.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	f.until("MONITOR", func() bool { f.redis.Echo(f.ctx, "watched"); return strings.Contains(read(), "watched") })
	f.start("--consumer", "a", "--exec", `/bin/sh -c 'echo 50 >&4; case $JOB_ID in fails) exit 1;; esac; sleep 0.1'`)
	for _, id := range []string{"succeeds", "fails", "waits"} {
		f.add(id, "max_attempts", 2)
	}
	f.state("succeeds", queue.Succeeded)
	f.state("waits", queue.Succeeded)
	f.state("fails", queue.Dead)
	// The stream's own IDs begin with Redis' time.
	number := regexp.MustCompile(`\b\d{10,}\b(-\d+)?`)
	now, commands := time.Now().Unix(), 0
	for line := range strings.Lines(read()) {
		_, command, ok := strings.Cut(line, `] "`)
		if !ok || strings.Contains(line, " lua] ") {
			continue
		}
		commands++
		for _, m := range number.FindAllString(command, -1) {
			n, err := strconv.ParseInt(m, 10, 64)
			for _, unit := range []int64{1, 1e3, 1e6, 1e9} { // s, ms, µs, ns
				if err == nil && n/unit > now-1e6 && n/unit < now+1e6 {
					t.Errorf("%s is a time in %.300s", m, command)
				}
			}
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands were seen", commands)
	}
}
