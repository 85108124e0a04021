//go:build machine

package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// These tests boot machines: `go test -tags machine`, as root. The first one
// makes the images.

var systemdVersions = map[Suite]string{Bookworm: "252", Trixie: "257"}

// boot boots a machine for one test, and fails the test if anything of it is
// left afterwards.
func boot(t *testing.T, config Config) *Machine {
	t.Helper()
	config.Log = testLog{t}
	m, err := Boot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, m.folder.path)
	})
	return m
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSuffix(p, []byte("\n")))
	return len(p), nil
}

// nothingLeft looks for what a machine of this folder may leave on the host.
func nothingLeft(t *testing.T, folder string) {
	t.Helper()
	name := filepath.Base(folder)
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: folder %s", folder)
	}
	if pids := processesOf(t, name); len(pids) > 0 {
		t.Errorf("left: processes %v", pids)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), name) {
		t.Errorf("left: a mount of %s", name)
	}
	for _, dir := range cgroupFoldersOfThis(t) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("left: cgroup %s/%s", dir, name)
		}
	}
}

// processesOf returns the processes that name a machine's folder: its kernel
// and all of user-mode-linux's processes have it in their arguments.
func processesOf(t *testing.T, name string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && bytes.Contains(data, []byte(name)) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

func cgroupFoldersOfThis(t *testing.T) []string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return cgroupFolders(string(own), string(mounts))
}

