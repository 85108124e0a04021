package sharedsetup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/generator/plan"
)

// fakeSystemd runs the generator as systemd does, and notes its jobs.
type fakeSystemd struct {
	m    *machine
	on   bool
	jobs []string
	fail error // of Reload
}

func (f *fakeSystemd) generate() {
	f.m.Helper()
	dir := filepath.Join(f.m.root, generatorDir)
	if err := os.RemoveAll(dir); err != nil {
		f.m.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.m.Fatal(err)
	}
	if err := generator.Compute(generator.Options{Root: f.m.root, Environ: f.m.setup.Environ}).Write(dir); err != nil {
		f.m.Fatal(err)
	}
}

func (f *fakeSystemd) note(job string) error { f.jobs = append(f.jobs, job); return nil }

func (f *fakeSystemd) Reload(context.Context) error {
	if f.fail != nil {
		return f.fail
	}
	f.generate()
	return f.note("reload")
}
func (f *fakeSystemd) On(context.Context, string) (bool, error)     { return f.on, nil }
func (f *fakeSystemd) Start(_ context.Context, unit string) error   { return f.note("start " + unit) }
func (f *fakeSystemd) Stop(_ context.Context, unit string) error    { return f.note("stop " + unit) }
func (f *fakeSystemd) Restart(_ context.Context, unit string) error { return f.note("restart " + unit) }
func (f *fakeSystemd) Close()                                       {}

// driver is what NVML answers: devices by PCI bus.
type driver struct {
	devices []nvml.Device
	err     error
	asked   int
	answer  func(n int) (*nvml.Answer, error) // of the nth time; nil: devices or err
}

func (d *driver) ask() (*nvml.Answer, error) {
	d.asked++
	if d.answer != nil {
		return d.answer(d.asked)
	}
	return d.reply()
}

func (d *driver) reply() (*nvml.Answer, error) {
	if d.err != nil {
		return nil, d.err
	}
	return &nvml.Answer{DriverVersion: "570.86.15", Devices: d.devices}, nil
}

func device(bus string, minor int) nvml.Device {
	return nvml.Device{PCI: "0000:" + bus + ":00.0", UUID: "GPU-" + bus, Minor: minor, Name: "NVIDIA H100", MemoryBytes: 80 << 30}
}

const workerFile = "[X-GPU]\nPer=gpu\n[Service]\nExecStart=/bin/true\n"

// newHerd is a machine with GPUs at the PCI buses, whose workers systemd was
// told of by the generator, before setup has run.
func newHerd(t *testing.T, buses ...string) (*machine, *driver, *fakeSystemd) {
	t.Helper()
	m := newMachine(t)
	m.write("usr/lib/gpuherd/services/w.service", workerFile)
	m.write("proc/driver/nvidia/version", "NVRM version: 570.86.15\n")
	d := &driver{}
	for i, bus := range buses {
		m.pci("0000:" + bus + ":00.0")
		d.devices = append(d.devices, device(bus, i))
	}
	f := &fakeSystemd{m: m, on: true}
	m.setup.NVML = d.ask
	m.setup.Systemd = func(context.Context) (Manager, error) { return f, nil }
	m.setup.NVMLTimeout = 5 * time.Second
	f.generate()
	return m, d, f
}

func (m *machine) unplug(bus string) {
	m.Helper()
	if err := os.RemoveAll(filepath.Join(m.root, "sys/bus/pci/devices/0000:"+bus+":00.0")); err != nil {
		m.Fatal(err)
	}
}

// wantJobs compares and forgets the jobs.
func (f *fakeSystemd) want(what string, jobs ...string) {
	f.m.Helper()
	if diff := cmp.Diff(jobs, f.jobs); diff != "" {
		f.m.Errorf("%s: jobs (-want +got):\n%s%s", what, diff, f.m.log.String())
	}
	f.jobs = nil
}

func (m *machine) inventory() string {
	m.Helper()
	inv, err := gpu.ReadInventory(m.root)
	if err != nil {
		m.Fatal(err)
	}
	var words []string
	for _, g := range inv.GPUs {
		word := strings.Split(g.PCI, ":")[1]
		if g.Fault != "" {
			word += " (" + g.Fault + ")"
		}
		words = append(words, word)
	}
	return inv.Source + ": " + strings.Join(words, ", ")
}

