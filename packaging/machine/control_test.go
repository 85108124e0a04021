package machine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// startAgent runs the real guest/agent on this host, with a systemctl that
// says the given state, and returns the host's end.
func startAgent(t *testing.T, state string) *control {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	c := &control{dir: filepath.Join(dir, "control")}
	for _, d := range []string{bin, c.dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{
		filepath.Join(dir, "agent"):     guestFile("agent"),
		filepath.Join(bin, "systemctl"): []byte("#!/bin/sh\necho " + state + "\n"),
	} {
		if err := os.WriteFile(name, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(dir, "agent"))
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, as it should be
	})
	return c
}

// within is a context for what takes well under a second.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAgentRuns(t *testing.T) {
	t.Parallel()
	c := startAgent(t, "running")
	for _, test := range []struct {
		argv        []string
		status      int
		stdout, err string
	}{
		{argv: []string{"true"}},
		{argv: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, status: 7, stdout: "out\n", err: "err\n"},
		{argv: []string{"printf", "%s|", "it's", "", "a  b", "$HOME", "line\nline", `\`}, stdout: "it's||a  b|$HOME|line\nline|\\|"},
		{argv: []string{"sh", "-c", "kill -9 $$"}, status: 137},
		{argv: []string{"cat"}}, // no input
		{argv: []string{"pwd"}, stdout: "/\n"},
		{argv: []string{"seq", "100000"}, stdout: seq(100000)},
	} {
		var stdout, stderr bytes.Buffer
		status, err := c.run(within(t), test.argv, &stdout, &stderr, nil)
		if err != nil {
			t.Fatalf("%q: %v", test.argv, err)
		}
		if status != test.status || stdout.String() != test.stdout || stderr.String() != test.err {
			t.Errorf("%q: status %d, stdout %.80q, stderr %.80q; want %d, %.80q, %.80q", test.argv,
				status, stdout.String(), stderr.String(), test.status, test.stdout, test.err)
		}
	}
	if status, err := c.run(within(t), []string{"no-such-program"}, nil, nil, nil); err != nil || status != 127 {
		t.Errorf("a missing program: status %d, error %v; want 127", status, err)
	}
}

func seq(n int) string {
	out, err := exec.Command("seq", strconv.Itoa(n)).Output()
	if err != nil {
		panic(err)
	}
	return string(out)
}

// TestAgentStreams sees the output of a command that waits for it to be seen.
func TestAgentStreams(t *testing.T) {
	t.Parallel()
	c := startAgent(t, "running")
	release := filepath.Join(t.TempDir(), "release")
	seen := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("early")) {
			return len(p), os.WriteFile(release, nil, 0o644)
		}
		return len(p), nil
	})
	status, err := c.run(within(t), []string{"sh", "-c", "echo early; until [ -e " + release + " ]; do sleep 0.01; done; exit 3"}, seen, nil, nil)
	if err != nil || status != 3 {
		t.Errorf("status %d, error %v", status, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestAgentRunsTogether has two commands that each need the other to run.
func TestAgentRunsTogether(t *testing.T) {
	t.Parallel()
	c := startAgent(t, "running")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	ctx := within(t)
	var wg sync.WaitGroup
	for _, script := range []string{"echo x >" + fifo, "read x <" + fifo} {
		wg.Go(func() {
			if status, err := c.run(ctx, []string{"sh", "-c", script}, nil, nil, nil); err != nil || status != 0 {
				t.Errorf("%s: status %d, error %v", script, status, err)
			}
		})
	}
	wg.Wait()
}

func TestAgentCancels(t *testing.T) {
	t.Parallel()
	c := startAgent(t, "running")
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(within(t))
	started := writerFunc(func(p []byte) (int, error) {
		cancel(stop)
		return len(p), nil
	})
	// The lock is held by the command and its children, to the last of them.
	path := filepath.Join(t.TempDir(), "lock")
	_, err := c.run(ctx, []string{"flock", path, "sh", "-c", "echo started; sleep 60; true"}, started, nil, nil)
	if !errors.Is(err, stop) {
		t.Fatalf("got error %v, want the context's cause", err)
	}
	unlock, err := lockFile(within(t), path)
	if err != nil {
		t.Fatalf("the command outlived its context: %v", err)
	}
	unlock()
}

func TestRunNoticesTheEndOfTheMachine(t *testing.T) {
	t.Parallel()
	c := &control{dir: t.TempDir()} // nobody there
	gone := make(chan struct{})
	close(gone)
	if _, err := c.run(within(t), []string{"true"}, nil, nil, gone); !errors.Is(err, errMachineEnded) {
		t.Errorf("got error %v, want %v", err, errMachineEnded)
	}
}

func TestAgentTellsOfTheBoot(t *testing.T) {
	t.Parallel()
	c := startAgent(t, "degraded")
	ctx := within(t)
	for {
		if words, ok := c.ready("booted"); ok {
			if len(words) != 2 || words[0] != "degraded" {
				t.Errorf("booted says %q", words)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the agent never told of the boot")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
