package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/systemdtest"
	"gpuherd/generator"
	"gpuherd/monitor/state"
)

// A screen is a terminal of tmux with a program on it.
type screen struct {
	t      *testing.T
	socket string
}

// newScreen runs a shell command on a terminal of 80×24. Its environment is
// the test's, and env.
func newScreen(t *testing.T, command string, env ...string) *screen {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("no tmux: apt-get install tmux")
	}
	dir, err := os.MkdirTemp("", "tmux") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t, filepath.Join(dir, "s")}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte("set -g status off\nset -g escape-time 0\nset -g default-terminal screen-256color\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := s.tmux("-u", "-f", conf, "new-session", "-d", "-x", "80", "-y", "24", command)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TMUX") || strings.HasPrefix(v, "NO_COLOR")
	}), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	t.Cleanup(func() {
		_ = s.tmux("kill-server").Run()
		_ = os.RemoveAll(dir)
	})
	return s
}

func (s *screen) tmux(args ...string) *exec.Cmd {
	return exec.CommandContext(context.Background(), "tmux", append([]string{"-S", s.socket}, args...)...)
}

func (s *screen) capture(args ...string) string {
	s.t.Helper()
	out, err := s.tmux(append([]string{"capture-pane", "-p"}, args...)...).Output()
	if err != nil {
		s.t.Fatalf("tmux capture-pane: %v", err)
	}
	return string(out)
}

// sees waits until all patterns match what the terminal shows, and returns that.
func (s *screen) sees(patterns ...string) string {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		shown := s.capture()
		missing := ""
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(shown) {
				missing = p
			}
		}
		if missing == "" {
			return shown
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("never seen: %s\n%s", missing, shown)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *screen) keys(keys ...string) {
	s.t.Helper()
	if out, err := s.tmux(append([]string{"send-keys"}, keys...)...).CombinedOutput(); err != nil {
		s.t.Fatalf("tmux send-keys: %v: %s", err, out)
	}
}

