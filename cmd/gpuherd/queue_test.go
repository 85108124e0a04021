package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

// A testWorker claims jobs and ends them as it is told.
type testWorker struct {
	consumer *queue.Consumer
	claim    *queue.Claim
}

func newTestWorker(tb testing.TB, srv *redistest.Server) *testWorker {
	q, err := queue.New(srv.Client(tb), "gpuherd", "gpu", queue.Options{Block: 50 * time.Millisecond})
	if err != nil {
		tb.Fatal(err)
	}
	return &testWorker{consumer: q.Consumer("h/redis-worker@0")}
}

// do takes look, begin, progress P, finish RESULT, fail ERROR, die ERROR, release.
func (w *testWorker) do(ctx context.Context, verb, text string) (err error) {
	if verb == "begin" {
		for w.claim = nil; w.claim == nil && err == nil; {
			w.claim, err = w.consumer.Claim(ctx)
		}
		return err
	}
	switch verb {
	case "look": // at one entry that is no job to be run
		var claim *queue.Claim
		if claim, err = w.consumer.Claim(ctx); claim != nil {
			err = fmt.Errorf("got the job %s", claim.ID)
		}
		return err
	case "progress":
		return w.claim.Renew(ctx, text)
	case "finish":
		return w.claim.Finish(ctx, []byte(text))
	case "fail":
		_, err = w.claim.Fail(ctx, queue.Failure{Error: text, Delay: time.Hour})
		return err
	case "die":
		_, err = w.claim.Fail(ctx, queue.Failure{Error: text, Stderr: "line one\n" + text, Permanent: true})
		return err
	case "release":
		return w.claim.Release(ctx)
	}
	return fmt.Errorf("cannot %s", verb)
}

// TestQueueScripts runs testdata/queue/*.txtar, each with a Redis of its own.
func TestQueueScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/queue",
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			srv := redistest.Start(tb)
			env.Setenv("REDIS_URL", srv.URL())
			env.Setenv("SOCKET", srv.Socket)
			env.Values["server"] = srv
			env.Values["worker"] = newTestWorker(tb, srv)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// work VERB [TEXT] has the worker do something.
			"work": func(ts *testscript.TestScript, _ bool, args []string) {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				ts.Check(ts.Value("worker").(*testWorker).do(ctx, args[0], strings.Join(args[1:], " ")))
			},
			// redis kill|restart ends the server or starts it again.
			"redis": func(ts *testscript.TestScript, _ bool, args []string) {
				srv := ts.Value("server").(*redistest.Server)
				if args[0] == "kill" {
					srv.Kill()
				} else {
					srv.Restart()
				}
			},
		},
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		RequireUniqueNames:  true,
	})
}

// queueApp is a gpuherd with somebody at the terminal, and what it writes.
func queueApp(stdin io.Reader) (a *app, stdout, stderr *bytes.Buffer) {
	a = newApp()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	watched := terminal.Screen{Terminal: true, Width: 100}
	a.stdin, a.stdout, a.stderr = stdin, &output{Writer: stdout}, &output{Writer: stderr}
	a.in, a.out, a.err = watched, watched, watched
	return a, stdout, stderr
}