// At boot a healthy machine gets what the generator planned.
func TestBootAsPlanned(t *testing.T) {
	t.Parallel()
	m, _, f := newHerd(t, "17", "18")
	m.run()
	f.want("a boot as planned")
	if got := m.inventory(); got != "nvml: 17, 18" {
		t.Errorf("inventory %s", got)
	}
}

func TestBootWaitsForTheDriver(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17", "18")
	d.answer = func(n int) (*nvml.Answer, error) {
		switch n {
		case 1:
			return nil, errors.New("cannot start NVML: Driver Not Loaded")
		case 2:
			return &nvml.Answer{Devices: d.devices[:1]}, nil
		}
		return d.reply()
	}
	m.run()
	f.want("a slow driver")
	if got := m.inventory(); got != "nvml: 17, 18" || d.asked != 3 {
		t.Errorf("inventory %s after %d questions", got, d.asked)
	}
	if want := "waiting for NVML to answer for 0000:18:00.0"; !strings.Contains(strings.Join(m.status, "\n"), want) {
		t.Errorf("no status %q: %q", want, m.status)
	}
}

// The second stage: what NVML tells is not what the generator could know.
func TestBootDiffers(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17", "18", "19")
	m.setup.NVMLTimeout = firstPoll // one look
	d.devices = []nvml.Device{device("18", 0), device("17", 1)}
	m.run()
	f.want("minors and a dead GPU", "reload", "stop w@2.service", "restart w@0.service", "restart w@1.service")
	if got := m.inventory(); got != "nvml: 17, 18, 19 (it does not answer NVML)" {
		t.Errorf("inventory %s", got)
	}
	if want := `reason="GPU 2 at 0000:19:00.0: it does not answer NVML"`; !strings.Contains(m.log.String(), want) {
		t.Errorf("the log lacks %s:\n%s", want, m.log.String())
	}
	m.run()
	f.want("a second run")
}

// A late GPU at boot is numbered by its place on the bus: no worker runs yet.
func TestBootLateGPU(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "18")
	m.pci("0000:17:00.0")
	d.devices = []nvml.Device{device("17", 0), device("18", 1)}
	m.run()
	f.want("a late GPU", "reload", "start w@1.service")
	if got := m.inventory(); got != "nvml: 17, 18" {
		t.Errorf("inventory %s", got)
	}
}

func TestHerdIsOff(t *testing.T) {
	t.Parallel()
	m, _, f := newHerd(t, "18")
	f.on = false
	m.run()
	m.pci("0000:19:00.0")
	m.setup.NVML = (&driver{devices: []nvml.Device{device("18", 0), device("19", 1)}}).ask
	m.setup.Rescan = true
	m.run()
	f.want("gpuherd.target is off", "reload")
}

// The generator had no time in systemd's last reload: the units are there
// again, and no worker is restarted.
func TestRescanWhereUnitsAreLost(t *testing.T) {
	t.Parallel()
	m, _, f := newHerd(t, "17", "18")
	m.run()
	if err := os.RemoveAll(filepath.Join(m.root, generatorDir)); err != nil {
		t.Fatal(err)
	}
	m.setup.Rescan = true
	m.run()
	f.want("units are lost", "reload", "start w@0.service", "start w@1.service")
	m.run()
	f.want("they are back")
}

// GPUs are to be simulated, as the operator says once setup has run: the
// generator asks for a rescan, which makes them ready and has it ask no more.
func TestSimulatedLater(t *testing.T) {
	t.Parallel()
	m, _, f := newHerd(t)
	m.run()
	asks := func() bool {
		_, err := os.Lstat(filepath.Join(m.root, generatorDir, wantsDir, plan.Rescan))
		return err == nil
	}
	m.write("etc/gpuherd/gpuherd.conf", "[GPU]\nSimulate=yes\nCount=1\n")
	f.generate()
	if !asks() {
		t.Fatal("the generator does not ask for a rescan")
	}
	m.setup.Rescan = true
	m.run()
	f.want("it is ready", "reload")
	if asks() {
		t.Error("the generator still asks for a rescan")
	}
	m.read("run/gpuherd/gpu/0.env")
	m.run()
	f.want("nothing is to be done")
}

