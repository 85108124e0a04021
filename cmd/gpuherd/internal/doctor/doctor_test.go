package doctor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/plan"
	"gpuherd/generator/service"
	"gpuherd/units/queue/redistest"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			_ = os.MkdirAll(file, 0o755)
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// tells holds findings to one of a check with a verdict and words; whatever is
// wrong has a mend.
func tells(t *testing.T, all []Finding, check, verdict, words string) {
	t.Helper()
	for _, f := range all {
		if f.Verdict != OK && f.Verdict != Skipped && f.Mend == "" {
			t.Errorf("%+v has no mend", f)
		}
		if f.Check == check {
			if f.Verdict != verdict || !strings.Contains(f.Detail, words) {
				t.Errorf("%+v, want %s: %s", f, verdict, words)
			}
			return
		}
	}
	t.Errorf("no finding of %s in %+v", check, all)
}

func TestSystemdVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{"257.9-1~deb13u1": OK, "252.39-1~deb12u1": OK, "252": OK, "249.11-0ubuntu3": Problem, "255-rc1": OK} {
		tells(t, []Finding{SystemdVersion(version)}, "systemd", want, "version")
	}
	if f := SystemdVersion("what"); f.Verdict != Warning {
		t.Errorf("%+v", f)
	}
}

func TestCgroup(t *testing.T) {
	t.Parallel()
	const file = "sys/fs/cgroup/cgroup.controllers"
	tells(t, []Finding{Cgroup(tree(t, map[string]string{file: "cpu io memory pids\n"}))}, "cgroup", OK, "version 2")
	tells(t, []Finding{Cgroup(tree(t, map[string]string{file: "cpu\n"}))}, "cgroup", Problem, "no memory controller")
	tells(t, []Finding{Cgroup(t.TempDir())}, "cgroup", Problem, "not of version 2")
}

func TestGPUs(t *testing.T) {
	t.Parallel()
	machine := &generator.Result{Found: []gpu.GPU{{Index: 0, Minor: 0, PCI: "0000:17:00.0"}, {Index: 1, Minor: 3, PCI: "0000:18:00.0", Fault: "fell off the bus"}}}
	machine.GPUs = machine.Found
	root := tree(t, map[string]string{"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90\nGCC\n", "dev/nvidiactl": "", "dev/nvidia-uvm": "", "dev/nvidia0": ""})
	all := GPUs(root, machine)
	tells(t, all, "driver", OK, "loaded: NVIDIA UNIX x86_64 Kernel Module 550.90")
	tells(t, all, "nodes", Problem, "missing: /dev/nvidia3")
	tells(t, all, "gpu 1", Problem, "fell off the bus")
	tells(t, all, "inventory", Warning, "no inventory")
	all = GPUs(t.TempDir(), machine)
	tells(t, all, "driver", Problem, "2 NVIDIA GPUs, and the driver is not loaded")
	tells(t, GPUs(t.TempDir(), &generator.Result{GPUs: []gpu.GPU{{Simulated: true}}}), "driver", OK, "1 simulated")
	tells(t, GPUs(t.TempDir(), &generator.Result{}), "driver", Warning, "no NVIDIA GPU")
}

