package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisworker/comfytest"
)

// The test binary is the program where this is set.
const beMain = "REDIS_WORKER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		if os.Getenv(beTortured) != "" {
			queueOptions = tortureOptions()
		}
		main()
		return
	}
	os.Exit(m.Run())
}

type fixture struct {
	t     *testing.T
	ctx   context.Context
	srv   *redistest.Server
	redis redis.UniversalClient
	queue *queue.Queue
	dir   string
}

func setup(t *testing.T) *fixture {
	t.Helper()
	srv := redistest.Start(t)
	f := &fixture{t: t, srv: srv, redis: srv.Client(t), dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	f.ctx = ctx
	var err error
	if f.queue, err = queue.New(f.redis, "gpuherd", "gpu", queue.Options{}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) add(id string, more ...any) {
	f.t.Helper()
	values := append([]any{"id", id, "payload", "{}"}, more...)
	if err := f.redis.XAdd(f.ctx, &redis.XAddArgs{Stream: "gpuherd:queue:{gpu}:jobs", Values: values}).Err(); err != nil {
		f.t.Fatal(err)
	}
}

// until waits for a condition.
func (f *fixture) until(what string, ok func() bool) {
	f.t.Helper()
	for !ok() {
		if f.ctx.Err() != nil {
			f.t.Fatalf("it did not come to this: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (f *fixture) state(id, state string) {
	f.t.Helper()
	var r queue.Record
	f.until(id+" "+state, func() bool {
		r, _, _ = f.queue.Get(f.ctx, id)
		return r.State == state
	})
}

func (f *fixture) want(id string, want queue.Record) {
	f.t.Helper()
	got, _, err := f.queue.Get(f.ctx, id)
	if err != nil {
		f.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(time.Time{})); diff != "" {
		f.t.Errorf("record of %s (-want +got):\n%s", id, diff)
	}
}

// runs counts the lines of a file that a job adds to.
func (f *fixture) runs(name string) int {
	data, _ := os.ReadFile(filepath.Join(f.dir, name))
	return bytes.Count(data, []byte("\n"))
}

// worker is a real process with a notify socket.
type worker struct {
	f    *fixture
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	told []string
	log  bytes.Buffer
}

func (w *worker) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *worker) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// tells says whether it is in the log.
func (w *worker) tells(what string) bool { return strings.Contains(w.logged(), what) }

// says whether systemd was told a line that begins with prefix.
func (w *worker) says(prefix string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.told {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// matches says whether systemd was told a line that the expression matches.
func (w *worker) matches(expression string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.told, regexp.MustCompile(expression).MatchString)
}

func (f *fixture) start(args ...string) *worker {
	f.t.Helper()
	dir, err := os.MkdirTemp("", "notify") // a socket's path is short
	if err != nil {
		f.t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		f.t.Fatal(err)
	}
	w := &worker{f: f, done: make(chan struct{})}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.told = append(w.told, strings.Split(string(buf[:n]), "\n")...)
			w.mu.Unlock()
		}
	}()
	w.cmd = exec.Command(os.Args[0], append([]string{"--redis", f.srv.URL()}, args...)...)
	w.cmd.Env = append(os.Environ(), beMain+"=1", "NOTIFY_SOCKET="+filepath.Join(dir, "n"), "WATCHDOG_USEC=400000", "REDIS_URL=", "DIR="+f.dir)
	w.cmd.Stdout, w.cmd.Stderr = w, w
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A job that outlives its worker must not hold up Wait.
	w.cmd.WaitDelay = time.Second
	if err := w.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() {
		w.cmd.Wait()
		close(w.done)
	}()
	f.t.Cleanup(func() {
		w.cmd.Process.Kill()
		<-w.done
		socket.Close()
		os.RemoveAll(dir)
		if f.t.Failed() {
			f.t.Logf("worker %q said:\n%s\nand to systemd:\n%s", args, w.logged(), strings.Join(w.told, "\n"))
		}
	})
	return w
}

func (w *worker) signal(sig syscall.Signal) {
	w.f.t.Helper()
	if err := w.cmd.Process.Signal(sig); err != nil {
		w.f.t.Fatal(err)
	}
}

// exit waits for the end and wants the code, −1 for a signal.
func (w *worker) exit(code int) {
	w.f.t.Helper()
	select {
	case <-w.done:
	case <-w.f.ctx.Done():
		w.f.t.Fatal("the worker does not end")
	}
	if got := w.cmd.ProcessState.ExitCode(); got != code {
		w.f.t.Errorf("exit code %d, want %d", got, code)
	}
}

func TestRunsAJobAndTellsSystemd(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.add("job-1", "payload", `{"prompt":"a horse"}`)
	w := f.start("--consumer", "h/redis-worker@0", "--exec", `/bin/sh -c 'echo 42 >&4; while ! [ -e "$DIR"/go ]; do sleep 0.01; done; echo "$JOB_ID"'`)
	f.until("status", func() bool { return w.says("STATUS=job job-1, attempt 1 of 3: 42%") })
	f.until("watchdog", func() bool { return w.says("WATCHDOG=1") })
	if err := os.WriteFile(filepath.Join(f.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.state("job-1", queue.Succeeded)
	f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "h/redis-worker@0", Result: "job-1"})
	w.signal(syscall.SIGTERM)
	w.exit(0)
	f.until("STOPPING=1", func() bool { return w.says("STOPPING=1") })
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff([]string{"STATUS=waiting for Redis at " + f.srv.URL(), "READY=1", "STATUS=idle"}, w.told[:3]); diff != "" {
		t.Errorf("told systemd (-want +got):\n%s", diff)
	}
}

func TestKilledWorkersJobIsRunBySuccessorOfTheSameName(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.add("job-1")
	args := []string{"--consumer", "h/redis-worker@0", "--exec", `/bin/sh -c 'echo $$ >> "$DIR"/runs; if [ $JOB_ATTEMPT = 1 ]; then exec sleep 60; fi; echo attempt $JOB_ATTEMPT'`}
	w := f.start(args...)
	f.until("first run", func() bool { return f.runs("runs") == 1 })
	w.signal(syscall.SIGKILL)
	w.exit(-1)
	start := time.Now()
	f.start(args...)
	f.state("job-1", queue.Succeeded)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("recovery took %v: the lease is 30 s, and is not to be waited for", d)
	}
	f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 2, Worker: "h/redis-worker@0", Result: "attempt 2"})
	if n := f.runs("runs"); n != 2 {
		t.Errorf("%d runs", n)
	}
}

