//go:build acceptance

package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// far is the name by which ssh knows this machine as another one.
const far = "far"

// serveSSH runs a real sshd on loopback, which root may enter by a key.
func serveSSH(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	home := "/root/.ssh"
	key, host := filepath.Join(home, "acceptance"), filepath.Join(dir, "host")
	for _, folder := range []string{home, "/run/sshd"} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Remove(key)
	for _, name := range []string{key, host} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	const port = 2222
	if err := copyFile(key+".pub", filepath.Join(home, "authorized_keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := fmt.Sprintf("Host %s\nHostName 127.0.0.1\nPort %d\nIdentityFile %s\nBatchMode yes\nStrictHostKeyChecking accept-new\nUserKnownHostsFile %s\n", far, port, key, filepath.Join(dir, "known"))
	if err := os.WriteFile(filepath.Join(home, "config"), []byte(client), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null",
		"-o", fmt.Sprintf("ListenAddress=127.0.0.1:%d", port), "-o", "HostKey="+host, "-o", "PidFile=none", "-o", "UsePAM=no",
		"-o", "PermitRootLogin=prohibit-password")
	var log strings.Builder
	sshd.Stderr = &log
	if err := sshd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sshd.Process.Kill()
		_ = sshd.Wait()
		if t.Failed() {
			t.Logf("sshd:\n%s", &log)
		}
	})
	eventually(t, "ssh gets there", func() error {
		if out, err := exec.Command("ssh", far, "true").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// The verbs that ask systemd work on another host, by ssh.
func TestOverSSH(t *testing.T) {
	h := open(t)
	workers := h.workers()
	serveSSH(t)
	worker := strings.TrimSuffix(workers[0], ".service")

	if said := h.gpuherd(0, "-H", far, "list", "redis-worker"); strings.Count(said, "redis-worker@") != len(workers) {
		t.Errorf("list shows\n%s", said)
	}
	if said := h.gpuherd(0, "-H", far, "describe", worker); !strings.Contains(said, worker) {
		t.Errorf("describe says\n%s", said)
	}
	if said := h.gpuherd(0, "-H", far, "logs", worker, "--lines", "3"); len(strings.Split(strings.TrimSpace(said), "\n")) < 3 {
		t.Errorf("logs says\n%s", said)
	}
	before := h.mustUnit(workers[0])
	h.gpuherd(0, "-H", far, "restart", worker)
	if after := h.mustUnit(workers[0]); after.Invocation == before.Invocation || after.Active != "active" {
		t.Errorf("%s is %+v, before %+v", worker, after, before)
	}
	h.gpuherd(0, "-H", far, "stop", worker)
	if u := h.mustUnit(workers[0]); u.Active != "inactive" {
		t.Errorf("%s is %s/%s", worker, u.Active, u.Sub)
	}
	h.gpuherd(0, "-H", far, "start", worker)
	h.gpuherd(0, "-H", far, "reload", worker, "--settle", "0s")
	h.healthy()

	// What cannot be is refused, and says why.
	if said := h.gpuherd(2, "-H", far, "scale", "redis-worker", "2"); !strings.Contains(said, "ssh "+far+" gpuherd scale") {
		t.Errorf("scale on another host says\n%s", said)
	}
	if said := h.gpuherd(1, "-H", "nobody-such@"+far, "list"); !strings.Contains(said, "ssh does not get there") {
		t.Errorf("a user whom sshd does not let in is told\n%s", said)
	}
}

// A user without rights may look; what changes something is refused by systemd,
// and the mend is said.
func TestWithoutRights(t *testing.T) {
	h := open(t)
	workers := h.workers()
	before := h.invocations(workers)
	as := func(args ...string) (string, int) {
		t.Helper()
		stdout, stderr, status := run(t, "setpriv", append([]string{"--reuid=nobody", "--regid=nogroup", "--clear-groups", "gpuherd"}, args...)...)
		return stdout + stderr, status
	}
	for _, args := range [][]string{{"list"}, {"list", "--json"}, {"describe", "0"}, {"explain"}, {"verify"}} {
		if said, status := as(args...); status != 0 {
			t.Errorf("gpuherd %s ended with %d:\n%s", strings.Join(args, " "), status, said)
		}
	}
	for _, args := range [][]string{{"restart", "0"}, {"stop", "all"}, {"kill", "0"}, {"signal", "USR1", "0"}, {"reset", "0"}, {"reload", "all"}} {
		if said, status := as(args...); status != 1 || !strings.Contains(said, "run it as root") && !strings.Contains(said, "run gpuherd as root") {
			t.Errorf("gpuherd %s ended with %d:\n%s", strings.Join(args, " "), status, said)
		}
	}
	for _, args := range [][]string{{"scale", "redis-worker", "2"}, {"disable", "redis-worker"}} {
		if said, status := as(args...); status != 1 || !strings.Contains(said, "permission denied") && !strings.Contains(said, "root") {
			t.Errorf("gpuherd %s ended with %d:\n%s", strings.Join(args, " "), status, said)
		}
	}
	s := openScreen(t, "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "gpuherd", "monit", "redis-worker")
	s.sees("log of redis-worker@0 ")
	s.keys("+")
	s.sees("scale redis-worker from 1 to 2 workers")
	s.keys("y")
	s.sees("90-redis-worker.conf: permission denied; run it as root")
	s.keys("q")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("monit ended with %v", err)
	}
	if got := h.workers(); !slices.Equal(got, workers) {
		t.Errorf("workers are %v, want %v", got, workers)
	}
	for worker, now := range h.invocations(workers) {
		if now != before[worker] {
			t.Errorf("%s was restarted", worker)
		}
	}
}
