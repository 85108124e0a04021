package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/fleet"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// told is what a monitor has told Redis of a host: how it went on, "alive",
// "lost" or "offline", and of each unit or GPU how it is.
func told(tb testing.TB, srv *redistest.Server, host, end string, things ...string) {
	tb.Helper()
	client := srv.Client(tb)
	r := relay.New(client, slog.New(slog.DiscardHandler), relay.Config{
		Prefix: "gpuherd", Host: host, BootID: "boot", Epoch: 3, Version: "1.2.3",
		Alive: func() bool { return true }, Uptime: func() time.Duration { return 50 * time.Hour },
	})
	h := state.NewHerd(r.Push, time.Now)
	r.From(h)
	var herd []state.Observation
	var gpus []state.GPU
	for _, thing := range things {
		name, is, _ := strings.Cut(thing, "=")
		is, text, _ := strings.Cut(is, ",")
		if name == "gpu" {
			g := state.GPU{Index: len(gpus), Health: is}
			if text != "" {
				g.Reasons = []string{text}
			}
			gpus = append(gpus, g)
			continue
		}
		herd = append(herd, state.Observation{Name: name + ".service", Active: is, Sub: is, MainPID: 1, StatusText: text, InvocationID: "1", NRestarts: 2, ChangedMonoUS: 1})
	}
	h.SetGPUs(gpus)
	h.Sync(herd, "connected")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the monitor of %s: %v", host, err)
		}
	})
	tb.Cleanup(stop)
	admin := srv.Client(tb)
	key := func(name string) string { return relay.Key("gpuherd", host, name) }
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if admin.ZScore(ctx, "gpuherd:hosts", host).Err() == nil && r.Stats().Pending == 0 && admin.HLen(ctx, key("units")).Val() == int64(len(herd)) {
			break
		}
		if time.Now().After(until) {
			tb.Fatalf("the monitor of %s has not told Redis: %+v", host, r.Stats())
		}
	}
	switch end {
	case fleet.Lost:
		_ = client.Close() // no farewell
		stop()
		admin.Del(context.Background(), key("heartbeat")) // its time is over
	case fleet.Offline:
		stop()
	}
}

// TestFleetScripts runs testdata/fleet/*.txtar, each with a Redis of its own.
func TestFleetScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/fleet",
		Setup: func(env *testscript.Env) error {
			srv := redistest.Start(env.T().(testing.TB))
			env.Setenv("REDIS_URL", srv.URL())
			env.Setenv("SOCKET", srv.Socket)
			env.Values["server"] = srv
			env.Values["tb"] = env.T()
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// host NAME alive|lost|offline THING=STATE[,TEXT]... has a monitor tell of it.
			"host": func(ts *testscript.TestScript, _ bool, args []string) {
				told(ts.Value("tb").(testing.TB), ts.Value("server").(*redistest.Server), args[0], args[1], args[2:]...)
			},
			// redis kill ends the server.
			"redis": func(ts *testscript.TestScript, _ bool, _ []string) { ts.Value("server").(*redistest.Server).Kill() },
		},
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		RequireUniqueNames:  true,
	})
}

func TestFleetIsInert(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := srv.Client(t)
	for i, evil := range evilTexts {
		told(t, srv, evil, []string{fleet.Alive, fleet.Lost, fleet.Offline}[i%3], evil+"=failed,"+evil, "gpu=unhealthy,"+evil)
		name := fmt.Sprintf("evil%d", i)
		told(t, srv, name, fleet.Lost)
		c.Set(t.Context(), relay.Key("gpuherd", name, "heartbeat"), `{"version":"`+strings.ReplaceAll(evil, "\n", `\n`)+`"}`, 0)
	}
	for _, args := range [][]string{{}, {"--json"}, {"--failed"}, {"--queue", "\u202ex"}, {evilTexts[0]}, {"\x1b[2J"}, {"--state", "\x1b[2J"}, {"--redis", "redis://\x1b[2J"}} {
		a, stdout, stderr := queueApp(strings.NewReader(""))
		a.run(t.Context(), append([]string{"fleet", "--redis", srv.URL()}, args...))
		what := fmt.Sprintf("%q", args)
		inert(t, what, stdout.String())
		inert(t, what, stderr.String())
		if stdout.Len()+stderr.Len() == 0 {
			t.Errorf("%s: no answer", what)
		}
		if len(args) == 1 && args[0] == "--json" && !json.Valid(stdout.Bytes()) {
			t.Errorf("no JSON: %q", stdout)
		}
	}
	a, stdout, _ := queueApp(strings.NewReader(""))
	a.run(t.Context(), []string{"__complete", "fleet", "--redis", srv.URL(), ""})
	inert(t, "completion", stdout.String())
}