// golden waits until the terminal shows what testdata/monit has.
func (s *screen) golden(name string, patterns ...string) {
	s.t.Helper()
	file := filepath.Join("testdata/monit", name)
	shown := anyHost(s.sees(patterns...))
	if *update {
		if err := os.WriteFile(file, []byte(shown), 0o644); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatalf("%v; go test -update writes it", err)
	}
	for deadline := time.Now().Add(20 * time.Second); shown != string(want) && time.Now().Before(deadline); shown = anyHost(s.capture()) {
		time.Sleep(20 * time.Millisecond)
	}
	if diff := cmp.Diff(string(want), shown); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// anyHost takes the host's name out of the first line, and the space that
// depends on it.
func anyHost(shown string) string {
	title, rest, _ := strings.Cut(shown, "\n")
	_, title, _ = strings.Cut(title, ": ")
	return "HOST: " + strings.Join(strings.Fields(title), " ") + "\n" + rest
}

const journalOfScreens = `#!/bin/sh
# The journal of a worker, with what a terminal would obey.
for word; do unit=${word#--unit=}; done
i=0
while [ $i -lt 40 ]; do
	echo "{\"MESSAGE\":\"$unit step $i\",\"PRIORITY\":\"6\",\"__REALTIME_TIMESTAMP\":\"$((1777636800 + i))000000\"}"
	i=$((i + 1))
done
echo '{"MESSAGE":[27,91,50,74,27,93,48,59,111,7,98,111,111],"PRIORITY":"3","__REALTIME_TIMESTAMP":"1777636840000000"}'
echo '{"MESSAGE":"\u001b[32mgreen\u001b[0m again","PRIORITY":"6","__REALTIME_TIMESTAMP":"1777636841000000"}'
exec sleep 600
`

// TestMonit drives the screen as a person does.
func TestMonit(t *testing.T) {
	t.Parallel()
	units := herdOfScripts()
	for i := range units {
		if units[i].Name == "redis-worker@0.service" {
			units[i].After = map[string]any{"NRestarts": uint32(1), "StatusText": "fresh"}
		}
	}
	systemd := systemdtest.Start(t, units...)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "journalctl"), []byte(journalOfScreens), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newScreen(t, "gpuherd monit; echo rc=$?; exec sleep 600",
		"DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "PATH="+bin+":"+os.Getenv("PATH"), "TZ=UTC",
		"REDIS_URL=redis://127.0.0.1:1", "SHELL=/bin/sh")

	s.golden("open.80x24", "comfyui@1.* step 39", "boo", "not available")
	s.keys("j", "j", "j")
	s.golden("worker.80x24", "log of redis-worker@0", "redis-worker@0.service step 39")
	s.keys("/", "step 3", "Enter", "n")
	s.golden("search.80x24", ">12:00:38")
	// An escape that keys follow at once would be Alt with the first of them.
	s.keys("Escape")
	s.sees("stopped, f follows ── job")
	s.keys("&", "STEP 2")
	s.sees("only lines with: STEP 2")
	s.keys("Escape")
	s.sees("Enter details")
	s.keys("&", "step 2", "Enter")
	s.golden("filter.80x24", "only \"step 2\"")
	s.keys("Escape")
	s.sees("stopped, f follows ── job")
	s.keys("l")
	s.golden("log.80x24", "step 25")
	s.keys("l", "Enter")
	s.sees("details of redis-worker@0", "Unit: redis-worker@0.service", `Service file: /usr/lib`, `HF_TOKEN=\*\*\*`)
	s.keys("q", "?")
	s.golden("help.80x24", "Esc +back: ends")
	s.keys("Escape")
	s.sees("log of redis-worker@0")

	// Nothing is asked of systemd before the answer.
	s.keys("r")
	s.golden("question.80x24", `restart redis-worker@0\? y yes, n no`)
	s.keys("n")
	s.sees("left as it is")
	if calls := systemd.Calls(); len(calls) > 0 {
		t.Errorf("asked of systemd before the answer: %q", calls)
	}
	s.keys("r", "y")
	s.sees(`redis-worker@0: restarted in \d+ms`, "── fresh")
	s.keys("k", "k", "s", "y")
	s.sees("guarded: systemd does not let you stop it; run gpuherd as root")
	if diff := cmp.Diff([]string{"RestartUnit redis-worker@0.service replace", "StopUnit guarded.service replace"}, systemd.Calls()); diff != "" {
		t.Errorf("asked of systemd (-want +got):\n%s", diff)
	}

	// What changes is seen as it does, in the table and among the events.
	systemd.Change(t, "redis-worker@10.service", map[string]any{
		"ActiveState": "failed", "SubState": "failed", "Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(9),
		"StateChangeTimestamp": uint64(1777636900000000), "StateChangeTimestampMonotonic": uint64(5),
	})
	s.sees("2 failed", "redis-worker@10  failed")
	s.keys("e")
	s.golden("events.80x24", "redis-worker@10 failed: signal 9")
	if out, err := s.tmux("resize-window", "-x", "200", "-y", "50").CombinedOutput(); err != nil {
		t.Fatalf("tmux resize-window: %v: %s", err, out)
	}
	s.golden("events.200x50", "STATUS", "q quit")
	s.keys("e")
	s.golden("wide.200x50", "log of guarded", `guarded.service step 2\s`)
	if coloured := s.capture("-e"); !strings.Contains(coloured, "\x1b[31m") {
		t.Errorf("nothing is red: %q", coloured)
	}
	if out, err := s.tmux("resize-window", "-x", "80", "-y", "24").CombinedOutput(); err != nil {
		t.Fatalf("tmux resize-window: %v: %s", err, out)
	}
	s.sees("guarded.service step 39", "q quit")

	s.keys("q")
	s.sees("^rc=0")
}

