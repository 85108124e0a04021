package generator_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// snapshot describes everything below dir without opening what is no file.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		case info.Mode().IsRegular() && info.Size() < 1<<20:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
		case info.Mode().IsRegular():
			text += fmt.Sprint(" ", info.Size(), info.ModTime())
		}
		seen[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// wanted returns the names of the units that the target starts.
func wanted(t *testing.T, out string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(out, "gpuherd.target.wants"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func fifo(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		file := filepath.Join(root, name)
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func symlink(t *testing.T, root, name, target string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

// big makes a file of 100 MB that takes no room.
func big(t *testing.T, root, name string) {
	t.Helper()
	put(t, root, name, "")
	if err := os.Truncate(filepath.Join(root, name), 100<<20); err != nil {
		t.Fatal(err)
	}
}

// Whatever a machine's folders hold, the program ends, writes the units of what
// is healthy, says what is not, and touches nothing outside its folder.
func TestRobust(t *testing.T) {
	t.Parallel()
	const (
		services = "etc/gpuherd/services/"
		run1     = "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n"
		first    = "sys/bus/pci/devices/0000:17:00.0/"
		second   = "sys/bus/pci/devices/0000:18:00.0/"
	)
	both := []string{"redis-worker@0.service", "redis-worker@1.service", "shared-setup.service"}
	one := []string{"redis-worker@0.service", "shared-setup.service"}
	tests := map[string]struct {
		change func(t *testing.T, root string)
		want   []string
		status int
		log    []string
	}{
		"nothing odd": {func(*testing.T, string) {}, both, 0, nil},
		"FIFOs among the service files": {func(t *testing.T, root string) {
			fifo(t, root, services+"a.service", services+"redis-worker.service.d/10-a.conf", "run/gpuherd/services/b.service")
		}, both, 1, []string{"a.service: cannot be read: a FIFO", "10-a.conf: cannot be read: a FIFO", "b.service: cannot be read: a FIFO"}},
		"FIFOs for folders": {func(t *testing.T, root string) {
			fifo(t, root, "etc/gpuherd/services", "etc/gpuherd/gpuherd.conf.d", "run/gpuherd/services", "proc/driver/nvidia/gpus", "usr/lib64/systemd")
		}, both, 1, []string{"/etc/gpuherd/services: cannot be listed: not a directory"}},
		"FIFOs for the configuration": {func(t *testing.T, root string) {
			fifo(t, root, "etc/gpuherd/gpuherd.conf", "etc/gpuherd/gpuherd.conf.d/10-a.conf")
		}, both, 1, []string{"/etc/gpuherd/gpuherd.conf: cannot be read: a FIFO"}},
		"FIFOs in proc and run": {func(t *testing.T, root string) {
			fifo(t, root, "proc/1/environ", "proc/1/cmdline", "proc/cmdline", "proc/devices", "proc/driver/nvidia-caps/mig-minors", "proc/driver/nvidia/gpus/0000:17:00.0/information",
				"proc/sys/kernel/random/boot_id", "run/gpuherd/inventory.json", "run/systemd/container", "proc/device-tree/compatible", "dev/dxg")
		}, both, 0, nil},
		"FIFOs among a GPU's attributes": {func(t *testing.T, root string) {
			fifo(t, root, first+"numa_node", first+"driver_override", first+"sriov_numvfs", first+"mdev_supported_types", first+"driver", "sys/devices/system/node/node0/cpulist",
				second+"class", second+"vendor")
		}, one, 0, nil},
		"a FIFO for the bus": {func(t *testing.T, root string) { fifo(t, root, "sys/bus/pci/devices") }, []string{"shared-setup.service"}, 0, []string{"none of the 1"}},
		"links that run in circles": {func(t *testing.T, root string) {
			symlink(t, root, services+"a.service", "b.service")
			symlink(t, root, services+"b.service", "a.service")
			symlink(t, root, services+"redis-worker.service.d", "redis-worker.service.d")
			symlink(t, root, "run/gpuherd/services", "services")
			symlink(t, root, "sys/bus/pci/devices/0000:20:00.0", "0000:20:00.0")
			symlink(t, root, "proc/driver/nvidia/gpus", "gpus")
		}, both, 1, []string{"a.service: cannot be read: too many levels of symbolic links"}},
		// What a link names is looked for inside the root.
		"links that lead out": {func(t *testing.T, root string) {
			symlink(t, root, services+"up.service", "../../../../outside/secret.service")
			symlink(t, root, services+"away.service", filepath.Join(filepath.Dir(root), "outside/secret.service"))
			symlink(t, root, "run/gpuherd/inventory.json", "../../../outside/secret.service")
			symlink(t, root, "sys/bus/pci/devices/0000:20:00.0", "../../../../../outside")
			symlink(t, root, second+"driver_override", "../../../../../../outside/secret.service")
		}, both, 1, []string{"up.service: cannot be read: no such file", "away.service: cannot be read: no such file"}},
		"names that climb": {func(t *testing.T, root string) {
			for _, name := range []string{"...service", `..\x2fhidden.service`, "a...service", `a\x2f..\x2f..\x2fb.service`, "a..%2fb.service"} {
				put(t, root, services+name, run1)
			}
			put(t, root, "etc/gpuherd/gpuherd.conf", "[Worker]\nID=../../outside/x\n[Service ../../outside/x]\nEnabled=yes\n[Environment]\nA=../../../outside\n")
		}, append([]string{"a...service", `a\x2f..\x2f..\x2fb.service`}, both...), 1, []string{"a..%2fb.service: the name has '%'", "[Service ../../outside/x] names no service"}},
		"names with odd characters": {func(t *testing.T, root string) {
			for _, name := range []string{"a b", "%i", "new\nline", "é", "\x1b[31m", "\xff", "a@", "quote\"", "$HOME", strings.Repeat("x", 210), "good-_.:1"} {
				put(t, root, services+name+".service", run1)
			}
			put(t, root, services+".service", run1)
			put(t, root, services+".hidden.service", run1)
			put(t, root, services+"good-_.:1.service.d/a b\n%i.conf", "[Service]\nNice=5\n")
		}, append([]string{"good-_.:1.service"}, both...), 1, []string{`the name has ' '`, "xxx.service"}},
		"values that would be lines": {func(t *testing.T, root string) {
			put(t, root, "proc/1/environ", "WORKER_ID=a\nExecStart=/bin/evil\x00ENABLE_REDIS_WORKER=yes\nx\x00")
			put(t, root, "proc/driver/nvidia/gpus/0000:17:00.0/information", "Device Minor: 1\rExecStart=/bin/evil\nGPU UUID: GPU-\x00\n")
			put(t, root, "sys/devices/system/node/node0/cpulist", "0-3\rExecStart=/bin/evil\n")
			put(t, root, first+"numa_node", "0\n")
		}, both, 1, nil},
		"files of 100 MB": {func(t *testing.T, root string) {
			big(t, root, services+"a.service")
			big(t, root, services+"redis-worker.service.d/10-a.conf")
			big(t, root, "etc/gpuherd/gpuherd.conf.d/10-a.conf")
			big(t, root, "run/gpuherd/inventory.json")
			big(t, root, "proc/devices")
			big(t, root, "proc/driver/nvidia/gpus/0000:17:00.0/information")
			big(t, root, first+"numa_node")
		}, both, 1, []string{"a.service: cannot be read: larger than", "10-a.conf: cannot be read: larger than"}},
		"folders for files": {func(t *testing.T, root string) {
			for _, name := range []string{services + "a.service", "etc/gpuherd/gpuherd.conf", "run/gpuherd/inventory.json", "proc/1/environ", "proc/devices", second + "class", second + "driver"} {
				if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
					t.Fatal(err)
				}
				put(t, root, name+"/inside", "")
			}
		}, one, 1, []string{"a.service: cannot be read: a directory"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			root, out := filepath.Join(base, "root"), t.TempDir()
			if err := os.Rename(machine(t, "04-no-gpu"), root); err != nil {
				t.Fatal(err)
			}
			put(t, base, "outside/secret.service", "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/secret\n")
			for _, dir := range []string{first, second} {
				put(t, root, dir+"vendor", "0x10de\n")
				put(t, root, dir+"class", "0x030200\n")
			}
			tt.change(t, root)
			before := snapshot(t, base)
			status, _, stderr := run(t, "--root", root, out)
			if status != tt.status {
				t.Errorf("exit status %d, want %d: %s", status, tt.status, stderr)
			}
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, wanted(t, out)); diff != "" {
				t.Errorf("units (-want +got):\n%s\n%s", diff, stderr)
			}
			for _, text := range tt.log {
				if !strings.Contains(stderr, text) {
					t.Errorf("the log lacks %q:\n%s", text, stderr)
				}
			}
			if strings.Contains(stderr, "gave up") {
				t.Error("it hung until its deadline")
			}
			if diff := cmp.Diff(before, snapshot(t, base)); diff != "" {
				t.Errorf("something outside its folder changed (-before +after):\n%s", diff)
			}
			for file, text := range tree(t, out) {
				if strings.Contains(text, "/bin/secret") || strings.Contains(text, "\nExecStart=/bin/evil") || strings.ContainsAny(text, "\r\x00") {
					t.Errorf("%s holds what it must not:\n%s", file, text)
				}
			}
		})
	}
}

// Ten thousand services are all written, or none where that takes too long.
func TestManyServices(t *testing.T) {
	t.Parallel()
	const n = 10000
	root := machine(t, "01-two-simulated")
	for i := range n {
		put(t, root, fmt.Sprintf("etc/gpuherd/services/s%05d.service", i), "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n")
	}
	for _, deadline := range []string{"2s", "10m"} {
		out := t.TempDir()
		status, _, stderr := run(t, "--root", root, "--deadline", deadline, out)
		got := len(wanted(t, out))
		switch {
		case status == 0 && got == n+3:
		case status == 1 && deadline == "2s" && strings.Contains(stderr, "nothing"):
			if left := tree(t, out); len(left) != 0 {
				t.Errorf("%d files are left behind", len(left))
			}
		default:
			t.Errorf("deadline %s: exit status %d, %d units: %s", deadline, status, got, stderr)
		}
	}
}