// output runs argv in the machine, which must exit with 0.
func output(t *testing.T, m *Machine, argv ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status, err := m.Run(t.Context(), argv, &stdout, &stderr)
	if err != nil || status != 0 {
		t.Fatalf("%q: status %d, error %v\n%s%s", argv, status, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// writeTree makes a tree of files; those of a folder system-generators, and
// those in bin, are programs.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	tree := t.TempDir()
	for name, data := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.Contains(name, "generators/") || strings.Contains(name, "bin/") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func eachBackend(t *testing.T, test func(t *testing.T, config Config)) {
	for _, backend := range []Backend{Nspawn, UML} {
		for _, suite := range []Suite{Bookworm, Trixie} {
			t.Run(fmt.Sprintf("%s-%s", backend, suite), func(t *testing.T) {
				test(t, Config{Backend: backend, Suite: suite})
			})
		}
	}
}

func TestBoot(t *testing.T) {
	eachBackend(t, func(t *testing.T, config Config) {
		private := filepath.Join(t.TempDir(), "private")
		if err := os.Mkdir(private, 0o700); err != nil {
			t.Fatal(err)
		}
		generator := "#!/bin/sh\necho \"$NUM_GPUS/$WORKER_ID\" >/run/generator-ran\ncat /proc/cmdline /proc/1/cmdline >/run/generator-cmdline\n"
		config.Env = map[string]string{"NUM_GPUS": "2", "WORKER_ID": "a box"}
		config.KernelArgs = []string{"gpuherd.simulate=1"}
		config.Hostname = "gpu-box"
		config.Trees = []string{
			private, // its mode must not become that of /
			writeTree(t, map[string]string{
				"usr/lib/systemd/system-generators/test-generator": generator,
				"etc/layer":  "lower",
				"lib/merged": "in /usr/lib",
			}),
			writeTree(t, map[string]string{"etc/layer": "upper"}),
		}
		m := boot(t, config)
		if m.State != "running" || m.BootTime <= 0 {
			t.Errorf("state %q after %s", m.State, m.BootTime)
		}
		if err := os.WriteFile(filepath.Join(m.Share, "in"), []byte("from the host"), 0o644); err != nil {
			t.Fatal(err)
		}
		got := output(t, m, "bash", "-c", `
			systemctl --failed --no-legend
			systemctl --version | head -n1 | cut -d' ' -f2
			cat /run/generator-ran
			grep -qz gpuherd.simulate=1 /run/generator-cmdline && echo kernel argument
			cat /etc/layer; echo; cat /usr/lib/merged; echo; stat -c '%a %U' / /etc/layer; readlink /lib
			hostname
			redis-cli ping
			stat -f -c %T /sys/fs/cgroup
			cat `+SharePath+`/in; echo
			echo from the machine >`+SharePath+`/out
			busctl --no-pager list | grep -o 'org.freedesktop.systemd1 '
			journalctl -b -q --no-pager -u redis-server | grep -c Started.redis`)
		want := systemdVersions[config.Suite] + "\n" + `2/a box
kernel argument
upper
in /usr/lib
755 root
644 root
usr/lib
gpu-box
PONG
cgroup2fs
from the host
org.freedesktop.systemd1 
1
`
		if got != want {
			t.Errorf("the machine says\n%s\nwant\n%s", got, want)
		}
		if data, err := os.ReadFile(filepath.Join(m.Share, "out")); err != nil || string(data) != "from the machine\n" {
			t.Errorf("the share has %q, error %v", data, err)
		}
		if status, err := m.Run(t.Context(), []string{"sh", "-c", "exit 42"}, nil, nil); status != 42 || err != nil {
			t.Errorf("status %d, error %v; want 42", status, err)
		}
		if config.Backend == UML {
			if got := output(t, m, "cat", "/sys/fs/cgroup/cgroup.controllers"); !strings.Contains(got, "memory") {
				t.Errorf("cgroup controllers: %s", got)
			}
		}
		if config.Backend == UML && m.BootTime > 60*time.Second {
			t.Errorf("booted in %s", m.BootTime)
		}
	})
}

// TestEarly: what the early script mounts is there when generators run, and PID
// 1 is as it is without such a script.
func TestEarly(t *testing.T) {
	eachBackend(t, func(t *testing.T, config Config) {
		config.Env = map[string]string{"NUM_GPUS": "2"}
		config.KernelArgs = []string{"gpuherd.simulate=1"}
		config.Trees = []string{writeTree(t, map[string]string{
			"usr/lib/systemd/system-generators/test-generator": "#!/bin/sh\n{ ls /sys/bus; cat /etc/layer; stat -c %t,%T /dev/nvidia7; echo $NUM_GPUS; } >/run/generator-ran 2>&1\n",
			"etc/layer": "a tree\n",
		})}
		config.Early = "export SECRET=x\nmount -t tmpfs tmpfs /sys/bus && mkdir /sys/bus/fake && mknod /dev/nvidia7 c 195 7\n"
		m := boot(t, config)
		if m.State != "running" {
			t.Errorf("state %q", m.State)
		}
		got := output(t, m, "sh", "-c", "cat /run/generator-ran; ls /sys/bus; stat -c %t,%T /dev/nvidia7; cut -d '' -f1 /proc/1/cmdline; tr '\\0' '\\n' </proc/1/environ | grep 'PWD\\|SECRET' || :")
		want := "fake\na tree\nc3,7\n2\nfake\nc3,7\n/sbin/init\n"
		if got != want {
			t.Errorf("the machine says\n%s\nwant\n%s", got, want)
		}
	})
}

// TestEarlyFails: a machine whose early script fails does not boot.
func TestEarlyFails(t *testing.T) {
	for _, backend := range []Backend{Nspawn, UML} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			_, err := Boot(t.Context(), Config{Backend: backend, Early: "echo no; false\n", Log: io.Discard})
			if err == nil {
				t.Error("it booted")
			}
			t.Log(err)
		})
	}
}

// TestPID1Environment: of the host's environment, nothing reaches PID 1.
func TestPID1Environment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "x")
	m := boot(t, Config{Backend: UML, Env: map[string]string{"NUM_GPUS": "2"}})
	got := output(t, m, "sh", "-c", `tr '\0' '\n' </proc/1/environ | sort`)
	if want := "HOME=/\nNUM_GPUS=2\nTERM=linux\nmem=1500M\n"; got != want {
		t.Errorf("PID 1's environment is\n%s\nwant\n%s", got, want)
	}
}