// TestMonitDetailsAreLive: a restart is asked for where the old process is shown,
// and the new one is seen without another key.
func TestMonitDetailsAreLive(t *testing.T) {
	t.Parallel()
	units := herdOfScripts()
	for i := range units {
		if units[i].Name == "redis-worker@0.service" {
			units[i].Props["MainPID"] = uint32(1 << 30) // nobody's
			units[i].After = map[string]any{"MainPID": uint32(1<<30 + 1), "StatusText": "fresh"}
		}
	}
	systemd := systemdtest.Start(t, units...)
	s := newScreen(t, "gpuherd monit redis-worker; echo rc=$?; exec sleep 600",
		"DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "REDIS_URL=redis://127.0.0.1:1", "SHELL=/bin/sh")
	s.sees("log of redis-worker@0")
	s.keys("Enter")
	s.sees("details of redis-worker@0", "Main PID: +1073741824\\b")
	s.keys("r", "y")
	s.sees(`redis-worker@0: restarted in \d+ms`, "Main PID: +1073741825\\b", "Status: +fresh")
	s.keys("q")
	s.sees("log of redis-worker@0 .* fresh")
	s.keys("q")
	s.sees("^rc=0")
}

// newScalable returns the screen of a machine with two GPUs and the services of
// herdOfMachines, its systemd, and the folder with its files. Jobs on the units
// of which jobs tells end as it says.
func newScalable(t *testing.T, jobs map[string]string) (*screen, *systemdtest.Systemd, string) {
	t.Helper()
	root := t.TempDir()
	if err := putServices(root); err != nil {
		t.Fatal(err)
	}
	if err := put(root, "etc/gpuherd/gpuherd.conf", "[GPU]\nSimulate=yes\nCount=2\n[Service hello-world]\nEnabled=yes\n"); err != nil {
		t.Fatal(err)
	}
	units := herdOfMachines()
	for i := range units {
		u := &units[i]
		u.Unwanted = u.Unwanted && u.Name != "hello-world.service"
		switch how := jobs[u.Name]; how {
		case "refuse":
			u.Refuse = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
		default:
			u.Job = how
		}
	}
	systemd := systemdtest.Start(t, units...)
	systemd.Generate(func() []string {
		var wants []string
		for _, w := range generator.Compute(generator.Options{Root: root}).Plan.Workers {
			wants = append(wants, w.Unit)
		}
		return wants
	})
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "journalctl"), []byte(journalOfScreens), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newScreen(t, "gpuherd monit; echo rc=$?; exec sleep 600",
		"DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "TEST_ROOT="+root, "PATH="+bin+":"+os.Getenv("PATH"), "TZ=UTC",
		"REDIS_URL=redis://127.0.0.1:1", "SHELL=/bin/sh")
	s.sees("5 workers", "log of comfyui@0", "step 39")
	return s, systemd, root
}