func TestGenerator(t *testing.T) {
	t.Parallel()
	r := &generator.Result{Services: []*service.Service{{Name: "x"}}}
	now := time.Now()
	files := map[string]string{"run/systemd/generator/x.service": "# " + plan.Header + "\n", "run/systemd/generator/other.service": "", "etc/gpuherd/gpuherd.conf": "", "etc/gpuherd/services/x.service": ""}
	root := tree(t, files)
	made := filepath.Join(root, "run/systemd/generator/x.service")
	for name := range files {
		old := now.Add(-3 * time.Hour)
		if err := os.Chtimes(filepath.Join(root, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	tells(t, []Finding{Generator(root, r, now)}, "generator", OK, "ran 3 hours ago")
	if err := os.Chtimes(filepath.Join(root, "etc/gpuherd/gpuherd.conf"), now, now); err != nil {
		t.Fatal(err)
	}
	tells(t, []Finding{Generator(root, r, now)}, "generator", Warning, "changed since: /etc/gpuherd/gpuherd.conf")
	if err := os.Remove(made); err != nil {
		t.Fatal(err)
	}
	tells(t, []Finding{Generator(root, r, now)}, "generator", Problem, "has not run")
}

func TestJournald(t *testing.T) {
	t.Parallel()
	all := Journald(t.TempDir())
	tells(t, all, "journal", Warning, "in memory")
	root := tree(t, map[string]string{"var/log/journal/x.journal": strings.Repeat("x", 1<<20), "etc/systemd/journald.conf": "[Journal]\nSystemMaxUse=1G\n", "usr/lib/systemd/journald.conf.d/a.conf": "[Journal]\nSystemMaxUse=7G\n"})
	tells(t, Journald(root), "journal", OK, "outlives a boot")
	for _, f := range Journald(root) { // a full disk of the tester's is a warning
		if f.Check == "journal limits" && f.Verdict == OK && !strings.Contains(f.Detail, "takes 1M; SystemMaxUse= is 7G") {
			t.Errorf("%+v", f)
		}
	}
	root = tree(t, map[string]string{"var/log/journal/": "", "etc/systemd/journald.conf.d/x.conf": "[Journal]\nStorage=volatile\n"})
	tells(t, Journald(root), "journal", Warning, "in memory")
	root = tree(t, map[string]string{"etc/systemd/journald.conf": "[Journal]\nStorage=none\n"})
	tells(t, Journald(root), "journal", Problem, "keeps nothing")
}

func TestClock(t *testing.T) {
	t.Parallel()
	tells(t, []Finding{clock(unix.TIME_OK, 0, nil)}, "clock", OK, "is synchronised")
	tells(t, []Finding{clock(unix.TIME_ERROR, unix.STA_UNSYNC, nil)}, "clock", Warning, "not synchronised")
	tells(t, []Finding{clock(0, 0, unix.EPERM)}, "clock", Skipped, "cannot ask")
}

func TestRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := server.Client(t)
	ctx := t.Context()
	root := t.TempDir()
	cfg := config.Redis{URL: server.URL(), Prefix: "gpuherd"}
	all := Redis(ctx, root, cfg)
	tells(t, all, "redis", OK, "answers in")
	tells(t, all, "redis policy", OK, "")
	for key, value := range map[string]string{"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"} {
		if err := c.ConfigSet(ctx, key, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	tells(t, Redis(ctx, root, cfg), "redis policy", Problem, "allkeys-lru")
	if err := c.ConfigSet(ctx, "appendonly", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	tells(t, Redis(ctx, root, cfg), "redis persistence", OK, "append-only file")

	// The password is taken from where systemd would take it, and not told.
	if err := c.ConfigSet(ctx, "requirepass", "hunter2").Err(); err != nil {
		t.Fatal(err)
	}
	tells(t, Redis(ctx, root, cfg), "redis", Problem, "refuses the user or password")
	root = tree(t, map[string]string{"etc/credstore/gpuherd.redis-password": "hunter2"})
	all = Redis(ctx, root, cfg)
	tells(t, all, "redis", OK, "answers in")
	for _, f := range all {
		if strings.Contains(f.Detail+f.Mend, "hunter2") {
			t.Errorf("%+v", f)
		}
	}
}

// The user that we ship rights for can look at all of it; one without INFO is
// told what lacks.
func TestRedisRights(t *testing.T) {
	t.Parallel()
	rights := redistest.Rights(t, "../../../../packaging/redis/gpuherd.rights")
	root := tree(t, map[string]string{"etc/credstore/gpuherd.redis-password": "secret"})
	look := func(rights string) []Finding {
		return Redis(t.Context(), root, config.Redis{URL: redistest.ACL(t, rights).URL, Prefix: "gpuherd"})
	}
	all := look(rights)
	tells(t, all, "redis policy", OK, "noeviction")
	tells(t, all, "redis persistence", OK, "append-only file")
	all = look(strings.Replace(rights, " +info", "", 1))
	tells(t, all, "redis policy", Skipped, "NOPERM")
	if mend := all[len(all)-1].Mend; !strings.Contains(mend, "+info") {
		t.Errorf("the mend is %q", mend)
	}
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	all := Redis(ctx, t.TempDir(), config.Redis{URL: "redis://:hunter2@" + address})
	tells(t, all, "redis", Problem, "does not answer")
	if strings.Contains(all[0].Detail, "hunter2") {
		t.Errorf("%+v", all)
	}
}
