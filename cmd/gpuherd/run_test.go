package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A notified is systemd's end of sd_notify(3).
type notified struct {
	socket string

	mu     sync.Mutex
	states []string
	more   chan struct{}
}

func listenNotify(t *testing.T) *notified {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	n := &notified{socket: filepath.Join(dir, "s"), more: make(chan struct{}, 1)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done; _ = os.RemoveAll(dir) })
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			got, err := conn.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.states = append(n.states, strings.Split(string(buf[:got]), "\n")...)
			n.mu.Unlock()
			select {
			case n.more <- struct{}{}:
			default:
			}
		}
	}()
	return n
}

func (n *notified) has(prefix string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.IndexFunc(n.states, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

func (n *notified) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.states)
}

// wait waits for a state and returns where among the others it stands.
func (n *notified) wait(t *testing.T, prefix string) int {
	t.Helper()
	end := time.After(time.Minute)
	for {
		if i := n.has(prefix); i >= 0 {
			return i
		}
		select {
		case <-n.more:
		case <-end:
			t.Fatalf("%q was not told, but %q", prefix, n.all())
		}
	}
}

// A wrapped is a `gpuherd run`.
type wrapped struct {
	*exec.Cmd
	out, err lockedBuffer
}

func startRun(t *testing.T, n *notified, args ...string) *wrapped {
	t.Helper()
	w := &wrapped{Cmd: exec.CommandContext(t.Context(), "gpuherd", append([]string{"run"}, args...)...)}
	w.Stdout, w.Stderr = &w.out, &w.err
	w.Env = append(os.Environ(), "DIR="+t.TempDir())
	if n != nil {
		w.Env = append(w.Env, "NOTIFY_SOCKET="+n.socket)
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Process.Kill(); _ = w.Wait() })
	return w
}

// ends waits for the end and compares how it was: "exit status 3", "signal:
// terminated", "" for success.
func (w *wrapped) ends(t *testing.T, want string) {
	t.Helper()
	got := ""
	if err := w.Wait(); err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%q ended as %q, want %q\n%s%s", w.Args, got, want, w.out.String(), w.err.String())
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// pidIn reads a number that a program has written.
func (w *wrapped) pidIn(t *testing.T, mark string) int {
	t.Helper()
	pid := 0
	eventually(t, mark, func() bool {
		for line := range strings.Lines(w.out.String()) {
			if rest, ok := strings.CutPrefix(line, mark+" "); ok && strings.HasSuffix(line, "\n") {
				pid, _ = strconv.Atoi(strings.TrimSpace(rest))
			}
		}
		return pid > 0
	})
	return pid
}

func TestRunReady(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	for name, test := range map[string]struct {
		args    []string
		program string // makes itself ready on a line of stdin
		waiting string
	}{
		"http":    {[]string{"--ready-http", server.URL}, "", "STATUS=starting: waiting for " + server.URL + ": answers 503"},
		"tcp":     {[]string{"--ready-tcp", "DIR/socket"}, `python3 -c "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('$DIR/socket'); s.listen(); time.sleep(600)" &`, "STATUS=starting: waiting for DIR/socket: dial unix"},
		"file":    {[]string{"--ready-file", "DIR/file"}, `touch $DIR/file`, "STATUS=starting: waiting for file DIR/file: does not exist"},
		"command": {[]string{"--ready-exec", "test -e DIR/file"}, `touch $DIR/file`, "STATUS=starting: waiting for command test: exit status 1"},
		"log":     {[]string{"--ready-log", "^listening on [0-9]+$"}, `echo listening on 80 >&2`, "STATUS=starting: waiting for a line that matches ^listening"},
		"all":     {[]string{"--ready-log", "up", "--ready-file", "DIR/file"}, `echo up; touch $DIR/file`, "STATUS=starting: waiting for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, dir := listenNotify(t), t.TempDir()
			for i := range test.args {
				test.args[i] = strings.ReplaceAll(test.args[i], "DIR", dir)
			}
			args := slices.Concat(test.args, []string{"--", "sh", "-c", "DIR=" + dir + "; read line; " + test.program + " \n read line"})
			w := &wrapped{Cmd: exec.CommandContext(t.Context(), "gpuherd", append([]string{"run"}, args...)...)}
			w.Stdout, w.Stderr = &w.out, &w.err
			w.Env = append(os.Environ(), "NOTIFY_SOCKET="+n.socket)
			stdin, err := w.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = w.Process.Kill() })
			n.wait(t, strings.ReplaceAll(test.waiting, "DIR", dir))
			n.wait(t, "EXTEND_TIMEOUT_USEC=")
			if n.has("READY=1") >= 0 {
				t.Errorf("ready too early: %q", n.all())
			}
			if name == "http" {
				up.Store(true)
			}
			fmt.Fprintln(stdin)
			n.wait(t, "READY=1")
			fmt.Fprintln(stdin)
			w.ends(t, "")
			if name == "log" && w.err.String() != "listening on 80\n" {
				t.Errorf("stderr: %q", w.err.String())
			}
		})
	}
}