// TestMonitScales: + and - do what scale does, while the screen goes on.
func TestMonitScales(t *testing.T) {
	t.Parallel()
	s, systemd, root := newScalable(t, nil)
	conf := filepath.Join(root, "etc/gpuherd/gpuherd.conf.d/90-redis-worker.conf")
	s.keys("j", "j", "j", "+")
	s.golden("scale.80x24", `scale redis-worker from 1 to 2 workers on each device\? y yes, n no`)
	s.keys("n")
	s.sees("redis-worker: left as it is")
	if calls := systemd.Calls(); len(calls) > 0 {
		t.Errorf("asked of systemd before the answer: %q", calls)
	}
	if _, err := os.Stat(conf); err == nil {
		t.Errorf("%s is there before the answer", conf)
	}

	// The new ones come in between, and the selection stays where it was.
	s.keys("+")
	s.sees("scale redis-worker from 1 to 2 workers")
	s.keys("y")
	s.golden("scaled.80x24", "redis-worker has 2 workers a device \\(1 before\\)", "7 workers", "> redis-worker@0 ", "  redis-worker@0.2  running", "  redis-worker@1.2  running")
	if out, err := s.tmux("resize-window", "-x", "200", "-y", "50").CombinedOutput(); err != nil {
		t.Fatalf("tmux resize-window: %v: %s", err, out)
	}
	s.golden("scaled.200x50", "STATUS", "has 2 workers a device")
	if text, err := os.ReadFile(conf); err != nil || !strings.Contains(string(text), "[Service redis-worker]\nInstances=2\n") {
		t.Errorf("%s holds %q, %v", conf, text, err)
	}
	want := []string{"Reload", "StartUnit redis-worker@0.2.service replace", "StartUnit redis-worker@1.2.service replace"}
	if diff := cmp.Diff(want, systemd.Sequence()); diff != "" {
		t.Errorf("asked of systemd (-want +got):\n%s", diff)
	}

	// Back, from one that goes: the selection moves on to the next one.
	s.keys("j")
	s.sees("> redis-worker@0.2", "log of redis-worker@0.2", "\\+ - scale")
	s.keys("-")
	s.sees("scale redis-worker from 2 to 1 worker on each device")
	s.keys("y")
	s.sees("redis-worker has 1 worker a device \\(2 before\\)", "5 workers", "> redis-worker@1 ", "log of redis-worker@1")
	want = append(want, "StopUnit redis-worker@0.2.service replace", "StopUnit redis-worker@1.2.service replace", "Reload")
	if diff := cmp.Diff(want, systemd.Sequence()); diff != "" {
		t.Errorf("asked of systemd (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(conf); err == nil {
		t.Errorf("%s is left behind", conf)
	}

	// What cannot be is said as scale says it, and changes nothing.
	s.keys("-")
	s.sees("a service has one worker a device at least; gpuherd disable switches it off")
	s.keys("+")
	s.sees("from 1 to 2 workers")
	s.keys("2", "5", "7")
	s.sees("from 1 to 257 workers")
	s.keys("y")
	s.sees(`"257" is no number of workers from 1 to 256`)
	s.keys("k", "k", "+")
	s.sees("hello-world runs once a host \\(Per=host in /usr/lib/gpuherd/services/hello-world.service\\), and cannot be scaled")
	if err := put(root, "etc/gpuherd/gpuherd.conf.d/90-comfyui.conf", "# the operator's\n"); err != nil {
		t.Fatal(err)
	}
	s.keys("k", "+")
	s.sees("scale comfyui from 1 to 2 workers")
	s.keys("y")
	s.sees("/etc/gpuherd/gpuherd.conf.d/90-comfyui.conf was not written by gpuherd; set it there")
	if diff := cmp.Diff(want, systemd.Sequence()); diff != "" {
		t.Errorf("asked of systemd (-want +got):\n%s", diff)
	}
	s.keys("q")
	s.sees("^rc=0")
}

// TestMonitScalesInVain: a worker that does not start, and polkit's refusal,
// are told with the way back.
func TestMonitScalesInVain(t *testing.T) {
	t.Parallel()
	s, _, _ := newScalable(t, map[string]string{"redis-worker@0.2.service": "refuse", "redis-worker@1.2.service": "failed"})
	s.keys("j", "j", "j", "+")
	s.sees("scale redis-worker from 1 to 2 workers")
	s.keys("y")
	shown := strings.Join(strings.Fields(s.sees("to undo it: gpuherd")), " ")
	for _, want := range []string{
		"systemd does not let you start units; run it as root (sudo gpuherd start …)", "1 of 2 units did not start; see: gpuherd logs redis-worker@1.2",
		"to undo it: gpuherd scale redis-worker 1",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("it does not say %q: %s", want, shown)
		}
	}
}

// TestMonitLeavesHalfDone: whoever quits while a worker takes its time is
// asked, and told what is left to do.
func TestMonitLeavesHalfDone(t *testing.T) {
	t.Parallel()
	s, _, _ := newScalable(t, map[string]string{"redis-worker@1.2.service": "never"})
	s.keys("j", "j", "j", "+")
	s.sees("scale redis-worker from 1 to 2 workers")
	s.keys("y")
	s.sees(`redis-worker: start: 1 of 2 done, \d+s, waiting for redis-worker@1.2`, "redis-worker@0.2  running", "redis-worker@1.2  dead")
	s.keys("j", "+")
	s.sees("redis-worker is being scaled; one after the other", "log of redis-worker@0.2", "redis-worker@0.2.service step 39")
	s.keys("q")
	s.sees("a service is being scaled; quit, and leave that half done")
	s.keys("n")
	s.sees("redis-worker: start: 1 of 2 done")
	s.keys("q", "y")
	s.sees("^gpuherd: scaling was interrupted; to do the rest: gpuherd scale redis-worker 2\nrc=1")
}

