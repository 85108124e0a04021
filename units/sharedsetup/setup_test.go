package sharedsetup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
)

const bootID = "4ffbcdd9-1f19-4d90-8bf6-38282720e1e3"

// A machine is a fake root and what a run on it said.
type machine struct {
	*testing.T
	root   string
	setup  *Setup
	log    bytes.Buffer
	output bytes.Buffer
	status []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{T: t, root: t.TempDir()}
	m.write("proc/sys/kernel/random/boot_id", bootID+"\n")
	m.write("etc/passwd", fmt.Sprintf("root:x:0:0::/:/bin/sh\ngpuherd:x:%d:%d::/:/\ngpuherd-worker:x:%d:%d::/:/\n", os.Getuid(), os.Getgid(), os.Getuid(), os.Getgid()))
	m.setup = &Setup{
		Root:   m.root,
		Log:    slog.New(slog.NewTextHandler(&m.log, nil)),
		Output: &m.output,
		Status: func(s string) { m.status = append(m.status, s) },
	}
	return m
}

func (m *machine) write(name, text string) {
	m.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		m.Fatal(err)
	}
	return string(data)
}

// pci puts NVIDIA GPUs on the bus.
func (m *machine) pci(addresses ...string) {
	m.Helper()
	for _, a := range addresses {
		dir := "sys/bus/pci/devices/" + a + "/"
		m.write(dir+"vendor", "0x10de\n")
		m.write(dir+"class", "0x030200\n")
		m.write(dir+"numa_node", "-1\n")
	}
}

// run runs setup and expects it to succeed.
func (m *machine) run() {
	m.Helper()
	if err := m.setup.Run(context.Background()); err != nil {
		m.Fatalf("%v\n%s", err, m.log.String())
	}
}

func (m *machine) last() string {
	if len(m.status) == 0 {
		return ""
	}
	return m.status[len(m.status)-1]
}

// files lists what is below run/gpuherd and var, with modes, sizes and times.
func (m *machine) files(withTimes bool) string {
	m.Helper()
	var b strings.Builder
	for _, top := range []string{"run", "var"} {
		err := filepath.WalkDir(filepath.Join(m.root, top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(m.root, path)
			fmt.Fprintf(&b, "%v %s", info.Mode(), name)
			if withTimes {
				fmt.Fprintf(&b, " %v %d", info.ModTime(), info.Sys().(*syscall.Stat_t).Ino)
			}
			b.WriteString("\n")
			return nil
		})
		if err != nil {
			m.Fatal(err)
		}
	}
	return b.String()
}