// Without a condition it is ready as it runs, and its end is ours.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	n := listenNotify(t)
	startRun(t, n, "--", "sh", "-c", "exit 3").ends(t, "exit status 3")
	n.wait(t, "READY=1")
	startRun(t, nil, "--", "true").ends(t, "")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT} {
		startRun(t, nil, "--", "sh", "-c", "kill -"+strconv.Itoa(int(sig))+" $$").ends(t, "signal: "+sig.String())
	}
	w := startRun(t, nil, "--", "/nonexistent/program")
	w.ends(t, "exit status 127")
	if !strings.Contains(w.err.String(), "cannot start the program") {
		t.Errorf("%q", w.err.String())
	}
	startRun(t, nil, "--", "/etc/passwd").ends(t, "exit status 126")
}

// Nothing is left of a program, wherever it hid, and zombies are none while it
// runs.
func TestRunLeavesNothing(t *testing.T) {
	t.Parallel()
	hide := `setsid sh -c '(trap "" TERM HUP; echo hidden $$; exec sleep 600) & ' ; sh -c 'sleep 0 & echo zombie $!'; echo main $$; exec sleep 600`
	w := startRun(t, nil, "--", "sh", "-c", hide)
	hidden, zombie := w.pidIn(t, "hidden"), w.pidIn(t, "zombie")
	w.pidIn(t, "main")
	eventually(t, "the zombie is reaped", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", zombie))
		return err != nil
	})
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.ends(t, "signal: terminated")
	if alive(hidden) {
		t.Error("a process in a session of its own is left")
	}

	// Killed without a chance to act, it takes the program along.
	w = startRun(t, nil, "--", "sh", "-c", "echo main $$; exec sleep 600")
	main := w.pidIn(t, "main")
	_ = w.Process.Kill()
	_ = w.Wait()
	eventually(t, "the program ends with gpuherd", func() bool { return !alive(main) })
}

func TestRunPassesSignalsOn(t *testing.T) {
	t.Parallel()
	program := `trap 'echo got HUP' HUP; trap 'echo got USR1' USR1; trap 'echo got TERM; exit 7' TERM; echo main $$; while :; do sleep 0.05; done`
	n := listenNotify(t)
	w := startRun(t, n, "--", "sh", "-c", program)
	w.pidIn(t, "main")
	for _, sig := range []struct {
		sig  syscall.Signal
		name string
	}{{syscall.SIGHUP, "HUP"}, {syscall.SIGUSR1, "USR1"}, {syscall.SIGTERM, "TERM"}} {
		if err := w.Process.Signal(sig.sig); err != nil {
			t.Fatal(err)
		}
		eventually(t, sig.name, func() bool { return strings.Contains(w.out.String(), "got "+sig.name+"\n") })
	}
	w.ends(t, "exit status 7")
	n.wait(t, "STOPPING=1")

	// A shell that does not pass signals on has its whole group told.
	w = startRun(t, nil, "--signal-group", "--", "sh", "-c", "trap : TERM; sh -c 'echo main $$; exec sleep 600'; echo rest; exit 5")
	w.pidIn(t, "main")
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.ends(t, "exit status 5")
}

func TestRunStopHTTP(t *testing.T) {
	t.Parallel()
	done := filepath.Join(t.TempDir(), "done")
	var refuse, ignore atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodPost:
			t.Errorf("asked by %s", r.Method)
		case refuse.Load():
			w.WriteHeader(http.StatusNotFound)
		case !ignore.Load():
			_ = os.WriteFile(done, nil, 0o644)
		}
	}))
	t.Cleanup(server.Close)
	program := "trap 'exit 9' TERM; echo main $$; while [ ! -e " + done + " ]; do sleep 0.05; done"
	stop := func(want, told string) {
		t.Helper()
		w := startRun(t, nil, "--stop-http", server.URL+"/stop", "--stop-timeout", "300ms", "--", "sh", "-c", program)
		w.pidIn(t, "main")
		_ = w.Process.Signal(syscall.SIGTERM)
		w.ends(t, want)
		if !strings.Contains(w.err.String(), told) {
			t.Errorf("stderr %q, want %q in it", w.err.String(), told)
		}
	}
	stop("", "")
	if err := os.Remove(done); err != nil {
		t.Fatal(err)
	}
	ignore.Store(true)
	stop("exit status 9", "was asked to stop and goes on")
	refuse.Store(true)
	stop("exit status 9", "answers 404")
}

