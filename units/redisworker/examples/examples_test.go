package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
	"gpuherd/generator/service"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisworker"
	"gpuherd/units/redisworker/comfytest"
)

// A herd is a queue with one worker.
type herd struct {
	t     *testing.T
	srv   *redistest.Server
	queue *queue.Queue
	ctx   context.Context
	log   lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a worker with the executor given.
func start(t *testing.T, executor func(output *lockedBuffer) redisworker.Executor) *herd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	h := &herd{t: t, srv: redistest.Start(t), ctx: ctx}
	client := h.srv.Client(t)
	var err error
	h.queue, err = queue.New(client, "gpuherd", "gpu", queue.Options{RetryMin: time.Millisecond, Block: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w := redisworker.New(redisworker.Options{
		Queue: h.queue, Consumer: "h/redis-worker@0", Executor: executor(&h.log), Log: slog.New(slog.NewTextHandler(&h.log, nil)),
		Ping: func(ctx context.Context) error { return client.Ping(ctx).Err() },
	})
	drain, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.Run(ctx, drain); err != nil {
			t.Errorf("worker: %v", err)
		}
	}()
	t.Cleanup(func() {
		close(drain)
		<-ended
		if t.Failed() {
			t.Logf("the worker said:\n%s", h.log.String())
		}
	})
	return h
}

// program is the worker of a program in this folder.
func program(t *testing.T, name string) *herd {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, func(output *lockedBuffer) redisworker.Executor {
		return &redisworker.Exec{Argv: []string{path}, Env: os.Environ(), Output: output}
	})
}