func TestQueueAddShowsABar(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	w := newTestWorker(t, srv)
	a, stdout, stderr := queueApp(strings.NewReader(""))
	code := make(chan int)
	go func() {
		code <- a.run(t.Context(), []string{"queue", "--redis", srv.URL(), "add", "x", "--id", "job-1", "-w"})
	}()
	do := func(verb, text string) {
		t.Helper()
		if err := w.do(t.Context(), verb, text); err != nil {
			t.Fatal(err)
		}
	}
	until := func(want string) {
		t.Helper()
		for {
			a.stderr.mu.Lock()
			seen := strings.Contains(stderr.String(), want)
			a.stderr.mu.Unlock()
			if seen {
				return
			}
			select {
			case c := <-code:
				t.Fatalf("ended with %d before %q: %q", c, want, stderr)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	until("\rjob-1 waiting, ")
	do("begin", "")
	until("\rjob-1 running, ")
	do("progress", "50")
	until("\rjob-1 [############............] 50%, ")
	do("progress", "\"\x1b[2J of a horse\"")
	until("\rjob-1 running: \"\\x1b[2J of a horse\", ")
	do("finish", "a\x1b[2Jb\nc\n")
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d", c)
	}
	if want := "a\\x1b[2Jb\nc\n"; stdout.String() != want {
		t.Errorf("result %q, want %q", stdout, want)
	}
	if !strings.HasSuffix(stderr.String(), "\r\x1b[K") {
		t.Errorf("the line is left behind: %q", stderr)
	}
}

func TestQueuePurgeAsks(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	w := newTestWorker(t, srv)
	bury := func() {
		t.Helper()
		a, _, stderr := queueApp(strings.NewReader(""))
		if code := a.run(t.Context(), []string{"queue", "--redis", srv.URL(), "add", "x"}); code != exitOK {
			t.Fatal(stderr)
		}
		for _, verb := range []string{"begin", "die"} {
			if err := w.do(t.Context(), verb, "because"); err != nil {
				t.Fatal(err)
			}
		}
	}
	bury()
	bury()
	for _, tt := range []struct {
		answer string
		code   int
		stdout string
	}{
		{"", exitFailed, ""},
		{"\n", exitFailed, ""},
		{"no\n", exitFailed, ""},
		{"yes\n", exitOK, "2 jobs were removed\n"},
	} {
		a, stdout, stderr := queueApp(strings.NewReader(tt.answer))
		code := a.run(t.Context(), []string{"queue", "--redis", srv.URL(), "dead", "purge"})
		if code != tt.code || stdout.String() != tt.stdout || !strings.HasPrefix(stderr.String(), "Remove 2 dead jobs of queue gpu for good? [y/N] ") {
			t.Errorf("%q: exit code %d, %q, %q", tt.answer, code, stdout, stderr)
		}
	}
}

// TestQueueIsInert: whatever producers, jobs and workers write, no terminal
// obeys it, and JSON stays JSON.
func TestQueueIsInert(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	w := newTestWorker(t, srv)
	const base = "gpuherd:queue:{gpu}:"
	put := func(args ...any) {
		t.Helper()
		if err := client.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for i, evil := range evilTexts {
		// Malformed, and buried by the worker.
		put("XADD", base+"jobs", "*", "id", evil, "payload", evil, "timeout", evil)
		put("XADD", base+"jobs", "*", "payload", evil)
		for _, verb := range []string{"die", "finish", "progress"} {
			id := fmt.Sprintf("job-%d-%s-\u202e\u2028", i, verb)
			ids = append(ids, id)
			put("XADD", base+"jobs", "*", "id", id, "payload", evil)
			for _, step := range []string{"begin", verb} {
				if err := w.do(t.Context(), step, evil); err != nil {
					t.Fatal(err)
				}
			}
		}
		// Whatever somebody writes there.
		put("HSET", base+"job:"+ids[len(ids)-1], "worker", evil, "error", evil, "stderr", evil, "reason", evil, "state", evil)
		put("XADD", base+"jobs:low", "*", "id", "waiting"+evil, "payload", evil)
	}
	for _, args := range [][]string{
		{"list", "--limit", "0"}, {"list", "--json"}, {"dead", "list"}, {"dead", "list", "--json"}, {"stats"}, {"stats", "--json"},
		append([]string{"show"}, ids...), append([]string{"show", "--json"}, ids...), {"show", "--result", ids[1]}, {"show", "--payload", ids[0]},
		append([]string{"cancel"}, ids...), append([]string{"retry", "--json"}, ids...), {"show", evilTexts[0]},
		{"add", "x", "--id", ids[0]}, {"add", "x", "--id", ids[0], "--json"}, {"add", "x", "--id", ids[1], "-w"}, {"add", "x", "--id", evilTexts[0]},
		{"dead", "purge", "\x1b[2J", "-y"},
	} {
		a, stdout, stderr := queueApp(strings.NewReader(""))
		a.run(t.Context(), append([]string{"queue", "--redis", srv.URL()}, args...))
		what := fmt.Sprintf("%q", args)
		inert(t, what, stdout.String())
		inert(t, what, strings.ReplaceAll(strings.ReplaceAll(stderr.String(), "\x1b[K", ""), "\r", ""))
		if stdout.Len() == 0 && stderr.Len() == 0 {
			t.Errorf("%s: no answer", what)
		}
		for _, arg := range args {
			if arg == "--json" && !json.Valid(stdout.Bytes()) {
				t.Errorf("%s: no JSON: %q", what, stdout)
			}
		}
	}
}

func TestPointInTime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"2026-11-30T18:00:00Z":      time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC),
		"2026-11-30T18:00:00+02:00": time.Date(2026, 11, 30, 16, 0, 0, 0, time.UTC),
		"2026-11-30 18:00":          time.Date(2026, 11, 30, 18, 0, 0, 0, time.Local),
		"2026-11-30 18:00:01":       time.Date(2026, 11, 30, 18, 0, 1, 0, time.Local),
		"2026-11-30":                time.Date(2026, 11, 30, 0, 0, 0, 0, time.Local),
		"1764525600":                time.Unix(1764525600, 0),
		"1764525600.25":             time.UnixMilli(1764525600250),
	} {
		if got, err := pointInTime(in); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "soon", "NaN", "-1", "0", "1764525600000", "18:00", "0001-01-01"} {
		if got, err := pointInTime(in); err == nil {
			t.Errorf("%q was taken as %v", in, got)
		}
	}
}

func TestExcerpt(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	long := strings.Repeat("ü", 1001) // its last byte is the 2002nd
	for _, tt := range []struct {
		text *string
		data []byte
		want []string
	}{
		{nil, nil, nil},
		{text(""), nil, []string{"(empty)"}},
		{text("a\nb\n"), nil, []string{"a", "b"}},
		{nil, []byte{0xff}, []string{"(1 byte of no text, by --result)"}},
		{text("x" + long), nil, []string{"x" + strings.Repeat("ü", 999), "(4 bytes more, by --result)"}},
		{text(strings.Repeat("a\n", 22)), nil, append(strings.Split(strings.Repeat("a", 20), ""), "(4 bytes more, by --result)")},
	} {
		if diff := cmp.Diff(tt.want, excerpt(tt.text, tt.data, "--result")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