func TestSimulated(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("etc/gpuherd/gpuherd.conf", "[GPU]\nCount=2\nSimulate=yes\n")
	m.run()
	want := `drwxr-xr-x run
drwxr-xr-x run/gpuherd
drwx------ run/gpuherd/credentials
-rw------- run/gpuherd/credentials/gpuherd.redis-url
-rw------- run/gpuherd/environment
drwxr-xr-x run/gpuherd/gpu
-rw-r--r-- run/gpuherd/gpu/0.env
-rw-r--r-- run/gpuherd/gpu/1.env
-rw-r--r-- run/gpuherd/inventory.json
drwxrwx--- run/gpuherd/rescan
drwxr-xr-x var
drwxr-xr-x var/lib
drwxr-xr-x var/lib/gpuherd
drwxr-xr-x var/lib/gpuherd/shared
`
	if diff := cmp.Diff(want, m.files(false)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	inv, err := gpu.ReadInventory(m.root)
	if err != nil {
		t.Fatal(err)
	}
	if inv.Source != gpu.SourceSimulation || len(inv.GPUs) != 2 || !inv.GPUs[1].Simulated {
		t.Errorf("inventory %+v", inv)
	}
	wantEnv := fileHeader + `CUDA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000001
GPU_MEMORY_GB=16
GPU_MODEL="Simulated GPU"
GPU_PCI_BUS_ID=ffff:01:00.0
GPU_UUID=GPU-00000000-0000-0000-0000-000000000001
NVIDIA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000001
`
	if diff := cmp.Diff(wantEnv, m.read("run/gpuherd/gpu/1.env")); diff != "" {
		t.Errorf("1.env (-want +got):\n%s", diff)
	}
	if got := m.read("run/gpuherd/credentials/gpuherd.redis-url"); got != "" {
		t.Errorf("credential %q", got)
	}
	if got := m.last(); got != "2 GPUs, simulated" {
		t.Errorf("status %q", got)
	}

	before := m.files(true)
	m.run()
	if diff := cmp.Diff(before, m.files(true)); diff != "" {
		t.Errorf("a second run changed (-before +after):\n%s", diff)
	}
}

// TestRepairs: what was changed about the files is put right again.
func TestRepairs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("etc/gpuherd/gpuherd.conf", "[GPU]\nCount=1\nSimulate=yes\n")
	m.run()
	want := m.files(false)
	inventory, env := m.read("run/gpuherd/inventory.json"), m.read("run/gpuherd/gpu/0.env")
	for name, mode := range map[string]fs.FileMode{"run/gpuherd/credentials": 0o755, "run/gpuherd/credentials/gpuherd.redis-url": 0o644} {
		if err := os.Chmod(filepath.Join(m.root, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	m.write("run/gpuherd/inventory.json", "{")
	m.write("run/gpuherd/gpu/0.env", "GPU_UUID=other\n")
	m.write("run/gpuherd/gpu/.0.env123", "left by an interrupted run")
	m.run()
	if diff := cmp.Diff(want, m.files(false)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if m.read("run/gpuherd/inventory.json") != inventory || m.read("run/gpuherd/gpu/0.env") != env {
		t.Error("damaged files were not written again")
	}
}

func TestNVML(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.pci("0000:17:00.0", "0000:b3:00.0", "0000:ca:00.0")
	m.write("etc/gpuherd/gpuherd.conf", "[GPU]\nCount=4\nSimulate=yes\n")
	m.write("proc/driver/nvidia-caps/mig-minors", "config 1\nmonitor 2\ngpu3/gi1/access 30\ngpu3/gi1/ci0/access 31\ngpu3/gi2/access 39\ngpu0/gi1/access 3\n")
	m.write("run/gpuherd/gpu/7.env", "GPU_UUID=gone\n")
	m.write("run/gpuherd/gpu/0:4.env", "GPU_UUID=gone\n")
	m.write("run/gpuherd/gpu/notes", "an operator's\n")
	m.setup.NVMLTimeout = time.Second
	m.setup.NVML = func() (*nvml.Answer, error) {
		return &nvml.Answer{
			DriverVersion: "550.54.15",
			Devices: []nvml.Device{ // neither PCI order nor minors in order
				{PCI: "0000:ca:00.0", UUID: "GPU-cccccccc-0000-0000-0000-000000000000", Minor: 0, Name: "NVIDIA L4", MemoryBytes: 24 << 30},
				{PCI: "0000:17:00.0", UUID: "GPU-aaaaaaaa-0000-0000-0000-000000000000", Minor: 3, Name: "NVIDIA A100-SXM4-40GB", MemoryBytes: 42297786368, MIGMode: true,
					MIG: []gpu.MIG{{Index: 1, UUID: "MIG-11111111-0000-0000-0000-000000000000", Profile: "1g.5gb", MemoryBytes: 5100273664, GPUInstance: 1, GIMinor: -1, CIMinor: -1}}},
			},
			Faults: []nvml.Fault{{Index: 2, Lost: true, Err: "cannot open it: GPU is lost"}},
		}, nil
	}
	m.run()
	inv, err := gpu.ReadInventory(m.root)
	if err != nil {
		t.Fatal(err)
	}
	fill := gpu.Simulated(4)[3]
	fill.Minor = 4 // clear of NVML's
	want := &gpu.Inventory{
		Version: 1, BootID: bootID, Source: gpu.SourceNVML, DriverVersion: "550.54.15",
		GPUs: []gpu.GPU{
			{Index: 0, PCI: "0000:17:00.0", UUID: "GPU-aaaaaaaa-0000-0000-0000-000000000000", Minor: 3, Name: "NVIDIA A100-SXM4-40GB", MemoryBytes: 42297786368, NUMANode: -1, MIGMode: true,
				MIG: []gpu.MIG{{Index: 1, UUID: "MIG-11111111-0000-0000-0000-000000000000", Profile: "1g.5gb", MemoryBytes: 5100273664, GPUInstance: 1, GIMinor: 30, CIMinor: 31}}},
			{Index: 1, PCI: "0000:b3:00.0", Minor: 1, NUMANode: -1, MIG: []gpu.MIG{}, Fault: noAnswer}, // and keeps its number
			{Index: 2, PCI: "0000:ca:00.0", UUID: "GPU-cccccccc-0000-0000-0000-000000000000", Minor: 0, Name: "NVIDIA L4", MemoryBytes: 24 << 30, NUMANode: -1, MIG: []gpu.MIG{}},
			fill,
		},
	}
	want.GPUs[3].MIG = []gpu.MIG{}
	if diff := cmp.Diff(want, inv); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(filepath.Join(m.root, "run/gpuherd/gpu"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"0.env", "0:1.env", "1.env", "2.env", "3.env", "notes"}, names); diff != "" {
		t.Errorf("device files (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{
		"1.env": "GPU_PCI_BUS_ID=0000:b3:00.0\n",
		"0:1.env": "CUDA_VISIBLE_DEVICES=MIG-11111111-0000-0000-0000-000000000000\nGPU_MEMORY_GB=5\nGPU_MODEL=\"NVIDIA A100-SXM4-40GB MIG 1g.5gb\"\n" +
			"GPU_PCI_BUS_ID=0000:17:00.0\nGPU_UUID=MIG-11111111-0000-0000-0000-000000000000\nNVIDIA_VISIBLE_DEVICES=MIG-11111111-0000-0000-0000-000000000000\n",
	} {
		if diff := cmp.Diff(fileHeader+want, m.read("run/gpuherd/gpu/"+name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := m.last(); got != "4 GPUs, NVIDIA driver 550.54.15; 2 GPU faults" {
		t.Errorf("status %q", got)
	}
	for _, want := range []string{"GPU is lost", "GPU 1 at 0000:b3:00.0: it does not answer NVML"} {
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, m.log.String())
		}
	}
	before := m.files(true)
	m.run()
	if diff := cmp.Diff(before, m.files(true)); diff != "" {
		t.Errorf("a second run changed (-before +after):\n%s", diff)
	}
}

// TestCountBelowFound: the inventory has every GPU all the same.
func TestCountBelowFound(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.pci("0000:17:00.0", "0000:b3:00.0")
	m.setup.Environ = []string{"NUM_GPUS=1"}
	m.run()
	inv, err := gpu.ReadInventory(m.root)
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.GPUs) != 2 || inv.Source != gpu.SourcePCI {
		t.Errorf("inventory %+v", inv)
	}
	if got := m.last(); got != "1 GPU" {
		t.Errorf("status %q", got)
	}
}

// TestNVMLFails: workers can start without NVML, so setup succeeds, visibly.
func TestNVMLFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		nvml func() (*nvml.Answer, error)
		want string
	}{
		{"absent", func() (*nvml.Answer, error) { return nil, fmt.Errorf("%w: no such file", nvml.ErrAbsent) }, "1 GPU on the PCI bus, but no NVIDIA driver"},
		{"driver not loaded", func() (*nvml.Answer, error) { return nil, errors.New("cannot start NVML: Driver Not Loaded") }, "Driver Not Loaded"},
		{"hangs", func() (*nvml.Answer, error) { select {} }, "NVML did not answer within 10ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.pci("0000:17:00.0")
			m.setup.NVML = c.nvml
			m.setup.NVMLTimeout = time.Second
			if c.name == "hangs" {
				m.setup.NVMLTimeout = 10 * time.Millisecond
			}
			m.run()
			if !strings.Contains(m.log.String(), c.want) {
				t.Errorf("the log lacks %q:\n%s", c.want, m.log.String())
			}
			if got := m.last(); got != "1 GPU; 1 GPU fault" {
				t.Errorf("status %q", got)
			}
			if _, err := gpu.ReadInventory(m.root); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLibraryWithheld: a container without NVML says which variable keeps it out.
func TestLibraryWithheld(t *testing.T) {
	t.Parallel()
	for capabilities, want := range map[string]string{
		"compute":         "NVIDIA_DRIVER_CAPABILITIES of PID 1's environment is compute, add utility",
		"compute,utility": "but no NVIDIA driver",
	} {
		m := newMachine(t)
		m.pci("0000:17:00.0")
		m.write("dev/nvidia0", "")
		m.setup.Environ = []string{"container=docker", "NVIDIA_DRIVER_CAPABILITIES=" + capabilities}
		m.setup.NVML = func() (*nvml.Answer, error) { return nil, fmt.Errorf("%w: no such file", nvml.ErrAbsent) }
		m.run()
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("with %s the log lacks %q:\n%s", capabilities, want, m.log.String())
		}
	}
}

// TestNVMLNeverAnswers: what will not change is asked for once.
func TestNVMLNeverAnswers(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{nvml.ErrAbsent, nvml.ErrUnusable} {
		m := newMachine(t)
		m.pci("0000:17:00.0")
		asked := 0
		m.setup.NVML = func() (*nvml.Answer, error) {
			asked++
			return nil, fmt.Errorf("%w: no symbol", cause)
		}
		m.setup.NVMLTimeout = time.Second
		m.run()
		if asked != 1 {
			t.Errorf("%v: asked %d times", cause, asked)
		}
	}
}

func TestEnvironmentAndSecrets(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("etc/gpuherd/gpuherd.conf", "[Environment]\nPass=HF_HOME REDIS_URL ODD BAD ABSENT\nOwn=x\n[Worker]\nNonsense=1\n")
	const secret = "redis://user:hunter2@db:6379/1"
	m.setup.Environ = []string{
		"REDIS_URL=" + secret, "HUB_REDIS_URL=" + secret, "NUM_GPUS=0", "WORKER_ID=box", "MACHINE_ID=box-1", "HF_HOME=/models",
		"ODD=a \"b\" $c `d` \\e % 'f'\n#g", "BAD=\x1b[31m", "UNRELATED=1",
	}
	m.run()
	want := fileHeader + "HF_HOME=/models\nMACHINE_ID=box-1\nNUM_GPUS=0\nODD=\"a \\\"b\\\" \\$c \\`d\\` \\\\e % 'f'\n#g\"\n"
	if diff := cmp.Diff(want, m.read("run/gpuherd/environment")); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if got := m.read("run/gpuherd/credentials/gpuherd.redis-url"); got != secret {
		t.Errorf("credential %q", got)
	}
	told := m.log.String() + m.output.String() + strings.Join(m.status, "\n")
	if strings.Contains(told, "hunter2") {
		t.Errorf("the password was told:\n%s", told)
	}
	for _, want := range []string{"the value of BAD has a control character", "REDIS_URL may hold a password", "gpuherd.conf:5: Nonsense="} {
		if !strings.Contains(told, want) {
			t.Errorf("the log lacks %q:\n%s", want, told)
		}
	}
	if !strings.Contains(m.last(), "the configuration has errors: gpuherd verify") {
		t.Errorf("status %q", m.last())
	}
}

// TestCannotWrite: what cannot be written fails the run, and only that is
// missing afterwards.
func TestCannotWrite(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("run/gpuherd/gpu", "a file in the folder's place")
	m.write("etc/gpuherd/gpuherd.conf", "[GPU]\nCount=1\nSimulate=yes\n")
	err := m.setup.Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "/run/gpuherd/gpu") {
		t.Errorf("error %v", err)
	}
	if !strings.HasPrefix(m.last(), "failed: ") {
		t.Errorf("status %q", m.last())
	}
	m.read("run/gpuherd/credentials/gpuherd.redis-url")
	if _, err := gpu.ReadInventory(m.root); err != nil {
		t.Error(err)
	}

	m = newMachine(t)
	if err := os.Remove(filepath.Join(m.root, "proc/sys/kernel/random/boot_id")); err != nil {
		t.Fatal(err)
	}
	if err := m.setup.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "boot_id") {
		t.Errorf("error %v", err)
	}
}

// TestLock: a second run waits for the first.
func TestLock(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	unlock, err := m.setup.lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{}, 100)
	second := *m.setup
	second.Status = func(string) {
		select {
		case waiting <- struct{}{}:
		default:
		}
	}
	done := make(chan error)
	go func() { done <- second.Run(context.Background()) }()
	<-waiting
	select {
	case <-done:
		t.Fatal("the second run did not wait")
	default:
	}
	unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	unlock, err = m.setup.lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.setup.Run(ctx); err == nil {
		t.Error("a stopped run that waits for the lock ended well")
	}
}

// TestShared: the monitor's user owns the parent, so it must not lead root to
// a folder of its choice.
func TestShared(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root gives folders away")
	}
	owner := func(t *testing.T, path string) uint32 {
		t.Helper()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	m := newMachine(t)
	state := filepath.Join(m.root, "var/lib/gpuherd")
	shared := filepath.Join(state, "shared")
	m.run() // before the users are there: both stay root's
	m.write("etc/passwd", "gpuherd:x:991:991::/:/\ngpuherd-worker:x:992:992::/:/\n")
	for _, c := range []struct {
		name                    string
		stateBefore, before     int
		stateAfter, sharedAfter uint32
	}{
		{"root's", 0, 0, 991, 992},
		{"right", 991, 992, 991, 992},
		{"systemd gave all to the monitor", 991, 991, 991, 992},
		{"an operator's", 1000, 1001, 1000, 1001},
	} {
		if err := errors.Join(os.Chown(state, c.stateBefore, c.stateBefore), os.Chown(shared, c.before, c.before)); err != nil {
			t.Fatal(err)
		}
		m.run()
		if s, d := owner(t, state), owner(t, shared); s != c.stateAfter || d != c.sharedAfter {
			t.Errorf("%s: owners %d and %d, want %d and %d", c.name, s, d, c.stateAfter, c.sharedAfter)
		}
	}

	victim := filepath.Join(m.root, "victim")
	if err := errors.Join(os.Mkdir(victim, 0o755), os.Remove(shared), os.Symlink(victim, shared)); err != nil {
		t.Fatal(err)
	}
	if err := m.setup.Run(context.Background()); err == nil {
		t.Error("a symbolic link in the place of the shared folder was accepted")
	}
	if u := owner(t, victim); u != 0 {
		t.Errorf("user %d was given a folder by way of a symbolic link", u)
	}
}