// produce runs a producer and returns what it printed.
func (h *herd) produce(payload string, argv ...string) (stdout, stderr string, err error) {
	h.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(h.ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "REDIS_URL="+h.srv.URL())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(payload), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// run puts a job in and waits for its end.
func (h *herd) run(j queue.Job) queue.Record {
	h.t.Helper()
	if _, err := h.queue.Enqueue(h.ctx, j); err != nil {
		h.t.Fatal(err)
	}
	for {
		r, _, err := h.queue.Get(h.ctx, j.ID)
		if err != nil {
			h.t.Fatal(err)
		}
		if r.State == queue.Succeeded || r.State == queue.Dead {
			return r
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func importable(t *testing.T, python, module string) bool {
	t.Helper()
	return exec.Command(python, "-c", "import "+module).Run() == nil
}

func TestProducers(t *testing.T) {
	t.Parallel()
	h := program(t, "job.py")
	// The package redis is that of Debian (python3-redis), or of the python3
	// that is first in PATH.
	python := "/usr/bin/python3"
	if !importable(t, python, "redis") {
		python = "python3"
	}
	programs := [][]string{{"./produce_redis_cli.py"}, {"./produce.mjs"}, {python, "./produce.py"}}
	for i, argv := range programs {
		id := "job-" + string(rune('a'+i)) + " ü:\""
		stdout, stderr, err := h.produce(`{"text": "a horse is a horse"}`, append(argv, id)...)
		if err != nil || stdout != `{"words": 5, "most": [["a", 2]]}` || stderr != "" {
			t.Errorf("%s: %v, %q, %q", argv, err, stdout, stderr)
		}
		// Once more is the same job.
		again, _, err := h.produce("other", append(argv, id)...)
		if err != nil || again != stdout {
			t.Errorf("%s again: %v, %q", argv, err, again)
		}
		stdout, stderr, err = h.produce("\xff\x00binary\n", append(argv, id+"2")...)
		if err == nil || stdout != "" || !strings.Contains(stderr, "is dead: exit status 65") {
			t.Errorf("%s: %v, %q, %q", argv, err, stdout, stderr)
		}
	}
}

// TestProducersWithoutRedis: they say what is wrong.
func TestProducersWithoutRedis(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"./produce_redis_cli.py", "./produce.mjs"} {
		cmd := exec.Command(name, "job-1")
		cmd.Env = append(os.Environ(), "REDIS_URL=redis://:hunter2@127.0.0.1:1")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "127.0.0.1:1") || strings.Contains(string(out), "hunter2") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	h := program(t, "job.py")
	needed := filepath.Join(t.TempDir(), "needed")
	payload := func(text, needs string) []byte {
		data, err := json.Marshal(map[string]string{"text": text, "needs": needs})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tt := range []struct {
		job    queue.Job
		result string
		state  string
		reason string
		error  string
	}{
		{queue.Job{ID: "good", Payload: payload("b a b", "")}, `{"words": 3, "most": [["b", 2]]}`, queue.Succeeded, "", ""},
		{queue.Job{ID: "empty", Payload: payload("", "")}, `{"words": 0, "most": []}`, queue.Succeeded, "", ""},
		{queue.Job{ID: "none"}, "", queue.Dead, queue.Permanent, "exit status 65 (permanent): the payload is no"},
		{queue.Job{ID: "list", Payload: []byte("[1]")}, "", queue.Dead, queue.Permanent, "exit status 65 (permanent): the payload is no"},
		{queue.Job{ID: "needs", Payload: payload("a", needed), MaxAttempts: 2}, "", queue.Dead, queue.Failed, "exit status 75 (try again): " + needed + " is not there yet"},
	} {
		r := h.run(tt.job)
		if r.State != tt.state || r.Result != tt.result || r.Reason != tt.reason || !strings.HasPrefix(r.Error, tt.error) {
			t.Errorf("%s: %+v", tt.job.ID, r)
		}
		if tt.job.MaxAttempts > 0 && r.Attempts != tt.job.MaxAttempts {
			t.Errorf("%s: %d attempts", tt.job.ID, r.Attempts)
		}
	}
	if log := h.log.String(); !strings.Contains(log, "attempt 1 of job good: 3 words") {
		t.Error("its words are not in the log")
	}
}

func TestJobTorch(t *testing.T) {
	t.Parallel()
	h := program(t, "job_torch.py")
	r := h.run(queue.Job{ID: "good", Payload: []byte(`{"n": 50}`)})
	trace := 0
	for i := range 50 {
		for j := range 50 {
			trace += (i + j) % 7 * ((i + j) % 7)
		}
	}
	var got struct {
		N, Trace int
		Where    string
	}
	if err := json.Unmarshal([]byte(r.Result), &got); err != nil || r.State != queue.Succeeded || got.N != 50 || got.Trace != trace {
		t.Errorf("%+v: %v; want the trace %d", r, err, trace)
	}
	if !importable(t, "python3", "torch") && (got.Where != "CPU, plain Python" || !strings.Contains(h.log.String(), "no PyTorch")) {
		t.Errorf("without PyTorch it was computed by %q", got.Where)
	}
	if r := h.run(queue.Job{ID: "bad", Payload: []byte(`{"n": true}`)}); r.Reason != queue.Permanent {
		t.Errorf("bad: %+v", r)
	}
}

func TestComfyUI(t *testing.T) {
	t.Parallel()
	srv := comfytest.New(t)
	srv.Start()
	h := start(t, func(*lockedBuffer) redisworker.Executor {
		e, err := redisworker.NewComfyUI(srv.URL())
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
	payload, err := exec.Command("./comfyui/prompt.py", "comfyui/workflow.json", "2", "a horse in the rain", "42").Output()
	if err != nil {
		t.Fatal(err)
	}
	var workflow map[string]struct{ Inputs map[string]any }
	if err := json.Unmarshal(payload, &workflow); err != nil || workflow["2"].Inputs["text"] != "a horse in the rain" || workflow["5"].Inputs["seed"] != 42.0 {
		t.Errorf("%v: %s", err, payload)
	}
	const id = "0b8b7d5c-2d5e-4c43-9d0e-8d1f2f6a3b11"
	stdout, stderr, err := h.produce(string(payload), "./produce_redis_cli.py", id)
	want := `{"prompt_id":"` + id + `","outputs":{"7":{"images":[{"filename":"horse_00001_.png","subfolder":"","type":"output"}]}}}`
	if diff := cmp.Diff(want, stdout); err != nil || diff != "" {
		t.Errorf("%v, %s (-want +got):\n%s", err, stderr, diff)
	}
}

// TestComfyUIFiles: the configuration is one, laid out as the files' heads say.
func TestComfyUIFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"comfyui.service", "gpuherd.conf", "after.conf"} {
		text, err := os.ReadFile(filepath.Join("comfyui", name))
		if err != nil {
			t.Fatal(err)
		}
		head := strings.Split(string(text), "\n")
		place, ok := strings.CutPrefix(head[1], "# /etc/")
		if !ok {
			t.Fatalf("%s does not say where it goes: %q", name, head[1])
		}
		file := filepath.Join(root, "etc", place)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shipped := filepath.Join(root, "usr/lib/gpuherd/services")
	if err := os.CopyFS(shipped, os.DirFS("../../services")); err != nil {
		t.Fatal(err)
	}
	services, problems := service.Load(root)
	names := map[string]bool{}
	for _, s := range services {
		names[s.Name] = true
	}
	if len(problems) > 0 || !names["comfyui"] || !names["redis-worker"] {
		t.Errorf("%v, %v", problems, names)
	}
	conf, problems := config.Load(config.Source{Root: root})
	if len(problems) > 0 || conf.Worker.Executor != "comfyui" || conf.Worker.URLOf(3) != "http://127.0.0.1:8183/" {
		t.Errorf("%v, %+v", problems, conf.Worker)
	}
}
