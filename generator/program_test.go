package generator_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
	"gpuherd/generator/gpu"
)

const bootID = "3f0d1f9c-6f0e-4c55-9a52-6d7f2f3d8a01"

func compute(t *testing.T, root string, environ ...string) *generator.Result {
	t.Helper()
	return generator.Compute(generator.Options{Root: root, Environ: environ})
}

func units(t *testing.T, r *generator.Result) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	return tree(t, dir)
}

func writeInventory(t *testing.T, root string, inv *gpu.Inventory) {
	t.Helper()
	put(t, root, "proc/sys/kernel/random/boot_id", bootID+"\n")
	inv.Version, inv.BootID = gpu.InventoryVersion, bootID
	if err := inv.Write(root); err != nil {
		t.Fatal(err)
	}
}

// daemon-reload after gpuherd-setup must change nothing on a healthy machine:
// systemd would otherwise see changed units in the middle of the day.
func TestSameAfterSetup(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"01-two-simulated", "02-eight-gpus", "10-own-service", "22-real-and-simulated", "25-dgx-h100", "28-sixteen-gpus", "29-numa-oddities",
		"33-wsl", "36-docker-toolkit", "40-container-without-pci", "42-minors",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := machine(t, name)
			before := compute(t, root)
			inv := &gpu.Inventory{Source: gpu.SourceSimulation, GPUs: slices.Clone(before.GPUs)}
			if len(before.Found) > 0 {
				inv.Source, inv.DriverVersion = gpu.SourceNVML, "570.86.15"
			}
			for i := range inv.GPUs {
				if g := &inv.GPUs[i]; !g.Simulated {
					g.UUID, g.Name, g.MemoryBytes = fmt.Sprintf("GPU-7d7b6f5e-0000-4c1d-9d2e-%012d", i), "NVIDIA H100", 85<<30
				}
			}
			writeInventory(t, root, inv)
			after := compute(t, root)
			if diff := cmp.Diff(units(t, before), units(t, after)); diff != "" {
				t.Errorf("units differ (-before +after):\n%s", diff)
			}
			if len(before.Found) > 0 && after.Source != gpu.SourceInventory {
				t.Error("the inventory was not used")
			}
		})
	}
}

// A higher Count= takes effect at the next daemon-reload, without another setup.
func TestCountAfterSetup(t *testing.T) {
	t.Parallel()
	root := machine(t, "02-eight-gpus")
	r := compute(t, root, "NUM_GPUS=2")
	if len(r.GPUs) != 2 || len(r.Found) != 8 {
		t.Fatalf("%d of %d GPUs", len(r.GPUs), len(r.Found))
	}
	writeInventory(t, root, &gpu.Inventory{Source: gpu.SourceNVML, GPUs: r.Found})
	if r := compute(t, root, "NUM_GPUS=5"); len(r.GPUs) != 5 {
		t.Errorf("%d GPUs, want 5", len(r.GPUs))
	}
}

// A typo in Count= once took away all simulated workers that ran.
func TestCountLost(t *testing.T) {
	t.Parallel()
	root := machine(t, "01-two-simulated")
	put(t, root, "etc/gpuherd/gpuherd.conf", "[GPU]\nSimulate=yes\nCount=two\n")
	if r := compute(t, root); len(r.GPUs) != 0 {
		t.Fatalf("%d GPUs before setup has simulated any", len(r.GPUs))
	}
	writeInventory(t, root, &gpu.Inventory{Source: gpu.SourceSimulation, GPUs: gpu.Simulated(3)})
	for _, ignore := range []bool{false, true} { // generator and setup
		r := generator.Compute(generator.Options{Root: root, IgnoreInventory: ignore})
		if len(r.GPUs) != 3 || !r.Problems.Failed() {
			t.Errorf("%d GPUs, problems %v; want the 3 of this boot, and an error", len(r.GPUs), r.Problems)
		}
	}
}

func TestResultIsJSON(t *testing.T) {
	t.Parallel()
	root := machine(t, "07-environment")
	data, err := json.Marshal(compute(t, root, "NUM_GPUS=1", "REDIS_URL=redis://:hunter2@hub"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("hunter2")) {
		t.Error("the Redis password is in it")
	}
	if bytes.Contains(data, []byte("null")) {
		t.Errorf("a list is null, not []: %s", data)
	}
	for _, key := range []string{`"decisions":[{"kind":`, `"problems":`, `"workers":[{"unit":`, `"gpus":[{"index":0`, `"findings":[]`} {
		if !bytes.Contains(data, []byte(key)) {
			t.Errorf("no %s in %s", key, data)
		}
	}
}

// No password gets into a unit, whatever way it came.
func TestNoSecretInUnits(t *testing.T) {
	t.Parallel()
	root := machine(t, "01-two-simulated")
	put(t, root, "etc/gpuherd/gpuherd.conf.d/50-redis.conf", "[Redis]\nURL=redis://:hunter2@hub\n[Environment]\nREDIS_URL=redis://:hunter2@hub\nPass=REDIS_URL HUB_REDIS_URL\n")
	put(t, root, "proc/cmdline", "gpuherd.redis_url=redis://:hunter2@hub")
	r := compute(t, root, "HUB_REDIS_URL=http://:hunter2@hub", "REDIS_URL=redis://:hunter2@hub")
	for name, text := range units(t, r) {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password is in %s", name)
		}
	}
	for _, d := range r.Decisions {
		if strings.Contains(fmt.Sprint(d), "hunter2") {
			t.Errorf("the password is in %+v", d)
		}
	}
	for _, p := range r.Problems {
		if strings.Contains(p.Error(), "hunter2") {
			t.Errorf("the password is in %v", p)
		}
	}
}

