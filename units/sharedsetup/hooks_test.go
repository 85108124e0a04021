package sharedsetup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hook puts an executable shell script into setup.d.
func (m *machine) hook(name string, mode os.FileMode, script string) {
	m.Helper()
	m.write("etc/gpuherd/setup.d/"+name, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(filepath.Join(m.root, "etc/gpuherd/setup.d", name), mode); err != nil {
		m.Fatal(err)
	}
}

// The tests here run alone: a script that is being written while another test
// forks cannot be executed ("text file busy").

func TestHooks(t *testing.T) {
	m := newMachine(t)
	m.write("etc/gpuherd/gpuherd.conf", "[GPU]\nCount=3\nSimulate=yes\n[Environment]\nCOLOUR=green\n")
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	t.Setenv("REDIS_URL", "redis://:hunter2@db/")
	m.hook("20-second", 0o755, `echo "$NUM_GPUS $COLOUR ${NOTIFY_SOCKET-none} ${REDIS_URL-none}"; test -s "$GPUHERD_INVENTORY" && printf "no newline"`)
	m.hook("10-first", 0o700, `echo out; echo err >&2; exit 3`)
	m.hook("30-third", 0o755, `echo third`)
	m.hook("40-writable", 0o775, `echo must not run`)
	m.hook("50-plain", 0o644, `echo must not run`)
	m.hook(".hidden", 0o755, `echo must not run`)
	m.hook("60-old.dpkg-old", 0o755, `echo must not run`)
	m.hook("60-old~", 0o755, `echo must not run`)
	if err := os.Symlink("30-third", filepath.Join(m.root, "etc/gpuherd/setup.d/70-link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(m.root, "etc/gpuherd/setup.d/80-folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.run() // a failing program fails no worker
	first := "10-first: out\n10-first: err\n"
	if diff := cmp.Diff(first+"20-second: 3 green none none\n20-second: no newline\n30-third: third\n", m.output.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	want := "3 GPUs, simulated; setup.d: 2 programs ran; FAILED in setup.d: 10-first (exit status 3), " +
		"40-writable (group or others may write to it (mode 0775)), 70-link (not a regular file), 80-folder (not a regular file)"
	if diff := cmp.Diff(want, m.last()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if !strings.Contains(strings.Join(m.status, "\n"), "running /etc/gpuherd/setup.d/20-second") {
		t.Errorf("no status of a running program: %q", m.status)
	}

	m.output.Reset()
	m.run()
	if diff := cmp.Diff(first, m.output.String()); diff != "" {
		t.Errorf("a second run in the same boot runs what failed, and that alone (-want +got):\n%s", diff)
	}

	m.output.Reset()
	m.write("proc/sys/kernel/random/boot_id", "another-boot\n")
	m.run()
	if got := strings.Count(m.output.String(), "\n"); got != 5 {
		t.Errorf("after a new boot %d lines, want 5:\n%s", got, m.output.String())
	}

	// Anyone who can write to the folder could put a program there.
	m.output.Reset()
	m.write("proc/sys/kernel/random/boot_id", "a third boot\n")
	if err := os.Chmod(filepath.Join(m.root, "etc/gpuherd/setup.d"), 0o777); err != nil {
		t.Fatal(err)
	}
	m.run()
	if m.output.Len() > 0 || !strings.Contains(m.last(), "FAILED in setup.d: all (group or others may write to it") {
		t.Errorf("a folder writable for all: output %q, status %q", m.output.String(), m.last())
	}
}

func TestHookTimeout(t *testing.T) {
	m := newMachine(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	// The shell and its child ignore SIGTERM: both must be gone afterwards.
	m.hook("10-hangs", 0o755, fmt.Sprintf(`trap "" TERM; sleep 1000 & echo $! >%s; echo started; wait; sleep 1000`, pidFile))
	m.hook("20-next", 0o755, `echo next`)
	m.setup.HookTimeout = 2 * time.Second // a loaded machine starts a shell within
	m.setup.killDelay = 100 * time.Millisecond
	m.run()
	if got, want := m.output.String(), "10-hangs: started\n20-next: next\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
	if want := "10-hangs (still running after 2s, killed)"; !strings.Contains(m.last(), want) {
		t.Errorf("status %q lacks %q", m.last(), want)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d of the killed program is still there", pid)
		}
	}
}

// alive reports whether a process runs; a zombie that nobody reaps does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestHookLeavesProcessBehind(t *testing.T) {
	m := newMachine(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	m.hook("10-daemon", 0o755, fmt.Sprintf(`sleep 1000 & echo $! >%s`, pidFile))
	m.setup.killDelay = 50 * time.Millisecond
	m.run()
	if got := m.last(); got != "0 GPUs; setup.d: 1 program ran" {
		t.Errorf("status %q", got)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Error("the process that the program left behind was ended")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestHookStopped(t *testing.T) {
	m := newMachine(t)
	m.hook("10-waits", 0o755, `echo started; exec sleep 1000`)
	m.hook("20-next", 0o755, `echo must not run`)
	ctx, cancel := context.WithCancel(context.Background())
	m.setup.Output = writerFunc(func(p []byte) (int, error) {
		cancel() // as soon as it runs, setup is stopped
		return m.output.Write(p)
	})
	if err := m.setup.Run(ctx); err == nil {
		t.Error("a stopped run ended well")
	}
	if got := m.output.String(); got != "10-waits: started\n" {
		t.Errorf("output %q", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestPrefixWriter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, ""},
		{[]string{"a\nb\n"}, "p: a\np: b\n"},
		{[]string{"a", "b\n", "\nc"}, "p: ab\np: \np: c\n"},
		{[]string{strings.Repeat("x", maxHookLine+1) + "\n"}, "p: " + strings.Repeat("x", maxHookLine) + "\np: x\n"},
		{[]string{strings.Repeat("x", maxHookLine) + "\ny\n"}, "p: " + strings.Repeat("x", maxHookLine) + "\np: y\n"},
	} {
		var b strings.Builder
		p := &prefixWriter{w: &b, prefix: "p: "}
		for _, s := range c.in {
			if n, err := p.Write([]byte(s)); n != len(s) || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
		}
		p.flush()
		if b.String() != c.want {
			t.Errorf("%.40q gave %.80q, want %.80q", c.in, b.String(), c.want)
		}
	}
}
