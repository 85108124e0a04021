//go:build acceptance

package acceptance

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"gpuherd/units/queue/redistest"
)

// profile is AppArmor's, of the monitor.
const profile = "gpuherd-monitor"

// restartedAs restarts the monitor with more configuration, and waits until it
// is confined, and Redis tells the same as systemd.
func (h *herd) restartedAs(conf string) {
	h.t.Helper()
	const file = "/etc/gpuherd/gpuherd.conf.d/90-apparmor.conf"
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = os.Remove(file) })
	h.restart(monitorUnit)
	h.confined()
	h.healthy()
}

// confined fails unless the profile is in force for the monitor.
func (h *herd) confined() {
	h.t.Helper()
	if got, want := h.label(), profile+" (enforce)"; got != want {
		h.t.Fatalf("the monitor runs as %q, want %q", got, want)
	}
}

// label is AppArmor's, of the monitor: its profile and how that is in force.
func (h *herd) label() string {
	h.t.Helper()
	label, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", h.mustUnit(monitorUnit).PID))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(label))
}

// Under its profile the monitor does all that it does elsewhere, on GPUs and
// with each way to Redis. Whether anything was denied is looked for in the end,
// see noDenials.
func TestMonitorUnderAppArmor(t *testing.T) {
	h := open(t)
	h.confined()
	// Killed, it reads back from the journal what happened.
	since := time.Now()
	before := h.kill(monitorUnit)
	eventually(t, "the monitor is back", func() error { return h.replaced(before) })
	h.readBack(since)
	h.confined()
	h.healthy()

	gpus, err := h.redis.gpus()
	if err != nil {
		t.Error(err)
	}
	for index, uuid := range gpus {
		if !strings.HasPrefix(uuid, "GPU-") {
			t.Errorf("GPU %s has the UUID %q, which is not NVML's", index, uuid)
		}
	}
	if len(gpus) == 0 {
		t.Error("no GPUs are told")
	}
	h.asksForARescan()

	const token = "sixteen-or-more-of-them"
	t.Cleanup(func() { h.restartedAs("") })
	h.redisByName() // before there are credentials that want TLS
	h.redisByEveryWay(token)
	h.restartedAs("[Redis]\nURL=unix:///run/redis/redis-server.sock\n")
	h.restartedAs("[Redis]\nURL=rediss://127.0.0.1:6390\n[Monitor]\nListen=0.0.0.0:9720\n")
	if err := askOverTLS(t, "/api/v1/host", token); err != nil {
		t.Error(err)
	}
}

// asksForARescan shows the monitor one more GPU, for which it asks for a rescan.
func (h *herd) asksForARescan() {
	h.t.Helper()
	last := h.mustUnit(rescanUnit).Invocation
	node := gpuNode(63)
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(majorNVIDIA, 63))); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "a rescan for a GPU that came", func() error { return h.rescannedSince(last) })
	last = h.mustUnit(rescanUnit).Invocation
	if err := os.Remove(node); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "a rescan for a GPU that went", func() error { return h.rescannedSince(last) })
}