func TestDrainLetsTheJobFinish(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.add("job-1")
	f.add("job-2")
	w := f.start("--exec", `/bin/sh -c 'echo $$ >> "$DIR"/runs; sleep 1; echo done'`)
	f.until("a run", func() bool { return f.runs("runs") == 1 })
	w.signal(syscall.SIGTERM)
	f.until("status", func() bool { return w.says("STOPPING=1") })
	w.exit(0)
	if r, _, _ := f.queue.Get(f.ctx, "job-1"); r.State != queue.Succeeded || r.Result != "done" {
		t.Errorf("job-1: %+v", r)
	}
	if n := f.runs("runs"); n != 1 {
		t.Errorf("%d runs: a draining worker claims nothing", n)
	}
}

func TestDrainHandsBackWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		timeout string
		signals int
	}{{"time is up", "500ms", 1}, {"second signal", "1h", 2}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.add("job-1", "max_attempts", 1)
			w := f.start("--consumer", "a", "--drain-timeout", tt.timeout, "--exec", `/bin/sh -c 'echo $$ >> "$DIR"/runs; exec sleep 60'`)
			f.until("a run", func() bool { return f.runs("runs") == 1 })
			w.signal(syscall.SIGINT)
			f.until("STOPPING", func() bool { return w.says("STOPPING=1") })
			if tt.signals == 2 {
				w.signal(syscall.SIGINT)
			}
			w.exit(0)
			f.want("job-1", queue.Record{State: queue.Waiting, Attempts: 0, Worker: "a"})
			f.start("--consumer", "b", "--exec", `/bin/sh -c 'echo attempt $JOB_ATTEMPT'`)
			f.state("job-1", queue.Succeeded)
			f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "b", Result: "attempt 1"})
		})
	}
}

