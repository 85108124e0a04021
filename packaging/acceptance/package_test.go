//go:build acceptance

package acceptance

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What lies in packagesDir: a package, one of a later version, and the program
// that the workers run.
const (
	packagesDir  = "/opt/packages"
	firstPackage = packagesDir + "/first.deb"
	nextPackage  = packagesDir + "/next.deb"
	slowJob      = packagesDir + "/job"
	mainConf     = "/etc/gpuherd/gpuherd.conf"
	simulateConf = "/etc/gpuherd/gpuherd.conf.d/10-simulate.conf"
)

// newHerd is a herd that may not be there yet.
func newHerd(t *testing.T) *herd {
	t.Helper()
	return &herd{systemd: connectSystemd(t), redis: connectRedis(t)}
}

// aptGet runs apt-get, which has to succeed, and returns what it printed.
func aptGet(t *testing.T, args ...string) string {
	t.Helper()
	t.Setenv("DEBIAN_FRONTEND", "noninteractive")
	stdout, stderr, status := run(t, "apt-get", append([]string{"--yes", "-q"}, args...)...)
	if status != 0 {
		t.Fatalf("apt-get %v ended with %d:\n%s%s", args, status, stdout, stderr)
	}
	return stdout + stderr
}

// simulate configures two GPUs for what is installed next.
func simulate(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(simulateConf), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := "[GPU]\nCount=2\nSimulate=yes\n[Worker]\nExec=" + slowJob + "\n"
	if err := os.WriteFile(simulateConf, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
}

// enabled is what systemctl is-enabled says of the target.
func enabled(t *testing.T) string {
	t.Helper()
	stdout, stderr, _ := run(t, "systemctl", "is-enabled", target) // fails where it is not
	return strings.TrimSpace(stdout + stderr)
}

// files returns every file outside of what other programs keep for themselves.
func files(t *testing.T) map[string]string {
	t.Helper()
	others := []string{
		"/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/var/lib/redis", "/var/lib/systemd/catalog", "/var/tmp",
		"/run/systemd", "/run/udev", "/run/log", "/run/machine", "/run/lock", "/run/redis", "/run/credentials", "/run/dbus",
		// sysusers.d's users stay.
		"/etc/passwd", "/etc/passwd-", "/etc/group", "/etc/group-", "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/.pwd.lock",
	}
	all := map[string]string{}
	for _, top := range []string{"/etc", "/usr", "/var", "/run"} {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if slices.Contains(others, path) {
				if entry.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			all[path] = info.Mode().String()
			if info.Mode().IsRegular() && top == "/etc" {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				all[path] += fmt.Sprintf(" %x", sha256.Sum256(data))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// complaints returns what units of the herd, and systemd of them, have put into
// the journal as a warning or worse.
func complaints(t *testing.T, since time.Time) []string {
	t.Helper()
	if _, stderr, status := run(t, "journalctl", "--sync"); status != 0 {
		t.Fatalf("journalctl --sync ended with %d: %s", status, stderr)
	}
	stdout, stderr, status := run(t, "journalctl", "--boot", "--quiet", "--no-pager", "--output=json", "--priority=warning",
		fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
	if status != 0 {
		t.Fatalf("journalctl ended with %d: %s", status, stderr)
	}
	var all []string
	for line := range strings.Lines(stdout) {
		var entry struct {
			Unit    string `json:"_SYSTEMD_UNIT"`
			Of      string `json:"UNIT"`
			Program string `json:"SYSLOG_IDENTIFIER"`
			Message any    `json:"MESSAGE"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, word := range []string{"gpuherd", "redis-worker", "shared-setup"} {
			if strings.Contains(entry.Unit+" "+entry.Of+" "+entry.Program, word) {
				all = append(all, fmt.Sprintf("%s%s %s: %v", entry.Unit, entry.Of, entry.Program, entry.Message))
				break
			}
		}
	}
	return all
}

// quiet fails where the herd has complained, or a unit of the system failed.
func (h *herd) quiet(since time.Time) {
	h.t.Helper()
	if all := complaints(h.t, since); len(all) > 0 {
		h.t.Errorf("the journal has:\n%s", strings.Join(all, "\n"))
	}
	if failed := h.failed(); len(failed) > 0 {
		h.t.Errorf("failed: %v", failed)
	}
}

// gone fails where anything of gpuherd's is left: a unit, a process, or a file
// that was not there before.
func (h *herd) gone(before map[string]string) {
	h.t.Helper()
	h.noUnits()
	if diff := cmp.Diff(before, files(h.t)); diff != "" {
		h.t.Errorf("purging left (-before +after):\n%s", diff)
	}
}

// noUnits fails where systemd knows a unit of ours, or a program of ours runs.
func (h *herd) noUnits() {
	h.t.Helper()
	for _, name := range []string{target, monitorUnit, setupUnit, "redis-worker@0.service", "gpuherd-rescan.path"} {
		if u, err := h.unit(name); err == nil && u.Load != "not-found" {
			h.t.Errorf("%s is %s, %s", name, u.Load, u.Active)
		}
	}
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, program := range programs {
		// What ended meanwhile has none.
		if goal, err := os.Readlink(program); err == nil && strings.Contains(goal, "gpuherd/") {
			h.t.Errorf("%s still runs: %s", goal, program)
		}
	}
}

// On a machine without GPUs and without Redis the package installs, runs no
// worker, and complains of nothing; with GPUs the workers wait for Redis, and
// come right by themselves when it is there. Purged, nothing is left of it.
func TestPackageWithoutGPUs(t *testing.T) {
	before := files(t)
	h := newHerd(t)
	since := time.Now()
	h.stop(redisUnit)
	aptGet(t, "install", firstPackage)
	if got := enabled(t); got != "enabled" {
		t.Errorf("%s is %s after installation", target, got)
	}
	if u := h.mustUnit(target); u.Active != "active" {
		t.Errorf("%s is %s after installation", target, u.Active)
	}
	names, err := h.herd()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "redis-worker@") }) {
		t.Errorf("there is no GPU, but %s wants %v", target, names)
	}
	if failed := h.failed(); len(failed) > 0 {
		t.Errorf("failed without GPUs and Redis: %v", failed)
	}
	// The monitor alone needs Redis, and says that it is away.
	for _, complaint := range complaints(t, since) {
		if !strings.HasPrefix(complaint, monitorUnit) {
			t.Errorf("the journal has: %s", complaint)
		}
	}

	simulate(t)
	h.reload()
	h.start(target) // which is on already, and setup has run
	eventually(t, "workers wait for Redis", func() error {
		for _, worker := range h.workers() {
			if u := h.mustUnit(worker); u.Active != "activating" || u.PID == 0 {
				return fmt.Errorf("%s is %s/%s", worker, u.Active, u.Sub)
			}
		}
		return nil
	})
	h.start(redisUnit)
	h.healthy()

	aptGet(t, "purge", "gpuherd")
	h.gone(before)
}

// From installation to purge: workers are up at once, the operator's edits are
// kept, an upgrade under load restarts the monitor and no worker and loses no
// job, what was disabled stays so, removal leaves the data, and purging nothing.
func TestPackage(t *testing.T) {
	before := files(t)
	h := newHerd(t)
	h.redis.db.FlushAll(t.Context()) // knows of no herd that was here before

	// Installation.
	simulate(t)
	start := time.Now()
	aptGet(t, "install", firstPackage)
	installed := time.Now()
	eventually(t, "workers after apt-get install", h.sick)
	t.Logf("apt-get install took %v, workers were active %v later", installed.Sub(start).Round(10*time.Millisecond), time.Since(installed).Round(10*time.Millisecond))
	if got := enabled(t); got != "enabled" {
		t.Errorf("%s is %s after installation", target, got)
	}
	workers := h.workers()
	if len(workers) != 2 {
		t.Errorf("workers are %v, want 2", workers)
	}
	h.quiet(start)

	// Upgrade under load, over an edited conffile.
	conf, err := os.ReadFile(mainConf)
	if err != nil {
		t.Fatal(err)
	}
	edited := string(conf) + "# An operator's line.\n"
	if err := os.WriteFile(mainConf, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	workersBefore, monitorBefore := map[string]unit{}, h.mustUnit(monitorUnit)
	for _, worker := range workers {
		workersBefore[worker] = h.mustUnit(worker)
	}
	inForce := profileInForce(t)
	since := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	load := make(chan error, 1)
	var done atomic.Int64
	go func() { load <- h.redis.load(ctx, jobID(t), 2*len(workers), &done) }()
	out := aptGet(t, "-o", "Dpkg::Options::=--force-confold", "install", nextPackage)
	stop()
	if err := <-load; err != nil {
		t.Error(err)
	}
	if done.Load() == 0 {
		t.Error("no job was done during the upgrade: that is no load")
	}
	t.Logf("%d jobs were done during the upgrade", done.Load())
	h.healthy()
	for _, worker := range workers {
		if u := h.mustUnit(worker); u.PID != workersBefore[worker].PID || u.Invocation != workersBefore[worker].Invocation {
			t.Errorf("the upgrade restarted %s", worker)
		}
	}
	if u := h.mustUnit(monitorUnit); u.PID == monitorBefore.PID {
		t.Errorf("the upgrade left the monitor as it was")
	}
	if !strings.Contains(out, "gpuherd reload all") {
		t.Errorf("the upgrade does not say how workers get the new version:\n%s", out)
	}
	if data, err := os.ReadFile(mainConf); err != nil || string(data) != edited {
		t.Errorf("the upgrade changed the operator's %s (%v):\n%s", mainConf, err, data)
	}
	if _, err := os.Stat(mainConf + ".dpkg-dist"); err != nil {
		t.Errorf("the new version's file is not beside it: %v", err)
	}
	if diff := cmp.Diff([]string{"--replace --write-cache " + inForce.link}, inForce.calls()); diff != "" {
		t.Errorf("the upgrade's calls of apparmor_parser (-want +got):\n%s", diff)
	}
	h.quiet(since)
	h.gpuherd(0, "reload", "redis-worker", "--settle", "0s")
	for _, worker := range workers {
		if u := h.mustUnit(worker); u.PID == workersBefore[worker].PID {
			t.Errorf("gpuherd reload left %s as it was", worker)
		}
	}

	// What the operator has switched off stays off.
	if out, _, status := run(t, "systemctl", "disable", "--now", target); status != 0 {
		t.Fatalf("systemctl disable ended with %d: %s", status, out)
	}
	h.stopped()
	dpkg(t, "--install", nextPackage)
	if got := enabled(t); got != "disabled" {
		t.Errorf("%s is %s after an upgrade, was disabled", target, got)
	}
	h.stopped()
	if out, _, status := run(t, "systemctl", "enable", "--now", target); status != 0 {
		t.Fatalf("systemctl enable ended with %d: %s", status, out)
	}
	h.healthy()

	// Removal.
	const kept = "kept-over-removal"
	h.stop(workers[0])
	h.stop(workers[1])
	h.redis.enqueue(kept, "{}")
	inForce.calls() // again --replace, of the version that was installed again
	aptGet(t, "remove", "gpuherd")
	h.noUnits()
	if _, err := os.Stat("/usr/bin/gpuherd"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("/usr/bin/gpuherd is still there (%v)", err)
	}
	if data, err := os.ReadFile(mainConf); err != nil || string(data) != edited {
		t.Errorf("removal changed the operator's %s (%v)", mainConf, err)
	}
	if diff := cmp.Diff([]string{"--remove " + inForce.link}, inForce.calls()); diff != "" {
		t.Errorf("the removal's calls of apparmor_parser (-want +got):\n%s", diff)
	}
	for _, path := range []string{inForce.link, inForce.compiled} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removal left %s (%v)", path, err)
		}
	}
	inForce.end()
	if failed := h.failed(); len(failed) > 0 {
		t.Errorf("failed after removal: %v", failed)
	}

	// Again, and the job that waited is done.
	dpkg(t, "--install", nextPackage)
	h.healthy()
	h.redis.waitJob(kept, "succeeded")

	// Purge; what jobs have written is not the package's.
	work := "/var/lib/gpuherd/shared/result"
	if err := os.WriteFile(work, []byte("a horse\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	aptGet(t, "purge", "gpuherd")
	if _, err := os.Lstat(inForce.local); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("purging left %s (%v)", inForce.local, err)
	}
	for _, dir := range []string{filepath.Dir(inForce.local), filepath.Dir(inForce.link)} {
		_ = os.Remove(dir) // unless others are there
	}
	if _, err := os.Stat(work); err != nil {
		t.Errorf("purging took what jobs have written: %v", err)
	}
	if err := os.RemoveAll("/var/lib/gpuherd"); err != nil {
		t.Fatal(err)
	}
	h.gone(before)
}

// A forcedProfile is the monitor's profile where AppArmor would look, which no
// container has; in AppArmor's place are programs that note what they are called
// with.
type forcedProfile struct {
	t        *testing.T
	link     string
	compiled string // what AppArmor would keep of it
	local    string // the operator's rules
	programs []string
	log      string // of the calls of apparmor_parser
}

func profileInForce(t *testing.T) *forcedProfile {
	t.Helper()
	p := &forcedProfile{
		t:        t,
		link:     "/etc/apparmor.d/gpuherd-monitor",
		compiled: "/var/cache/apparmor/0123abcd.0/gpuherd-monitor",
		local:    "/etc/apparmor.d/local/gpuherd-monitor",
		programs: []string{"/usr/bin/aa-enabled", "/usr/sbin/apparmor_parser"},
		log:      "/run/apparmor_parser-calls",
	}
	write := func(path, text string, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(p.local, "", 0o644)
	write(p.compiled, "", 0o644)
	if err := os.Symlink("/usr/share/gpuherd/apparmor/gpuherd-monitor", p.link); err != nil {
		t.Fatal(err)
	}
	write(p.programs[0], "#!/bin/sh\n", 0o755)
	// What it is called with has to be there.
	write(p.programs[1], "#!/bin/sh\nfor file; do :; done\n[ -e \"$file\" ] && echo \"$@\" >>"+p.log+"\n", 0o755)
	return p
}

// calls returns what apparmor_parser was called with since it was last asked.
func (p *forcedProfile) calls() []string {
	p.t.Helper()
	data, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	_ = os.Remove(p.log) // none where nothing was called
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// end takes away what is AppArmor's, and the log.
func (p *forcedProfile) end() {
	p.t.Helper()
	for _, path := range p.programs {
		if err := os.Remove(path); err != nil {
			p.t.Error(err)
		}
	}
	_ = os.Remove(p.log) // none where nothing was called
	// A folder stays where others have files in it.
	for _, path := range []string{filepath.Dir(p.compiled), filepath.Dir(filepath.Dir(p.compiled))} {
		_ = os.Remove(path)
	}
}

// stopped waits until nothing of the herd runs.
func (h *herd) stopped() {
	h.t.Helper()
	eventually(h.t, "the herd stops", func() error {
		for _, name := range []string{target, monitorUnit, "redis-worker@0.service", "redis-worker@1.service"} {
			if u := h.mustUnit(name); u.Active != "inactive" {
				return fmt.Errorf("%s is %s", name, u.Active)
			}
		}
		return nil
	})
}

// Wherever dpkg is killed, running it again mends what it left: a first
// installation as well as an upgrade.
func TestPackageInterrupted(t *testing.T) {
	before := files(t)
	h := newHerd(t)
	for _, state := range []string{"half-installed", "half-configured"} {
		simulate(t)
		h.killed(state, firstPackage)
		if state == "half-installed" {
			dpkg(t, "--purge", "gpuherd")
		}
	}
	h.killed("half-installed", nextPackage)
	dpkg(t, "--purge", "gpuherd")
	h.gone(before)
}

// dpkg runs dpkg, which has to succeed.
func dpkg(t *testing.T, args ...string) {
	t.Helper()
	stdout, stderr, status := run(t, "dpkg", append([]string{"--force-confold"}, args...)...)
	if status != 0 {
		t.Fatalf("dpkg %v ended with %d:\n%s%s", args, status, stdout, stderr)
	}
}

// killed has dpkg killed, with all that it runs, as soon as the package is in
// the state of dpkg(1), and run again.
func (h *herd) killed(state, deb string) {
	h.t.Helper()
	cmd := exec.Command("dpkg", "--force-confold", "--status-fd", "1", "--install", deb)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	for said.Scan() {
		if said.Text() == "status: gpuherd: "+state {
			break
		}
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		h.t.Fatalf("dpkg ended before the package was %s: %v", state, err)
	}
	_ = cmd.Wait() // killed
	stdout, _, _ := run(h.t, "dpkg-query", "-W", "-f", "${db:Status-Status}", "gpuherd")
	if stdout == "installed" {
		h.t.Errorf("killing dpkg when the package was %s left it %s", state, stdout)
	}

	dpkg(h.t, "--install", deb)
	stdout, stderr, status := run(h.t, "dpkg", "--verify", "gpuherd")
	for line := range strings.Lines(stdout) {
		if !strings.Contains(line, "/usr/share/doc/") && !strings.Contains(line, "/usr/share/man/") { // left out of the image
			h.t.Errorf("dpkg --verify ended with %d: %s%s", status, line, stderr)
		}
	}
	if got := enabled(h.t); got != "enabled" {
		h.t.Errorf("%s is %s", target, got)
	}
	h.healthy()
}