func TestWriteStaysInside(t *testing.T) {
	t.Parallel()
	root := machine(t, "01-two-simulated")
	r := compute(t, root)
	outside := t.TempDir()
	put(t, outside, "precious", "untouched")
	tricks := map[string]func(dir string) error{
		"file":      func(dir string) error { return os.Symlink(outside+"/precious", dir+"/redis-worker@.service") },
		"temporary": func(dir string) error { return os.Symlink(outside+"/precious", dir+"/.gpuherd-redis-worker@.service") },
		"folder":    func(dir string) error { return os.Symlink(outside, dir+"/redis-worker@0.service.d") },
		"wants":     func(dir string) error { return os.Symlink(outside, dir+"/gpuherd.target.wants") },
		"climbing":  func(dir string) error { return os.Symlink("../../..", dir+"/gpuherd.target.wants") },
		"link":      func(dir string) error { return os.MkdirAll(dir+"/gpuherd.target.wants/redis-worker@0.service", 0o755) },
	}
	for name, trick := range tricks {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := trick(dir); err != nil {
				t.Fatal(err)
			}
			err := r.Write(dir)
			if diff := cmp.Diff(map[string]string{"precious": "untouched"}, tree(t, outside)); diff != "" {
				t.Errorf("written outside (-before +after):\n%s", diff)
			}
			// A link in a file's place is replaced; one in a folder's is an error.
			if want := name == "file" || name == "temporary"; (err == nil) != want {
				t.Errorf("error %v", err)
			}
			if err != nil {
				for file, text := range tree(t, dir) {
					if strings.Contains(text, "Generated by") {
						t.Errorf("%s was left behind", file)
					}
				}
			}
		})
	}
	if err := r.Write(filepath.Join(outside, "absent")); err == nil {
		t.Error("wrote into a folder that is not there")
	}
}

func TestWriteUntil(t *testing.T) {
	t.Parallel()
	r := compute(t, machine(t, "02-eight-gpus"))
	steps := len(r.Plan.Files) + len(r.Plan.Links)
	for stop := range steps {
		dir := t.TempDir()
		n := 0
		err := r.WriteUntil(dir, func() bool { n++; return n > stop })
		if err == nil {
			t.Fatalf("stopped at step %d: no error", stop)
		}
		entries, rerr := os.ReadDir(dir)
		if rerr != nil || len(entries) != 0 {
			t.Errorf("stopped at step %d: %v is left, %v", stop, entries, rerr)
		}
	}
}

func TestProgram(t *testing.T) {
	t.Parallel()
	root := machine(t, "01-two-simulated")

	t.Run("dry run", func(t *testing.T) {
		t.Parallel()
		status, stdout, stderr := run(t, "--root", root, "--dry-run")
		if status != 0 || stderr != "" {
			t.Errorf("exit status %d, %s", status, stderr)
		}
		var want strings.Builder
		dir := t.TempDir()
		run(t, "--root", root, dir)
		files := tree(t, dir)
		r := compute(t, root)
		for _, f := range r.Plan.Files {
			fmt.Fprintf(&want, "--- %s ---\n%s\n", f.Path, files[f.Path])
		}
		for _, l := range r.Plan.Links {
			fmt.Fprintf(&want, "--- %s ---\n%s\n\n", l.Path, files[l.Path])
		}
		if diff := cmp.Diff(want.String(), stdout); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("usage", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{{}, {"a", "b"}, {"a", "b", "c", "d"}, {"--unknown", "a"}, {"--root", root}} {
			if status, _, stderr := run(t, args...); status != 2 || !strings.Contains(stderr, "usage:") {
				t.Errorf("%q: exit status %d, %s", args, status, stderr)
			}
		}
	})
	t.Run("version", func(t *testing.T) {
		t.Parallel()
		if status, stdout, _ := run(t, "--version"); status != 0 || strings.TrimSpace(stdout) == "" {
			t.Errorf("exit status %d, %q", status, stdout)
		}
	})
	t.Run("only the normal folder", func(t *testing.T) {
		t.Parallel()
		normal, early, late := t.TempDir(), t.TempDir(), t.TempDir()
		run(t, "--root", root, normal, early, late)
		if len(tree(t, normal)) == 0 || len(tree(t, early)) != 0 || len(tree(t, late)) != 0 {
			t.Errorf("%d, %d, %d files", len(tree(t, normal)), len(tree(t, early)), len(tree(t, late)))
		}
	})
	t.Run("initrd", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		cmd := exec.Command(program, "--root", root, dir)
		cmd.Env = []string{"SYSTEMD_IN_INITRD=1"}
		if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 || len(tree(t, dir)) != 0 {
			t.Errorf("%v, %s", err, out)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		status, _, stderr := run(t, "--root", root, "--deadline", "1ns", dir)
		if status != 1 || !strings.Contains(stderr, "gave up") && !strings.Contains(stderr, "out of time") {
			t.Errorf("exit status %d, %s", status, stderr)
		}
		if got := tree(t, dir); len(got) != 0 {
			t.Errorf("left behind: %v", got)
		}
	})
	t.Run("folder missing", func(t *testing.T) {
		t.Parallel()
		status, _, stderr := run(t, "--root", root, filepath.Join(t.TempDir(), "absent"))
		if status != 1 || !strings.Contains(stderr, "cannot write units") {
			t.Errorf("exit status %d, %s", status, stderr)
		}
	})
}

// Start-up time is boot time: what the generator links is chosen with care.
func TestDependencies(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "gpuherd/cmd/gpuherd-generator").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		switch {
		case slices.Contains([]string{"net", "net/http", "net/url", "os/exec", "regexp", "log/slog", "crypto/tls", "text/template"}, dep):
			t.Errorf("%s is linked", dep)
		case strings.Contains(dep, ".") && !strings.HasPrefix(dep, "vendor/"):
			t.Errorf("%s, which is not in Go's library, is linked", dep)
		}
	}
}