// redisByName has Redis looked up by Go, and by glibc, which is asked where
// nsswitch.conf has a source that Go does not know.
func (h *herd) redisByName() {
	h.t.Helper()
	const name, hosts, nsswitch = "redis-by-name", "/etc/hosts", "/etc/nsswitch.conf"
	set := func(path string, data []byte) {
		h.t.Helper()
		if err := os.WriteFile(path, data, 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, path := range []string{hosts, nsswitch} {
		was, err := os.ReadFile(path)
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { set(path, was) })
	}
	known, err := os.ReadFile(hosts)
	if err != nil {
		h.t.Fatal(err)
	}
	set(hosts, append(known, "\n127.0.0.1 "+name+"\n"...))
	for _, sources := range []string{"files dns", "files mymachines dns"} {
		set(nsswitch, []byte("hosts: "+sources+"\n"))
		h.restartedAs("[Redis]\nURL=redis://" + name + ":6379\n")
	}
}

// redisByEveryWay has Redis listen at its socket and by TLS, too, and gives the
// monitor what it needs for both, and for HTTP by TLS.
func (h *herd) redisByEveryWay(token string) {
	h.t.Helper()
	const conf, dir = "/etc/redis/redis.conf", "/etc/redis/"
	was, err := os.ReadFile(conf)
	if err != nil {
		h.t.Fatal(err)
	}
	info, err := os.Stat(conf)
	if err != nil {
		h.t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	authority := redistest.NewAuthority(h.t)
	cert, key := authority.Issue()
	write := func(path string, data []byte, uid, gid uint32) {
		h.t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600), os.Chown(path, int(uid), int(gid))); err != nil {
			h.t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{"cert": cert, "key": key, "ca": authority.PEM} {
		write(dir+name, data, owner.Uid, owner.Gid)
	}
	for name, data := range map[string][]byte{
		"redis-ca": authority.PEM, "redis-cert": cert, "redis-key": key,
		"monitor-cert": cert, "monitor-key": key, "monitor-token": []byte(token),
	} {
		path := "/etc/credstore/gpuherd." + name
		write(path, data, 0, 0)
		h.t.Cleanup(func() { _ = os.Remove(path) })
	}
	more := "\nunixsocket /run/redis/redis-server.sock\nunixsocketperm 777\ntls-port 6390\n" +
		"tls-cert-file " + dir + "cert\ntls-key-file " + dir + "key\ntls-ca-cert-file " + dir + "ca\n"
	write(conf, append(was, more...), owner.Uid, owner.Gid)
	h.restart(redisUnit)
	h.t.Cleanup(func() {
		write(conf, was, owner.Uid, owner.Gid)
		h.restart(redisUnit)
	})
}

// askOverTLS asks the monitor's API as another host would.
func askOverTLS(t *testing.T, path, token string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:9720"+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is %s", path, answer.Status)
	}
	return nil
}

// The commands in the profile's first lines put it in force and out of force,
// and the parser keeps what it has compiled where those and the packages'
// scripts delete it.
func TestProfileComesAndGoes(t *testing.T) {
	h := open(t)
	in, out := profileCommands(t)
	run := func(script string) {
		t.Helper()
		if said, err := exec.CommandContext(t.Context(), "sh", "-e", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%s%v: %s", script, err, said)
		}
	}
	kept := func() []string {
		t.Helper()
		found, err := filepath.Glob("/var/cache/apparmor/*/" + profile)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	run(out)
	h.healthy()
	if got := h.label(); got != "unconfined" {
		t.Errorf("out of force the monitor runs as %q", got)
	}
	if left := kept(); len(left) > 0 {
		t.Errorf("out of force there is still %v", left)
	}
	run(in)
	h.confined()
	h.healthy()
	if len(kept()) == 0 {
		t.Error("the compiled profile is not kept where it was looked for")
	}
}

// profileCommands returns the commands in the profile's first lines, as two
// scripts: what puts it in force, and what undoes that.
func profileCommands(t *testing.T) (in, out string) {
	t.Helper()
	data, err := os.ReadFile("/usr/share/gpuherd/apparmor/" + profile)
	if err != nil {
		t.Fatal(err)
	}
	var scripts []string
	among := false
	for line := range strings.Lines(string(data)) {
		command, is := strings.CutPrefix(line, "#   ")
		if is && !among {
			scripts = append(scripts, "")
		}
		if among = is; is {
			scripts[len(scripts)-1] += command
		}
	}
	if len(scripts) != 2 {
		t.Fatalf("the profile's first lines have %d scripts, want 2: %q", len(scripts), scripts)
	}
	return scripts[0], scripts[1]
}

// attempts is this binary where the profile lets code come from.
const attempts = "/usr/lib/attempts.so"

// othersSecrets are of Kerberos and LDAP, as AppArmor's own rules for looking up
// names would let it read.
var othersSecrets = []string{"/etc/krb5.keytab", "/etc/ldap.secret"}

// What the monitor never does is refused by its profile, to root as well.
func TestAppArmorDenies(t *testing.T) {
	open(t)
	if err := copyFile("/proc/self/exe", attempts, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(attempts) })
	// A process that is nobody's affair.
	sleeper := exec.Command("sleep", "infinity")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait() // killed, as it should be
	})
	for _, path := range othersSecrets {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}
	want := map[string]string{
		"run a shell":              "EACCES",
		"read the passwords":       "EACCES",
		"read Kerberos' keys":      "EACCES",
		"read LDAP's password":     "EACCES",
		"read workers' credential": "EACCES",
		"read PID 1's environment": "EACCES",
		"write configuration":      "EACCES",
		"write a unit":             "EACCES",
		"write to workers' folder": "EACCES",
		"packet socket":            "EACCES",
		"listen at port 1":         "EACCES",
		"give a file away":         "EPERM",
		"signal a process":         "EACCES",
	}
	if diff := cmp.Diff(want, attempted(t, sleeper.Process.Pid, profile)); diff != "" {
		t.Errorf("under the profile (-want +got):\n%s", diff)
	}
	// So that it is the profile that refuses.
	for what := range want {
		want[what] = ""
	}
	if diff := cmp.Diff(want, attempted(t, sleeper.Process.Pid, "")); diff != "" {
		t.Errorf("without it (-want +got):\n%s", diff)
	}
}