func TestReloadFails(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "18")
	f.fail = errors.New("access denied")
	d.devices[0].Minor = 4
	m.run() // the workers that were planned can run
	if got := m.last(); got != "1 GPU, NVIDIA driver 570.86.15; 1 GPU fault" {
		t.Errorf("status %q", got)
	}
	f.want("no reload")
	m.setup.Rescan = true
	if err := m.setup.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("a rescan that changed nothing for systemd ended with %v", err)
	}
}

func TestRescan(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17", "18", "19")
	m.run()
	f.want("boot")
	m.setup.Rescan = true
	all := d.devices
	for _, step := range []struct {
		what      string
		change    func()
		jobs      []string
		inventory string
	}{
		{"nothing", func() {}, nil, "nvml: 17, 18, 19"},
		{"a GPU is lost: it is on the bus and does not answer", func() { d.devices = []nvml.Device{all[0], all[2]} },
			[]string{"reload", "stop w@1.service"}, "nvml: 17, 18 (it does not answer NVML), 19"},
		{"it is still lost", func() {}, nil, "nvml: 17, 18 (it does not answer NVML), 19"},
		{"it is back", func() { d.devices = all }, []string{"reload", "start w@1.service"}, "nvml: 17, 18, 19"},
		{"NVML says that it is lost", func() {
			d.answer = func(int) (*nvml.Answer, error) {
				return &nvml.Answer{Devices: []nvml.Device{all[0], all[2]}, Faults: []nvml.Fault{{Index: 1, PCI: "0000:18:00.0", Lost: true, Err: "GPU is lost"}}}, nil
			}
		}, []string{"reload", "stop w@1.service"}, "nvml: 17, 18 (it has fallen off the bus), 19"},
		{"and is back", func() { d.answer = nil }, []string{"reload", "start w@1.service"}, "nvml: 17, 18, 19"},
		{"one is given to guests", func() { d.devices[1].Virtualisation = nvml.VirtualisationHostVGPU },
			[]string{"reload", "stop w@1.service"}, "nvml: 17, 18 (it serves guests of this host (host-vgpu)), 19"},
		{"and taken back", func() { d.devices[1].Virtualisation = "" }, []string{"reload", "start w@1.service"}, "nvml: 17, 18, 19"},
		{"the first one leaves the bus", func() { m.unplug("17"); d.devices = all[1:] },
			[]string{"reload", "stop w@0.service"}, "nvml: 17 (it left the PCI bus), 18, 19"},
		{"it is back with another minor", func() {
			m.pci("0000:17:00.0")
			d.devices = []nvml.Device{device("17", 5), all[1], all[2]}
		}, []string{"reload", "start w@0.service"}, "nvml: 17, 18, 19"},
		{"a new one before all others", func() {
			m.pci("0000:01:00.0")
			d.devices = append(d.devices, device("01", 7))
		}, []string{"reload", "start w@3.service"}, "nvml: 17, 18, 19, 01"},
		{"MIG devices are made", func() {
			d.devices[3].MIGMode = true
			d.devices[3].MIG = []gpu.MIG{{Index: 0, UUID: "MIG-1", GPUInstance: 1, GIMinor: -1, CIMinor: -1}}
			m.write("etc/gpuherd/services/s.service", strings.ReplaceAll(workerFile, "Per=gpu", "Per=mig"))
		}, []string{"reload", "start s@3:0.service"}, "nvml: 17, 18, 19, 01"},
		{"NVML fails, with the driver there", func() { d.err = errors.New("cannot start NVML: Unknown Error") }, nil, "nvml: 17, 18, 19, 01"},
		{"and one leaves the bus", func() { m.unplug("19") }, []string{"reload", "stop w@2.service"}, "nvml: 17, 18, 19 (it left the PCI bus), 01"},
		{"the driver is unloaded", func() {
			if err := os.Remove(filepath.Join(m.root, "proc/driver/nvidia/version")); err != nil {
				t.Fatal(err)
			}
		}, []string{"reload", "stop s@3:0.service", "stop w@0.service", "stop w@1.service", "stop w@3.service"},
			"nvml: 17 (the NVIDIA driver is not loaded), 18 (the NVIDIA driver is not loaded), 19 (it left the PCI bus), 01 (the NVIDIA driver is not loaded)"},
		{"the driver is back, with other minors", func() {
			m.write("proc/driver/nvidia/version", "NVRM version: 570.86.15\n")
			d.err = nil
			d.devices = []nvml.Device{device("17", 2), device("18", 1), device("01", 0)}
		}, []string{"reload", "start w@0.service", "start w@1.service", "start w@3.service"}, "nvml: 17, 18, 19 (it left the PCI bus), 01"},
	} {
		step.change()
		if err := m.setup.Run(context.Background()); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
		f.want(step.what, step.jobs...)
		if got := m.inventory(); got != step.inventory {
			t.Errorf("%s: inventory is %q, want %q", step.what, got, step.inventory)
		}
	}
}