// TestMonitEndsBySignal: the terminal is left as it was.
func TestMonitEndsBySignal(t *testing.T) {
	t.Parallel()
	systemd := systemdtest.Start(t, herdOfScripts()...)
	s := newScreen(t, "echo before; sh -c 'echo $$ >$PIDFILE; exec gpuherd monit redis-worker'; echo rc=$?; exec sleep 600",
		"DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "PATH="+os.Getenv("PATH"), "PIDFILE="+filepath.Join(t.TempDir(), "pid"),
		"REDIS_URL=redis://127.0.0.1:1", "SHELL=/bin/sh", "NO_COLOR=1")
	s.sees("2 workers, 2 active", "redis-worker@10", "log of redis-worker@0")
	if shown := s.capture("-e"); strings.Contains(shown, "\x1b") {
		t.Errorf("colours in spite of NO_COLOR: %q", shown)
	}
	out, err := s.tmux("show-environment", "-g", "PIDFILE").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(strings.TrimSpace(strings.TrimPrefix(string(out), "PIDFILE=")))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err == nil {
		err = syscall.Kill(n, syscall.SIGTERM)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.sees("^before\nrc=0")
}

// TestMonitSuspends: Ctrl+Z gives the shell its terminal, and fg the screen.
func TestMonitSuspends(t *testing.T) {
	t.Parallel()
	systemd := systemdtest.Start(t, herdOfScripts()...)
	s := newScreen(t, "exec bash --norc -i", "DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "REDIS_URL=redis://127.0.0.1:1")
	const prompt = `bash\S*[#$]\s*$`
	s.sees(prompt)
	s.keys("gpuherd monit", "Enter")
	s.sees("6 workers", "Enter details")
	s.keys("C-z")
	s.sees("Stopped", prompt)
	s.keys("fg", "Enter")
	s.sees("6 workers", "Enter details")
	s.keys("j", "q")
	s.sees(prompt)
}

func TestMonitored(t *testing.T) {
	t.Parallel()
	names := []string{"b.service", "gpuherd-monitor.service", "w@10.service", "w@2.service"}
	for _, tc := range []struct {
		words []string
		all   bool
		want  []string
	}{
		{nil, false, []string{"b.service", "w@2.service", "w@10.service"}},
		{nil, true, []string{"b.service", "gpuherd-monitor.service", "w@2.service", "w@10.service"}},
		{[]string{"w", "2", "gone"}, false, []string{"w@2.service", "w@10.service"}},
		{[]string{"gpuherd-monitor"}, false, []string{"gpuherd-monitor.service"}},
	} {
		t.Run(fmt.Sprint(tc.words, tc.all), func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, monitored(names, tc.words, tc.all)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMonitCells(t *testing.T) {
	t.Parallel()
	memory, limit := uint64(1900<<20), uint64(2<<30)
	c := monitCells(state.Unit{Active: "active", Sub: "running", SinceMS: now.Add(-time.Minute).UnixMilli(), Restarts: 2, MemoryBytes: &memory, MemoryMaxBytes: &limit, StatusText: "idle"}, now)
	got := []string{c.State.Text, c.Uptime.Text, c.Restarts.Text, c.Memory.Text, c.Status.Text}
	if diff := cmp.Diff([]string{"running", "1m", "2", "1.855G/2G", "idle"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if strings.ContainsFunc(strings.Join(got, ""), unicode.IsControl) {
		t.Errorf("control characters in %q", got)
	}
}