// systemd's own opinion of the units. It says nothing of good ones, and its
// exit status says nothing of bad ones.
func TestSystemdVerify(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("this needs systemd-analyze: apt-get install systemd")
	}
	root := machine(t, "10-own-service")
	version := generator.SystemdVersion("/")
	if version == 0 {
		t.Fatal("cannot tell the version of this machine's systemd")
	}
	if err := os.RemoveAll(filepath.Join(root, "usr/lib/x86_64-linux-gnu")); err != nil {
		t.Fatal(err)
	}
	put(t, root, fmt.Sprintf("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-%d.so", version), "")
	put(t, root, "proc/1/environ", "ENABLE_HELLO_WORLD=yes\x00")
	put(t, root, "etc/gpuherd/services/slice.service", "[X-GPU]\nPer=mig\nInstances=2\n[Service]\nExecStart=/bin/true\n")
	writeInventory(t, root, &gpu.Inventory{Source: gpu.SourceNVML, GPUs: []gpu.GPU{{PCI: "0000:17:00.0", MIGMode: true, MIG: []gpu.MIG{{GIMinor: 30, CIMinor: 31}}}}})
	// systemd looks whether programs are there; those of the tested machine
	// are not on this one.
	services, err := filepath.Glob(root + "/*/*/*/services/*.service")
	if err != nil {
		t.Fatal(err)
	}
	etc, err := filepath.Glob(root + "/*/*/services/*.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(services, etc...) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"/usr/lib/gpuherd/gpuherd-setup", "/usr/lib/gpuherd/redis-worker", "/opt/comfyui/python"} {
			data = bytes.ReplaceAll(data, []byte(program), []byte("/bin/true"))
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(unit string) string {
		generators := t.TempDir()
		script := fmt.Sprintf("#!/bin/sh\nexec %s --root %s \"$@\"\n", program, root)
		if err := os.WriteFile(filepath.Join(generators, "gpuherd-generator"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--generators=yes", unit)
		cmd.Env = append(os.Environ(), "SYSTEMD_GENERATOR_PATH="+generators)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%s%v", out, err)
		}
		return string(out)
	}
	// systemd-analyze takes what follows a colon in a name for an alias, so MIG
	// instances are loaded as a dependency.
	put(t, root, "probe.service", "[Unit]\nWants=slice@0:0.service slice@0:0.2.service\n[Service]\nExecStart=/bin/true\n")
	for _, unit := range []string{
		filepath.Join(root, "probe.service"), "shared-setup.service", "hello-world.service", "redis-worker@.service", "redis-worker@0.service",
		"comfyui@.service", "comfyui@0.service",
	} {
		if out := verify(unit); out != "" {
			t.Errorf("systemd-analyze verify %s: %s", unit, out)
		}
	}
	// That silence means something.
	put(t, root, "etc/gpuherd/services/slice.service.d/99-bad.conf", "[Service]\nRestrat=always\n")
	if out := verify(filepath.Join(root, "probe.service")); !strings.Contains(out, "Restrat") {
		t.Errorf("systemd-analyze verify does not load a dependency: %s", out)
	}
	put(t, root, "etc/gpuherd/services/redis-worker.service.d/99-bad.conf", "[Service]\nRestrat=always\n")
	if out := verify("redis-worker@0.service"); !strings.Contains(out, "Restrat") {
		t.Errorf("systemd-analyze verify does not see a bad key: %s", out)
	}
}