// A GPU that comes into view is waited for, and what goes meanwhile is not.
func TestRescanWaits(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17", "18")
	m.run()
	m.pci("0000:19:00.0")
	var at2 []string
	d.asked = 0
	d.answer = func(n int) (*nvml.Answer, error) {
		switch n {
		case 1:
			return &nvml.Answer{Devices: d.devices[:1]}, nil
		case 2:
			at2 = append(at2, f.jobs...)
			return &nvml.Answer{Devices: d.devices[:1]}, nil
		}
		return &nvml.Answer{Devices: []nvml.Device{d.devices[0], device("19", 4)}}, nil
	}
	m.setup.Rescan = true
	m.run()
	f.want("in all", "reload", "stop w@1.service", "reload", "start w@2.service")
	if diff := cmp.Diff([]string{"reload", "stop w@1.service"}, at2); diff != "" {
		t.Errorf("before the second look (-want +got):\n%s", diff)
	}
}

// A library that hangs stops no worker.
func TestRescanHangs(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17", "18")
	m.run()
	block := make(chan struct{})
	t.Cleanup(func() { close(block) })
	d.answer = func(int) (*nvml.Answer, error) { <-block; return nil, errors.New("too late") }
	m.setup.Rescan = true
	m.setup.NVMLTimeout = 10 * time.Millisecond
	m.run()
	f.want("a hanging library")
	if got := m.inventory(); got != "nvml: 17, 18" {
		t.Errorf("inventory %s", got)
	}
	if !strings.Contains(m.log.String(), "NVML did not answer within") {
		t.Errorf("the log says nothing:\n%s", m.log.String())
	}
}

// Requests are taken before the look, so that one that comes later has its own.
func TestRequests(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17", "18")
	m.run()
	all := d.devices
	m.write("run/gpuherd/rescan/udev/a-folder", "")
	m.write("run/gpuherd/rescan/monitor", "")
	if err := os.Symlink(m.root, filepath.Join(m.root, "run/gpuherd/rescan/link")); err != nil {
		t.Fatal(err)
	}
	d.asked = 0
	d.answer = func(n int) (*nvml.Answer, error) {
		if n == 1 {
			if entries, err := os.ReadDir(filepath.Join(m.root, gpu.RescanDir)); err != nil || len(entries) != 0 {
				t.Errorf("at the first look there are %v, %v", entries, err)
			}
			m.write("run/gpuherd/rescan/udev", "") // it changes while NVML is asked
			return &nvml.Answer{Devices: all}, nil
		}
		return &nvml.Answer{Devices: all[:1]}, nil
	}
	m.setup.Rescan = true
	m.run()
	f.want("a change during the look", "reload", "stop w@1.service")
	if entries, err := os.ReadDir(filepath.Join(m.root, gpu.RescanDir)); err != nil || len(entries) != 0 {
		t.Errorf("requests are left: %v, %v", entries, err)
	}
}