func TestRedisOutageDuringAJob(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		away     func(*fixture)
		backward func(*fixture)
	}{
		{"killed", func(f *fixture) { f.srv.Kill() }, func(f *fixture) { f.srv.Restart() }},
		{"stopped", func(f *fixture) { f.srv.Pause() }, func(f *fixture) { f.srv.Resume() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.add("job-1")
			f.add("job-2")
			w := f.start("--consumer", "a", "--exec", `/bin/sh -c 'echo $JOB_ID >> "$DIR"/runs; while ! [ -e "$DIR"/go ]; do sleep 0.01; done; echo $JOB_ATTEMPT'`)
			f.until("a run", func() bool { return f.runs("runs") == 1 })
			tt.away(f)
			// The job ends while Redis is away.
			if err := os.WriteFile(filepath.Join(f.dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			f.until("status", func() bool { return w.says("STATUS=job job-1 finished, but Redis does not answer") })
			tt.backward(f)
			f.state("job-2", queue.Succeeded)
			for _, id := range []string{"job-1", "job-2"} {
				f.want(id, queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "1"})
			}
			if n := strings.Count(w.logged(), "Redis does not answer, trying again"); n != 1 {
				t.Errorf("the outage is %d times in the log", n)
			}
			w.signal(syscall.SIGTERM)
			w.exit(0)
		})
	}
}

func TestWaitsForRedisBeforeItIsReady(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.srv.Kill()
	w := f.start("--exec", "/bin/true")
	f.until("more time", func() bool { return w.says("EXTEND_TIMEOUT_USEC=") })
	if w.says("READY=1") {
		t.Error("ready without Redis")
	}
	f.srv.Restart()
	f.until("ready", func() bool { return w.says("READY=1") })

	f.srv.Kill()
	f.until("status", func() bool { return w.says("STATUS=Redis at") })
	w.signal(syscall.SIGTERM)
	w.exit(0)
}

// TestStatusSaysWhatIsWrongWithRedis: where it answers, "does not answer" would
// send people to look at the network.
func TestStatusSaysWhatIsWrongWithRedis(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		user        string
		wrong, mend []any // commands
		says        string
	}{
		{"password", "worker:secret@", nil, []any{"ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all"}, "refuses the user or password"},
		{"memory", "", []any{"CONFIG", "SET", "maxmemory", 1}, []any{"CONFIG", "SET", "maxmemory", 0}, "is full"},
		{"replica", "", []any{"REPLICAOF", "127.0.0.1", 1}, []any{"REPLICAOF", "NO", "ONE"}, "is read-only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			tell := func(command []any) {
				t.Helper()
				if err := f.redis.Do(f.ctx, command...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			if tt.wrong != nil {
				tell(tt.wrong)
			}
			w := f.start("--redis", "unix://"+tt.user+f.srv.Socket, "--exec", "/bin/true")
			f.until("status", func() bool { return w.matches("^STATUS=Redis at .* " + tt.says + "$") })
			f.until("log", func() bool { return w.tells("Redis " + tt.says + ", trying again") })
			if w.matches("does not answer") {
				t.Error("it is said not to answer")
			}
			if w.matches("secret") || w.tells("secret") {
				t.Error("the password is told")
			}
			tell(tt.mend)
			f.until("idle", func() bool { return w.tells("Redis answers") })
		})
	}
}

