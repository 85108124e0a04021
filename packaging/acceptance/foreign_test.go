//go:build machine

package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
	"gpuherd/units/queue/redistest"
)

// An emulated is another architecture, whose programs QEMU runs one by one on
// this machine's kernel.
type emulated struct {
	arch     string // Go's name of it, and Debian's
	qemu     string
	libc     string // the folder of its C library
	compiler string
}

// other is the architecture that we have packages for and this machine is not.
func other() emulated {
	if runtime.GOARCH == "arm64" {
		return emulated{"amd64", "qemu-x86_64", "/usr/x86_64-linux-gnu", "x86_64-linux-gnu-gcc"}
	}
	return emulated{"arm64", "qemu-aarch64", "/usr/aarch64-linux-gnu", "aarch64-linux-gnu-gcc"}
}

// command is a program of that architecture.
func (e emulated) command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), e.qemu, slices.Concat([]string{"-L", e.libc, program}, args)...)
}

// tests runs tests of ours, built for that architecture.
func (e emulated) tests(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-count=1", "-timeout=5m", "-exec", e.qemu + " -L " + e.libc}, args...)...)
	cmd.Env = append(os.Environ(), "GOARCH="+e.arch, "CGO_ENABLED=1", "CC="+e.compiler)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

const generatorProgram = "usr/lib/systemd/system-generators/gpuherd-generator"

// programs are all that a package has, as they lie in it.
var programs = []string{
	"usr/bin/gpuherd", generatorProgram, "usr/lib/gpuherd/gpuherd-setup", "usr/lib/gpuherd/gpuherd-monitor", "usr/lib/gpuherd/redis-worker",
}

// runForeign has the programs of the other architecture's package do their
// work, and holds what they do against this machine's own. redis-worker wants to
// be a subreaper (prctl(2)), which QEMU does not know: what it is made of runs
// instead, as its packages' tests.
func runForeign(t *testing.T, dist string) {
	e := other()
	unpacked := func(arch string) string {
		found, err := filepath.Glob(filepath.Join(dist, "*_"+arch+".deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("want one deb of %s in %s, have %v", arch, dist, found)
		}
		root := t.TempDir()
		tool(t, "dpkg-deb", "--extract", found[0], root)
		return root
	}
	ours, theirs := unpacked(runtime.GOARCH), unpacked(e.arch)
	t.Run("versions", func(t *testing.T) {
		for _, program := range programs {
			want := tool(t, filepath.Join(ours, program), "--version")
			got, err := e.command(t, filepath.Join(theirs, program), "--version").CombinedOutput()
			if err != nil || string(got) != want {
				t.Errorf("%s --version of %s says %q (%v), want %q", filepath.Base(program), e.arch, got, err, want)
			}
		}
	})
	t.Run("generator", func(t *testing.T) { e.generates(t, ours, theirs) })
	t.Run("setup", func(t *testing.T) { e.setsUp(t, theirs) })
	t.Run("monitor", func(t *testing.T) { e.monitors(t, theirs) })
	// Jobs from a real Redis, and GPUs of an NVML of that architecture.
	t.Run("packages", func(t *testing.T) {
		e.tests(t, "gpuherd/units/queue", "gpuherd/units/redisworker", "gpuherd/monitor/gpuhealth")
	})
}

// generates: on each of the generator's own test machines both write the same
// files, and say the same.
func (e emulated) generates(t *testing.T, ours, theirs string) {
	machines, err := filepath.Glob(filepath.Join(sources, "generator/testdata/*/root"))
	if err != nil || len(machines) == 0 {
		t.Fatalf("the generator has no machines: %v", err)
	}
	files := 0
	for _, machine := range machines {
		name := filepath.Base(filepath.Dir(machine))
		root := filepath.Join(t.TempDir(), "root")
		tool(t, "cp", "--archive", machine, root)
		services := filepath.Join(root, "usr/lib/gpuherd/services")
		if err := os.MkdirAll(services, 0o755); err != nil {
			t.Fatal(err)
		}
		tool(t, "cp", "--archive", filepath.Join(ours, "usr/lib/gpuherd/services/."), services)
		want, got := t.TempDir(), t.TempDir()
		saysWant, errWant := exec.CommandContext(t.Context(), filepath.Join(ours, generatorProgram), "--root", root, want).CombinedOutput()
		saysGot, errGot := e.command(t, filepath.Join(theirs, generatorProgram), "--root", root, got).CombinedOutput()
		if fmt.Sprint(errWant) != fmt.Sprint(errGot) || !bytes.Equal(saysWant, saysGot) {
			t.Errorf("%s: %s says %q (%v), %s %q (%v)", name, e.arch, saysGot, errGot, runtime.GOARCH, saysWant, errWant)
		}
		if out, err := exec.CommandContext(t.Context(), "diff", "--recursive", "--no-dereference", want, got).CombinedOutput(); err != nil {
			t.Errorf("%s: other files on %s: %v\n%s", name, e.arch, err, out)
		}
		files += strings.Count(tool(t, "find", got, "-type", "f"), "\n")
	}
	t.Logf("%d files for %d machines", files, len(machines))
	if files < len(machines) {
		t.Errorf("%d files for %d machines are no work", files, len(machines))
	}
}

// setsUp: setup prepares a machine with simulated GPUs.
func (e emulated) setsUp(t *testing.T, theirs string) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/gpuherd/gpuherd.conf":       "[GPU]\nCount=2\nSimulate=yes\n",
		"proc/sys/kernel/random/boot_id": "5d3a8e2c-1f0b-4d7e-9a55-0c2b7f6e4d11\n",
		"proc/1/environ":                 "",
		"proc/cmdline":                   "root=/dev/sda1\n",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := e.command(t, filepath.Join(theirs, "usr/lib/gpuherd/gpuherd-setup"), "--root", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inventory, err := gpu.ReadInventory(root)
	if err != nil || len(inventory.GPUs) != 2 {
		t.Errorf("the inventory is %+v (%v), want two GPUs", inventory, err)
	}
}

// monitors: the monitor reads the herd from D-Bus, is ready, and tells Redis.
func (e emulated) monitors(t *testing.T, theirs string) {
	const worker = "w@0.service"
	systemd := bustest.Start(t, state.Observation{
		Name: worker, Active: "active", Sub: "running", Result: "success", MainPID: 1000, InvocationID: bustest.Invocation(1),
		ChangedMonoUS: 1, ChangedUS: uint64(time.Now().UnixMicro()),
	})
	server := redistest.Start(t)
	// t.TempDir is too long for a socket's 107 bytes.
	socket := filepath.Join(server.Dir, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	http, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(http.Addr().String())
	if err := errors.Join(err, http.Close()); err != nil {
		t.Fatal(err)
	}

	cmd := e.command(t, filepath.Join(theirs, "usr/lib/gpuherd/gpuherd-monitor"))
	var log safeBuffer
	cmd.Stderr = &log
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+systemd.Address, "REDIS_URL="+server.URL(), "MACHINE_ID=box",
		"HEALTH_PORT="+port, "STATE_DIRECTORY="+t.TempDir(), "NOTIFY_SOCKET="+socket, "CREDENTIALS_DIRECTORY=")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // t.Context() has ended, and told it to stop
		if err := cmd.Wait(); !errors.Is(err, context.Canceled) || cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("told to stop it ended with %v: %v", err, cmd.ProcessState)
		}
		if t.Failed() {
			t.Logf("the monitor said:\n%s", &log)
		}
	})
	if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); ; {
		n, err := notify.Read(buf)
		if err != nil {
			t.Fatalf("it is not ready: %v", err)
		}
		if slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			break
		}
	}
	client := server.Client(t)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		told, err := client.HGet(t.Context(), relay.Key("gpuherd", "box", "units"), worker).Result()
		if strings.Contains(told, `"sub":"running"`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Redis has of %s %q (%v)", worker, told, err)
		}
	}
}