// A picture is what a terminal was sent, up to where it is whole.
type picture struct{ lockedBuffer }

// last returns what the last drawing shows.
func (p *picture) last() string {
	all := p.String()
	text := all[max(0, strings.LastIndex(all, goHome)):]
	return strings.NewReplacer(goHome, "", clearLine, "", clearRest, "", "\r", "").Replace(text)
}

func (p *picture) becomes(t *testing.T, what string, ok func(string) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(p.last()); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s; the screen is\n%s", what, p.last())
		}
	}
}

// The screen follows the fleet, says when it cannot, and is given back.
func TestFleetWatch(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	told(t, srv, "gpu1", fleet.Alive, "redis-worker@0=active")
	a, _, _ := queueApp(strings.NewReader(""))
	shown, errs := &picture{}, &lockedBuffer{}
	a.stdout, a.stderr = &output{Writer: shown}, &output{Writer: errs}
	a.out = terminal.Screen{Terminal: true, Width: 100, Height: 12}
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	go func() { code <- a.run(ctx, []string{"fleet", "--redis", srv.URL(), "-w", "--interval", "100ms"}) }()
	has := func(words ...string) func(string) bool {
		return func(text string) bool {
			for _, w := range words {
				if !strings.Contains(text, w) {
					return false
				}
			}
			return true
		}
	}
	shown.becomes(t, "gpu1 is shown", has("by Redis' clock", "gpu1", "1 host: 1 alive"))
	told(t, srv, "gpu2", fleet.Lost)
	shown.becomes(t, "gpu2 is shown", has("gpu2  lost ", "2 hosts: 1 alive, 1 lost"))
	for i := range 12 {
		told(t, srv, fmt.Sprintf("more%d", i), fleet.Offline)
	}
	shown.becomes(t, "it is cut", has("gpu1", "… more below"))
	if lines := strings.Count(shown.last(), "\n") + 1; lines > 12 {
		t.Errorf("%d lines on a screen of 12", lines)
	}
	srv.Kill()
	shown.becomes(t, "Redis is away", has("not current, of ", "gpu1"))
	srv.Restart()
	shown.becomes(t, "Redis is back", func(text string) bool {
		return strings.Contains(text, "gpu1") && !strings.Contains(text, "not current")
	})
	interrupt()
	if got := <-code; got != 0 || errs.String() != "" {
		t.Errorf("exit code %d, %s", got, errs)
	}
	if all := shown.String(); !strings.HasPrefix(all, enterScreen) || !strings.HasSuffix(all, leaveScreen) {
		t.Errorf("the screen was not given back: %q", all)
	}
}

// Elsewhere than on a terminal each reading is a line of JSON.
func TestFleetWatchJSON(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	told(t, srv, "gpu1", fleet.Alive)
	a := newApp()
	shown, errs := &lockedBuffer{}, &lockedBuffer{}
	a.stdout, a.stderr, a.out = &output{Writer: shown}, &output{Writer: errs}, terminal.Screen{}
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	go func() {
		code <- a.run(ctx, []string{"fleet", "--redis", srv.URL(), "--watch", "--json", "--interval", "100ms"})
	}()
	eventuallyTrue(t, "there are three lines", func() bool { return strings.Count(shown.String(), "\n") >= 3 })
	srv.Kill()
	eventuallyTrue(t, "it says why there are no more", func() bool { return strings.Contains(errs.String(), "gpuherd: cannot read the list of hosts: ") })
	interrupt()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d", got)
	}
	for line := range strings.Lines(shown.String()) {
		var f fleet.Fleet
		if err := json.Unmarshal([]byte(line), &f); err != nil || f.Total.Alive != 1 {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func eventuallyTrue(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}
