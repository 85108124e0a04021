package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// program builds the monitor once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "monitor")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "gpuherd-monitor")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// A process is a running monitor.
type process struct {
	t       testing.TB
	cmd     *exec.Cmd
	log     *bytes.Buffer
	notify  *net.UnixConn
	said    []string // what it told systemd
	port    string
	stopped bool
}

// start runs the monitor beside a systemd and a Redis.
func start(t testing.TB, systemd *bustest.Systemd, redis *redistest.Server, stateDir string) *process {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = notify.Close() })
	p := &process{t: t, notify: notify, log: &bytes.Buffer{}, port: freePort(t)}
	p.cmd = exec.Command(path)
	p.cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "REDIS_URL="+redis.URL(), "MACHINE_ID=box",
		"HEALTH_PORT="+p.port, "STATE_DIRECTORY="+stateDir, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=15000000", "CREDENTIALS_DIRECTORY=")
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !p.stopped {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("the monitor said:\n%s", p.log)
		}
	})
	return p
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// hears waits until the monitor tells systemd a line.
func (p *process) hears(line string) {
	p.t.Helper()
	buf := make([]byte, 4096)
	_ = p.notify.SetReadDeadline(time.Now().Add(20 * time.Second))
	for !slices.Contains(p.said, line) {
		n, err := p.notify.Read(buf)
		if err != nil {
			p.t.Fatalf("never said %s, but %q: %v", line, p.said, err)
		}
		p.said = append(p.said, strings.Split(string(buf[:n]), "\n")...)
	}
}