// The operator's programs, and what only a boot writes, are no part of a rescan.
func TestRescanRunsNoHooks(t *testing.T) {
	m, _, _ := newHerd(t, "17")
	m.run()
	m.hook("10-says", 0o755, "echo ran")
	m.setup.Rescan = true
	m.run()
	if m.output.Len() > 0 {
		t.Errorf("output %q", m.output.String())
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	information := func(minor int) string { return fmt.Sprintf("Model: \t\t NVIDIA H100\nDevice Minor: \t %d\n", minor) }
	for _, c := range []struct {
		name  string
		files []string
		fail  string // the command that fails
		want  []string
	}{
		{"nothing is installed", nil, "", nil},
		{"all is there", []string{"usr/bin/nvidia-modprobe", "proc/driver/nvidia/version", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/nvidia3"}, "", nil},
		{"nvidia-modprobe", []string{"usr/bin/nvidia-modprobe"}, "", []string{
			"/usr/bin/nvidia-modprobe -c 255", "/usr/bin/nvidia-modprobe -u -c 0", "/usr/bin/nvidia-modprobe -c 3"}},
		{"nvidia-modprobe fails", []string{"usr/bin/nvidia-modprobe"}, "/usr/bin/nvidia-modprobe -c 255", []string{
			"/usr/bin/nvidia-modprobe -c 255", "/usr/bin/nvidia-modprobe -c 3"}},
		{"one node is missing", []string{"usr/bin/nvidia-modprobe", "proc/driver/nvidia/version", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools"}, "", []string{
			"/usr/bin/nvidia-modprobe -c 3"}},
		{"nvidia-ctk", []string{"usr/bin/nvidia-ctk"}, "", []string{
			"/usr/bin/nvidia-ctk system create-device-nodes --control-devices --load-kernel-modules"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.pci("0000:17:00.0")
			m.write("proc/driver/nvidia/gpus/0000:17:00.0/information", information(3))
			for _, name := range c.files {
				m.write(name, "")
			}
			var got []string
			m.setup.Tool = func(_ context.Context, argv ...string) error {
				got = append(got, strings.Join(argv, " "))
				if got[len(got)-1] == c.fail {
					return errors.New("exit status 1")
				}
				return nil
			}
			m.run()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("ran (-want +got):\n%s", diff)
			}
			if c.fail != "" && !strings.Contains(m.log.String(), c.fail+": exit status 1") {
				t.Errorf("the log says nothing of it:\n%s", m.log.String())
			}
		})
	}
}

func TestPrepareMIG(t *testing.T) {
	t.Parallel()
	m, d, _ := newHerd(t, "17")
	for _, name := range []string{"usr/bin/nvidia-modprobe", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/nvidia0", "dev/nvidia-caps/nvidia-cap3",
		"proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access"} {
		m.write(name, "")
	}
	m.write("proc/driver/nvidia-caps/mig-minors", "gpu0/gi1/access 3\ngpu0/gi1/ci0/access 4\n")
	d.devices[0].MIG = []gpu.MIG{{UUID: "MIG-1", GPUInstance: 1, GIMinor: -1, CIMinor: -1}}
	var got []string
	m.setup.Tool = func(_ context.Context, argv ...string) error { got = append(got, strings.Join(argv, " ")); return nil }
	m.run()
	want := []string{"/usr/bin/nvidia-modprobe -f /proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ran (-want +got):\n%s", diff)
	}
}

func TestRunTool(t *testing.T) {
	t.Parallel()
	if err := RunTool(t.Context(), "/bin/true"); err != nil {
		t.Error(err)
	}
	if err := RunTool(t.Context(), "/bin/false"); err == nil || err.Error() != "exit status 1" {
		t.Errorf("a failing program: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := RunTool(ctx, "/bin/sh", "-c", "sleep 1000 & wait"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a hanging program: %v", err)
	}
}

func TestRescanBeforeSetup(t *testing.T) {
	t.Parallel()
	m, d, f := newHerd(t, "17")
	m.write("run/gpuherd/rescan/udev", "")
	m.setup.Rescan = true
	m.run()
	f.want("no setup in this boot")
	if entries, err := os.ReadDir(filepath.Join(m.root, gpu.RescanDir)); err != nil || len(entries) != 0 || d.asked != 0 {
		t.Errorf("requests left: %v, %v; NVML asked %d times", entries, err, d.asked)
	}
	if got := m.last(); !strings.Contains(got, "has not run in this boot") {
		t.Errorf("status %q", got)
	}
}