func TestRunNotReadyInTime(t *testing.T) {
	t.Parallel()
	n := listenNotify(t)
	w := startRun(t, n, "--ready-timeout", "200ms", "--ready-file", filepath.Join(t.TempDir(), "never"), "--", "sleep", "600")
	w.ends(t, "exit status 1")
	if n.has("READY=1") >= 0 || !strings.Contains(w.err.String(), "not ready within 200ms") {
		t.Errorf("%q; %s", n.all(), w.err.String())
	}
}

func TestRunLives(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(server.Close)
	live := []string{"--live-http", server.URL, "--live-interval", "20ms", "--live-failures", "2", "--", "sleep", "600"}

	// With a watchdog, systemd acts: it sends SIGABRT.
	n := listenNotify(t)
	w := &wrapped{Cmd: exec.CommandContext(t.Context(), "gpuherd", append([]string{"run"}, live...)...)}
	w.Stdout, w.Stderr = &w.out, &w.err
	w.Env = append(os.Environ(), "NOTIFY_SOCKET="+n.socket, "WATCHDOG_USEC=300000")
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Process.Kill() })
	n.wait(t, "READY=1")
	n.wait(t, "WATCHDOG=1")
	sick.Store(true)
	at := n.wait(t, "WATCHDOG=trigger")
	if status := n.wait(t, "STATUS=does not answer: "+server.URL+": answers 500"); status > at {
		t.Errorf("told late: %q", n.all())
	}
	_ = w.Process.Signal(syscall.SIGABRT)
	w.ends(t, "signal: aborted")
	if states := n.all(); slices.Contains(states[at:], "WATCHDOG=1") {
		t.Errorf("fed while it does not live: %q", states)
	}

	// Without one the program is ended.
	w = startRun(t, nil, live...)
	w.ends(t, "exit status 1")
	if !strings.Contains(w.err.String(), "the program is ended") {
		t.Errorf("%s", w.err.String())
	}
}

// A watchdog without checks is fed as long as the program runs.
func TestRunFeedsTheWatchdog(t *testing.T) {
	t.Parallel()
	n := listenNotify(t)
	w := &wrapped{Cmd: exec.CommandContext(t.Context(), "gpuherd", "run", "--", "sleep", "600")}
	w.Env = append(os.Environ(), "NOTIFY_SOCKET="+n.socket, "WATCHDOG_USEC=60000")
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Process.Kill() })
	eventually(t, "fed three times", func() bool {
		fed := 0
		for _, s := range n.all() {
			if s == "WATCHDOG=1" {
				fed++
			}
		}
		return fed >= 3
	})
	_ = w.Process.Signal(syscall.SIGTERM)
	w.ends(t, "signal: terminated")
}

// The channel of a node program written for PM2.
func TestRunNodeChannel(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("no node: apt-get install nodejs")
	}
	n := listenNotify(t)
	const app = `
		process.on('message', m => { console.log('got ' + m); process.exit(m === 'shutdown' ? 4 : 1) })
		process.send({ type: 'process:msg', data: 'ready' })
		process.stdin.once('data', () => process.send('ready'))
		console.log('main ' + process.pid)`
	w := &wrapped{Cmd: exec.CommandContext(t.Context(), "gpuherd", "run", "--ready-message", "--stop-message", "--", "node", "-e", app)}
	w.Stdout, w.Stderr = &w.out, &w.err
	w.Env = append(os.Environ(), "NOTIFY_SOCKET="+n.socket)
	stdin, err := w.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Process.Kill() })
	w.pidIn(t, "main")
	if n.has("READY=1") >= 0 {
		t.Error("ready before it said so")
	}
	fmt.Fprintln(stdin, "go")
	n.wait(t, "READY=1")
	_ = w.Process.Signal(syscall.SIGTERM)
	w.ends(t, "exit status 4")
	if !strings.Contains(w.out.String(), "got shutdown\n") {
		t.Errorf("%q", w.out.String())
	}
}