// TestEndsByItself: a machine that panics or powers off is noticed at once.
func TestEndsByItself(t *testing.T) {
	for name, test := range map[string]struct {
		backend Backend
		command string
		want    string
	}{
		"panic":           {UML, "echo c >/proc/sysrq-trigger", "Kernel panic - not syncing: sysrq triggered crash"},
		"poweroff":        {UML, "systemctl poweroff -ff", errMachineEnded.Error()},
		"nspawn-poweroff": {Nspawn, "systemctl poweroff", errMachineEnded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			m := boot(t, Config{Backend: test.backend})
			start := time.Now()
			_, err := m.Run(t.Context(), []string{"sh", "-c", test.command + "; sleep 100"}, nil, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("noticed after %s", took)
			}
		})
	}
}

func TestNoInit(t *testing.T) {
	_, err := Boot(t.Context(), Config{KernelArgs: []string{"init=/none"}, Log: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "Kernel panic - not syncing: Requested init /none failed") {
		t.Errorf("got error %v", err)
	}
}

// TestBootHangs: a boot that does not end is ended, with what is known about it.
func TestBootHangs(t *testing.T) {
	for _, backend := range []Backend{Nspawn, UML} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			tree := writeTree(t, map[string]string{
				"etc/systemd/system/stuck.service":                  "[Service]\nType=oneshot\nExecStart=sh -c 'echo I hang; sleep infinity'\n",
				"etc/systemd/system/multi-user.target.d/stuck.conf": "[Unit]\nWants=stuck.service\nAfter=stuck.service\n",
			})
			var log bytes.Buffer
			_, err := Boot(t.Context(), Config{Backend: backend, Trees: []string{tree}, BootTimeout: 20 * time.Second, Log: &log})
			if err == nil || !strings.Contains(err.Error(), "not booted within 20s") {
				t.Errorf("got error %v", err)
			}
			for _, want := range []string{"stuck.service", "start running", "I hang", "Reached target"} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the report has no %q:\n%s", want, log.String())
				}
			}
		})
	}
}

// TestKilled: a machine ends with its program, however that ends.
func TestKilled(t *testing.T) {
	if backend := os.Getenv("MACHINE_TEST_BOOT"); backend != "" {
		m, err := Boot(t.Context(), Config{Backend: Backend(backend)})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("FOLDER %s\n", m.folder.path)
		_, _ = m.Run(context.Background(), []string{"sleep", "1000"}, nil, nil) // until killed
		return
	}
	for _, backend := range []Backend{Nspawn, UML} {
		t.Run(string(backend), func(t *testing.T) {
			temp := t.TempDir() // takes the folder that is left
			cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
			cmd.Env = append(os.Environ(), "MACHINE_TEST_BOOT="+string(backend), "TMPDIR="+temp)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var folder string
			for lines := bufio.NewScanner(stdout); folder == "" && lines.Scan(); {
				folder, _ = strings.CutPrefix(lines.Text(), "FOLDER ")
				if folder == lines.Text() {
					t.Log(folder)
					folder = ""
				}
			}
			if folder == "" {
				t.Fatalf("it did not boot: %v", cmd.Wait())
			}
			if len(processesOf(t, filepath.Base(folder))) == 0 {
				t.Fatal("the machine has no processes")
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed, as it should be
			deadline := time.Now().Add(10 * time.Second)
			for len(processesOf(t, filepath.Base(folder))) > 0 {
				if time.Now().After(deadline) {
					t.Fatalf("still there: processes %v", processesOf(t, filepath.Base(folder)))
				}
				time.Sleep(10 * time.Millisecond)
			}
			// The folder and cgroups that are left are for the next machine to remove.
			t.Setenv("TMPDIR", temp)
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(folder, old, old); err != nil {
				t.Fatal(err)
			}
			for { // the last processes may still be on their way out of their cgroup
				next, err := newFolder()
				if err != nil {
					t.Fatal(err)
				}
				if err := next.remove(); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(folder); err != nil || time.Now().After(deadline) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			nothingLeft(t, folder)
		})
	}
}