// attempted returns how each attempt ended in a process under a profile; "" is
// for none.
func attempted(t *testing.T, pid int, under string) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), os.Args[0], "attempt", strconv.Itoa(pid), under).Output()
	if err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			err = fmt.Errorf("%w: %s", err, ended.Stderr)
		}
		t.Fatal(err)
	}
	var ends map[string]string
	if err := json.Unmarshal(out, &ends); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return ends
}

// runAttempts becomes a program under the profile, where it is not one yet.
func runAttempts(pid, under string) error {
	target, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	if under == "" {
		return json.NewEncoder(os.Stdout).Encode(attemptAll(target))
	}
	// aa_change_onexec(3) is of the thread, which has to be the one that calls
	// execve(2).
	runtime.LockOSThread()
	if err := os.WriteFile("/proc/thread-self/attr/exec", []byte("exec "+under), 0); err != nil {
		return err
	}
	return unix.Exec(attempts, []string{attempts, "attempt", pid, ""}, os.Environ())
}

// attemptAll does what TestAppArmorDenies knows the end of.
func attemptAll(pid int) map[string]string {
	read := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return f.Close()
	}
	create := func(path string) error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Remove(path))
	}
	errs := map[string]error{
		"run a shell":              exec.Command("/bin/sh", "-c", ":").Run(),
		"read the passwords":       read("/etc/shadow"),
		"read Kerberos' keys":      read(othersSecrets[0]),
		"read LDAP's password":     read(othersSecrets[1]),
		"read workers' credential": read("/run/gpuherd/credentials/gpuherd.redis-url"),
		"read PID 1's environment": read("/proc/1/environ"),
		"write configuration":      create("/etc/gpuherd/gpuherd.conf.d/attempt"),
		"write a unit":             create("/run/systemd/system/attempt.service"),
		"write to workers' folder": create("/var/lib/gpuherd/shared/attempt"),
		"packet socket": func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}(),
		// A capability, and the socket is allowed.
		"listen at port 1": func() error {
			listener, err := net.Listen("tcp", "127.0.0.1:1")
			if err != nil {
				return err
			}
			return listener.Close()
		}(),
		"give a file away": func() error {
			const path = "/tmp/.epoch-attempt" // which it may make
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return errors.Join(os.Chown(path, 1, 1), os.Remove(path))
		}(),
		"signal a process": unix.Kill(pid, unix.SIGCONT),
	}
	ends := map[string]string{}
	for what, err := range errs {
		ends[what] = errnoName(err)
	}
	return ends
}