// The lease is renewed by a goroutine of its own, and an end is written by the
// main one: both say it with the job.
func TestStatusOfAJobSaysWhatIsWrongWithRedis(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.add("job-1")
	w := f.start("--consumer", "a", "--exec", `/bin/sh -c 'echo $$ >> "$DIR"/runs; while ! [ -e "$DIR"/go ]; do sleep 0.01; done'`)
	f.until("a run", func() bool { return f.runs("runs") == 1 })
	if err := f.redis.Do(f.ctx, "REPLICAOF", "127.0.0.1", 1).Err(); err != nil {
		t.Fatal(err)
	}
	f.until("renewal", func() bool { return w.matches(`^STATUS=job job-1, attempt 1 of 3 \(Redis is read-only\)$`) })
	if err := os.WriteFile(filepath.Join(f.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.until("end", func() bool { return w.matches("^STATUS=job job-1 finished, but Redis is read-only$") })
	if err := f.redis.Do(f.ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	f.state("job-1", queue.Succeeded)
}

func TestPausedQueue(t *testing.T) {
	t.Parallel()
	f := setup(t)
	if err := f.queue.Pause(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.add("job-1")
	w := f.start("--exec", "/bin/echo hello")
	f.until("status", func() bool { return w.says("STATUS=queue is paused") })
	if err := f.queue.Resume(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.state("job-1", queue.Succeeded)
}

func TestEscapedProcessesOfAJobAreKilled(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.add("job-1")
	f.start("--exec", `/bin/sh -c 'setsid sh -c "while :; do echo x >> $DIR/ticks; sleep 0.01; done" & while ! [ -s "$DIR"/ticks ]; do sleep 0.01; done; echo ok'`)
	f.state("job-1", queue.Succeeded)
	n := f.runs("ticks")
	time.Sleep(100 * time.Millisecond) // ten ticks, were it alive
	if m := f.runs("ticks"); m != n {
		t.Errorf("it went on: %d ticks, then %d", n, m)
	}
}

func TestCancelEndsTheJob(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.add("job-1")
	w := f.start("--consumer", "a", "--exec", `/bin/sh -c 'echo $$ >> "$DIR"/runs; exec sleep 60'`)
	f.until("a run", func() bool { return f.runs("runs") == 1 })
	if _, err := f.queue.Cancel(f.ctx, "job-1"); err != nil {
		t.Fatal(err)
	}
	f.state("job-1", queue.Cancelled)
	f.want("job-1", queue.Record{State: queue.Cancelled, Attempts: 1, Worker: "a"})
	f.add("job-2", "timeout", "0.1", "max_attempts", 1) // it goes on, to the next
	f.state("job-2", queue.Dead)
	f.want("job-2", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "timed out after 100ms", Reason: "timeout"})
	w.signal(syscall.SIGTERM)
	w.exit(0)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--instance", "0"}, exitConfig, "CUDA_VISIBLE_DEVICES is not set"},
		{[]string{"--instance", "x"}, exitConfig, "want GPU"},
		{[]string{"--queue", "a}b"}, exitConfig, "without braces"},
		{[]string{"--redis", "http://u:hunter2@box"}, exitConfig, "invalid URL scheme"},
		{[]string{"--exec", `"open`}, exitConfig, "cannot read --exec"},
		{[]string{"--exec", "/nonexistent/program"}, 1, "no such file"},
		{[]string{"--instance", "0", "--exec", "/bin/true"}, exitConfig, "CUDA_VISIBLE_DEVICES is not set"},
		{[]string{"--exec", "/bin/true", "--http", "http://127.0.0.1"}, exitConfig, "exclude each other"},
		{[]string{"--http", "http://u:hunter2@h"}, exitConfig, "a user and a password have no place"},
		{[]string{"--comfyui", "127.0.0.1:8188"}, exitConfig, "cannot read URL"},
		{[]string{"--bad"}, exitUsage, "flag provided but not defined"},
		{[]string{"operand"}, exitUsage, "unexpected argument"},
	} {
		w := f.start(tt.args...)
		w.exit(tt.code)
		if log := w.logged(); !strings.Contains(log, tt.want) || strings.Contains(log, "hunter2") {
			t.Errorf("%q: log has no %q:\n%s", tt.args, tt.want, log)
		}
		if w.says("READY=1") {
			t.Errorf("%q: ready", tt.args)
		}
	}
}

// TestConfiguredURL: no GPU has to be bound where a server runs the jobs.
func TestConfiguredURL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ executor, url, instance, want string }{
		{"comfyui", "http://127.0.0.1:818%i/", "3:1.2", "http://127.0.0.1:8183/ is not ready"},
		{"http", "http://127.0.0.1:1/run?token=hunter2", "", "http://127.0.0.1:1/run is not ready"},
		{"comfyui", "http://127.0.0.1:818%i/?token=hunter2", "", "--instance is not given"},
		{"comfyui", "http://127.0.0.1:8188%i/", "9", "port 81889"},
		{"http", "", "0", "[Worker] has no URL="},
	} {
		conf := config.Default()
		conf.Worker.Executor, conf.Worker.URL = tt.executor, tt.url
		e, err := (&settings{instance: tt.instance}).executor(conf, output{stderr: io.Discard})
		if err == nil {
			// Nothing listens there, most likely.
			err = e.Check(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// TestComfyUIJobSurvivesItsWorker: the worker waits for ComfyUI, is killed
// while it has a job, and its successor goes on with what ComfyUI has.
func TestComfyUIJobSurvivesItsWorker(t *testing.T) {
	t.Parallel()
	f := setup(t)
	srv := comfytest.New(t)
	args := []string{"--consumer", "h/redis-worker@0", "--comfyui", srv.URL()}
	workflow := `{"1":{"class_type":"TestHold","inputs":{"steps":2}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"horse"}}}`
	f.add("job-1", "payload", workflow)
	w := f.start(args...)
	f.until("it waits", func() bool {
		return w.says("STATUS=waiting: "+srv.URL()+" is not ready: ") && w.says("EXTEND_TIMEOUT_USEC=")
	})
	if w.says("READY=1") {
		t.Error("ready without ComfyUI")
	}
	srv.Start()
	f.until("ready", func() bool { return w.says("READY=1") })
	srv.Release(1)
	f.until("progress", func() bool { return w.says("STATUS=job job-1, attempt 1 of 3: 25%") })
	w.signal(syscall.SIGKILL)
	w.exit(-1)

	w = f.start(args...)
	f.until("adoption", func() bool { return w.says("STATUS=job job-1, attempt 2 of 3") })
	srv.Release(1)
	f.state("job-1", queue.Succeeded)
	f.want("job-1", queue.Record{
		State: queue.Succeeded, Attempts: 2, Worker: "h/redis-worker@0",
		Result: `{"prompt_id":"` + srv.Executed()[0] + `","outputs":{"2":{"images":[{"filename":"horse_00001_.png","subfolder":"","type":"output"}]}}}`,
	})
	if n := len(srv.Executed()); n != 1 {
		t.Errorf("executed %d times", n)
	}

	// ComfyUI goes: the next job waits for it, and costs no attempt.
	srv.Kill()
	f.add("job-2", "payload", workflow)
	f.until("it waits", func() bool { return w.says("STATUS=waiting: ") })
	f.want("job-2", queue.Record{State: queue.Waiting, Attempts: 0, Worker: "h/redis-worker@0"})
	srv.Start()
	f.state("job-2", queue.Running)
	f.until("it runs", func() bool { return len(srv.Executed()) == 2 })
	// Drained, it is interrupted and handed back.
	w.signal(syscall.SIGTERM)
	f.until("STOPPING", func() bool { return w.says("STOPPING=1") })
	w.signal(syscall.SIGTERM)
	w.exit(0)
	f.want("job-2", queue.Record{State: queue.Waiting, Attempts: 0, Worker: "h/redis-worker@0"})
	srv.Release(2)
	f.start(args...)
	f.state("job-2", queue.Succeeded)
	if n := len(srv.Executed()); n != 3 {
		t.Errorf("executed %d times", n)
	}
}

// TestHTTPJobs: over a server that goes away for a while.
func TestHTTPJobs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		payload, _ := io.ReadAll(r.Body)
		if string(payload) == "bad" {
			http.Error(w, "it is bad", http.StatusUnprocessableEntity)
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Header.Get("Job-Id"), r.Header.Get("Job-Attempt"), payload)
	}))
	address := srv.Listener.Addr().String()
	w := f.start("--consumer", "a", "--http", srv.URL)
	f.add("job-1", "payload", "horse")
	f.add("job-2", "payload", "bad")
	f.state("job-1", queue.Succeeded)
	f.want("job-1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "job-1 1 horse"})
	f.state("job-2", queue.Dead)
	f.want("job-2", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "422 Unprocessable Entity: it is bad", Reason: queue.Permanent, Stderr: "it is bad"})
	srv.Close()
	f.add("job-3", "payload", "horse")
	f.until("it waits", func() bool { return w.says("STATUS=waiting: http://" + address + " is not ready: ") })
	w.signal(syscall.SIGTERM)
	w.exit(0)
	f.want("job-3", queue.Record{State: queue.Waiting, Attempts: 0, Worker: "a"})
}

// TestShippedJob runs jobs/echo as it lies on an installed machine.
func TestShippedJob(t *testing.T) {
	t.Parallel()
	lib := t.TempDir()
	if err := os.Mkdir(filepath.Join(lib, "jobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("../../units/redisworker/jobs/echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lib, "jobs/echo"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.Args[0], filepath.Join(lib, "redis-worker")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(lib, "jobs/echo"))
	cmd.Env = append(os.Environ(), beMain+"=1", "CUDA_VISIBLE_DEVICES=GPU-0", "GPU_INDEX=1", "JOB_ID=j", "JOB_ATTEMPT=2", "WORKER_ID=box-gpu1")
	cmd.Stdin = strings.NewReader(`{"prompt": "a horse"}`)
	out, err := cmd.CombinedOutput()
	want := `{"payload":{"prompt":"a horse"},"gpu":"GPU-0","gpu_index":1,"job":"j","attempt":2,"worker":"box-gpu1"}` + "\n"
	if err != nil || string(out) != want {
		t.Errorf("%v, %s", err, cmp.Diff(want, string(out)))
	}
	if info, err := os.Stat("../../units/redisworker/jobs/echo"); err != nil || info.Mode()&0o111 != 0o111 {
		t.Errorf("the shipped job is not executable: %v, %v", info, err)
	}
}