func (p *process) get(path string) (int, string) {
	p.t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://127.0.0.1:" + p.port + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// end stops it with a signal and returns its exit status.
func (p *process) end(sig syscall.Signal) int {
	p.t.Helper()
	p.stopped = true
	_ = p.cmd.Process.Signal(sig)
	watch := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer watch.Stop()
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

func unit(n int, active, sub string, at, invocation int) state.Observation {
	return state.Observation{Name: fmt.Sprintf("w@%d.service", n), Active: active, Sub: sub, Result: "success", MainPID: uint32(invocation),
		InvocationID: bustest.Invocation(invocation), ChangedMonoUS: uint64(at), ChangedUS: uint64(time.Now().UnixMicro())}
}

func herd(n int) []state.Observation {
	var all []state.Observation
	for i := range n {
		all = append(all, unit(i, "active", "running", 1, 1000+i))
	}
	return all
}

// The whole program: ready without Redis, everything told once Redis is there,
// the next epoch after a kill, a good end.
func TestProgram(t *testing.T) {
	t.Parallel()
	systemd := bustest.Start(t, herd(2)...)
	redis := redistest.Start(t)
	redis.Kill()
	dir := t.TempDir()
	p := start(t, systemd, redis, dir)
	p.hears("READY=1")
	eventually(t, "HTTP is there", func() bool { code, _ := p.get("/healthz"); return code == 200 })
	if code, body := p.get("/readyz"); code != 503 || !strings.Contains(strings.ToLower(body), "redis") {
		t.Errorf("without Redis /readyz is %d %q", code, body)
	}
	systemd.Announce(unit(0, "failed", "failed", 2, 1000))
	systemd.Announce(unit(0, "active", "running", 3, 2000))

	redis.Restart()
	c := redis.Client(t)
	types := func() (all []string) {
		entries, err := c.XRange(t.Context(), "gpuherd:{box}:events", "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			var data struct{ Event, Unit, Reason string }
			_ = json.Unmarshal([]byte(e.Values["data"].(string)), &data)
			all = append(all, fmt.Sprint(e.Values["epoch"], e.Values["type"], data.Event, data.Reason))
		}
		return all
	}
	want := []string{"1hostonline", "1unitfailed", "1unitrunning", "1snapshotconnected"}
	eventually(t, "all events are there", func() bool { return slices.Equal(types(), want) })
	eventually(t, "it is ready", func() bool { code, _ := p.get("/readyz"); return code == 200 })
	eventually(t, "the heart beats", func() bool { return c.ZScore(t.Context(), "gpuherd:hosts", "box").Err() == nil }) // the last of it
	for path, want := range map[string]string{
		"/api/v1/host": `"host":"box"`, "/api/v1/units": `"unit":"w@1.service"`, "/api/v1/gpus": `"gpus":[`, "/api/v1/jobs": `"jobs":[],"queue":{"queue":"gpu",`,
		"/api/v1/hosts": `"hosts":[{"host":"box","state":"alive",`, "/": `<td class="">w@1</td>`, "/fleet": `<td class="">box</td><td class="good">alive</td>`, "/health": "there is nothing here",
	} {
		if code, body := p.get(path); !strings.Contains(body, want) {
			t.Errorf("%s is %d %s, want %s", path, code, body, want)
		}
	}
	if code, body := p.get("/metrics"); code != 200 || !strings.Contains(body, `gpuherd_unit_restarts_total{`) {
		t.Errorf("/metrics is %d without the restarts", code)
	}

	p.end(syscall.SIGKILL)
	systemd.Set(unit(1, "active", "running", 9, 3000)) // unseen
	p = start(t, systemd, redis, dir)
	p.hears("READY=1")
	want = append(want, "2hostonline", "2unitrunning", "2snapshotconnected")
	eventually(t, "the next epoch", func() bool { return slices.Equal(types(), want) })
	for name, restarts := range map[string]uint64{"w@0.service": 1, "w@1.service": 1} {
		var u state.Unit
		if err := json.Unmarshal([]byte(c.HGet(t.Context(), "gpuherd:{box}:units", name).Val()), &u); err != nil || u.Restarts != restarts {
			t.Errorf("%s is %+v, %v, want %d restarts", name, u, err, restarts)
		}
	}
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if got := types(); got[len(got)-1] != "2hostoffline" {
		t.Errorf("events are %q", got)
	}
	if c.Exists(t.Context(), "gpuherd:{box}:heartbeat").Val() != 0 {
		t.Error("the heartbeat is there after the end")
	}
}

// A second monitor on the host ends at once and leaves the first alone.
func TestSecondMonitor(t *testing.T) {
	t.Parallel()
	systemd := bustest.Start(t, herd(1)...)
	redis := redistest.Start(t)
	dir := t.TempDir()
	first := start(t, systemd, redis, dir)
	first.hears("READY=1")
	eventually(t, "it is ready", func() bool { code, _ := first.get("/readyz"); return code == 200 })
	second := start(t, systemd, redis, dir)
	if status := second.end(0); status != exitFailure {
		t.Errorf("exit status %d, want %d", status, exitFailure)
	}
	if !strings.Contains(second.log.String(), "another monitor runs on this host (lock "+dir+"/lock)") {
		t.Errorf("the second one said %s", second.log)
	}
	if epoch, err := os.ReadFile(filepath.Join(dir, "epoch")); string(epoch) != "1" || err != nil {
		t.Errorf("epoch is %s, %v, want 1", epoch, err)
	}
	systemd.Announce(unit(0, "failed", "failed", 2, 1000))
	c := redis.Client(t)
	// Not the last: where the machine is slow, the snapshot of the start comes after it.
	eventually(t, "the first one still writes", func() bool {
		entries, err := c.XRange(t.Context(), "gpuherd:{box}:events", "-", "+").Result()
		return err == nil && slices.ContainsFunc(entries, func(e goredis.XMessage) bool {
			return strings.Contains(fmt.Sprint(e.Values["data"]), `"event":"failed"`)
		})
	})
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args   []string
		status int
	}{
		{[]string{"--version"}, 0},
		{[]string{"--help"}, 0},
		{[]string{"--nonsense"}, exitUsage},
		{[]string{"nonsense"}, exitUsage},
	} {
		var out, errs bytes.Buffer
		if got := run(t.Context(), tt.args, &out, &errs); got != tt.status {
			t.Errorf("%q: status %d, want %d; %s", tt.args, got, tt.status, &errs)
		}
		if tt.args[0] == "--version" && out.Len() == 0 {
			t.Error("no version")
		}
	}
}

// The goal for 64 units is 25 MB.
func TestMemory(t *testing.T) {
	t.Parallel()
	const goal = 25 << 10 // kB
	systemd := bustest.Start(t, herd(64)...)
	redis := redistest.Start(t)
	p := start(t, systemd, redis, t.TempDir())
	p.hears("READY=1")
	eventually(t, "it is ready", func() bool { code, _ := p.get("/readyz"); return code == 200 })
	for round := range 20 { // some life
		for i := range 64 {
			invocation := 1000*(round+1) + i
			systemd.Announce(unit(i, "failed", "failed", 2*round+2, invocation))
			systemd.Announce(unit(i, "active", "running", 2*round+3, invocation+1000))
		}
		p.get("/metrics")
	}
	c := redis.Client(t)
	eventually(t, "all is told", func() bool { return c.XLen(t.Context(), "gpuherd:{box}:events").Val() >= 64*20*2 })
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var rss, peak int
	for _, l := range strings.Split(string(status), "\n") {
		_, _ = fmt.Sscanf(l, "VmRSS: %d kB", &rss)
		_, _ = fmt.Sscanf(l, "VmHWM: %d kB", &peak)
	}
	t.Logf("RSS %d kB, peak %d kB", rss, peak)
	if rss > goal {
		t.Errorf("RSS is %d kB, the goal %d kB", rss, goal)
	}
}

// BenchmarkSignalToSubscriber takes the time from a signal of systemd to the
// message on the Redis channel.
func BenchmarkSignalToSubscriber(b *testing.B) {
	systemd := bustest.Start(b, herd(64)...)
	redis := redistest.Start(b, "--appendonly", "no") // as Redis comes; the disk is not what is measured
	p := start(b, systemd, redis, b.TempDir())
	p.hears("READY=1")
	eventually(b, "it is ready", func() bool { code, _ := p.get("/readyz"); return code == 200 })
	sub := redis.Client(b).Subscribe(b.Context(), "gpuherd:{box}:notify")
	defer sub.Close()
	if _, err := sub.Receive(b.Context()); err != nil {
		b.Fatal(err)
	}
	took := make([]time.Duration, 0, b.N)
	invocation, at, fails := 1000, 1, true
	for b.Loop() {
		at++
		next := unit(0, "failed", "failed", at, invocation)
		if !fails {
			invocation++
			next = unit(0, "active", "running", at, invocation)
		}
		fails = !fails
		began := time.Now()
		systemd.Announce(next)
		for {
			msg, err := sub.ReceiveMessage(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if strings.Contains(msg.Payload, `"type":"unit"`) {
				break
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
