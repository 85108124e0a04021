//go:build cgo

package nvml

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml/nvmltest"
)

// A process loads NVML once, so each case runs in a process of its own: this
// test binary again, which then prints what Read answers.
func TestMain(m *testing.M) {
	if library, ok := os.LookupEnv("GPUHERD_READ_NVML"); ok {
		var out report
		for range 2 { // a second reading must work as the first
			a, err := Read(library)
			out = report{Answer: a}
			if err != nil {
				out.Err, out.Absent = err.Error(), errors.Is(err, ErrAbsent)
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	if library, ok := os.LookupEnv("GPUHERD_SAMPLE_NVML"); ok {
		if err := json.NewEncoder(os.Stdout).Encode(sampleAll(library)); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type report struct {
	Answer *Answer
	Err    string
	Absent bool
}

// build makes the library in a folder of its own.
func build(t *testing.T, without ...string) string {
	t.Helper()
	library, err := nvmltest.Build(t.TempDir(), without...)
	if err != nil {
		t.Fatal(err)
	}
	return library
}

// read runs Read(library) in another process that has the environment added.
func read(t *testing.T, library string, scenario nvmltest.Scenario, env ...string) report {
	t.Helper()
	return inProcess[report](t, scenario, append(env, "GPUHERD_READ_NVML="+library)...)
}

// inProcess runs this binary with the environment added and returns what it
// prints.
func inProcess[T any](t *testing.T, scenario nvmltest.Scenario, env ...string) T {
	t.Helper()
	file := filepath.Join(t.TempDir(), "scenario")
	if err := scenario.Write(file); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), nvmltest.ScenarioVariable+"="+file), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("NVML killed the process: %v", err)
	}
	var r T
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	uuidA = "GPU-aaaaaaaa-0000-0000-0000-000000000001"
	uuidB = "GPU-bbbbbbbb-0000-0000-0000-000000000002"
	h100  = "NVIDIA H100 80GB HBM3"
)

func TestRead(t *testing.T) {
	t.Parallel()
	library := build(t)
	const a100 = "NVIDIA A100-SXM4-40GB"
	gpus := func() nvmltest.Scenario {
		return nvmltest.Scenario{GPUs: []nvmltest.GPU{
			{PCI: "0000:b3:00.0", UUID: uuidA, Name: h100, MemoryBytes: 80 << 30, MIG: nvmltest.MIGDisabled},
			{PCI: "10000:17:1f.0", UUID: uuidB, Name: a100, MemoryBytes: 40 << 30, Minor: 3},
		}}
	}
	failing := func(s nvmltest.Scenario, rules ...nvmltest.Rule) nvmltest.Scenario {
		s.Fail = rules
		return s
	}
	silent := func(s nvmltest.Scenario, i int) nvmltest.Scenario {
		s.GPUs[i].Silent = true
		return s
	}
	lost := func(s nvmltest.Scenario, i int) nvmltest.Scenario {
		s.GPUs[i].Lost = true
		return s
	}
	slow := func(s nvmltest.Scenario) nvmltest.Scenario {
		s.InitDelay = 20 * time.Millisecond
		return s
	}
	one := nvmltest.Scenario{GPUs: []nvmltest.GPU{{PCI: "0000:01:00.0", UUID: uuidA, Name: "X", MemoryBytes: 1024, Minor: 5}}}
	mig := func(mode nvmltest.MIGMode, devices ...nvmltest.MIG) nvmltest.Scenario {
		return nvmltest.Scenario{GPUs: []nvmltest.GPU{{PCI: "0000:01:00.0", UUID: uuidA, Name: a100, MemoryBytes: 40 << 30, MIG: mode, MIGDevices: devices}}}
	}
	devices := []Device{
		{PCI: "0000:b3:00.0", UUID: uuidA, Minor: 0, Name: h100, MemoryBytes: 80 << 30},
		{PCI: "10000:17:1f.0", UUID: uuidB, Minor: 3, Name: a100, MemoryBytes: 40 << 30},
	}
	for _, c := range []struct {
		name     string
		scenario nvmltest.Scenario
		want     report
	}{
		{"order and minors are NVML's own", gpus(), report{Answer: &Answer{DriverVersion: "550.54.15", Devices: devices}}},
		{"no GPU", nvmltest.Scenario{Driver: "418.67"}, report{Answer: &Answer{DriverVersion: "418.67"}}},
		{"driver not loaded", failing(gpus(), nvmltest.Rule{Function: "nvmlInit_v2", Code: 9}), report{Err: "cannot start NVML: Driver Not Loaded"}},
		{"count fails", failing(gpus(), nvmltest.Rule{Function: "nvmlDeviceGetCount_v2", Code: 999}), report{Err: "cannot count GPUs by NVML: Unknown Error"}},
		{"one GPU is lost", failing(gpus(), nvmltest.Rule{Function: "nvmlDeviceGetUUID", Code: 15, GPU: new(0)}), report{Answer: &Answer{
			DriverVersion: "550.54.15", Devices: devices[1:],
			Faults: []Fault{{Index: 0, PCI: "0000:b3:00.0", Lost: true, Err: "cannot read its UUID: GPU is lost"}},
		}}},
		{"a handle cannot be had", failing(gpus(), nvmltest.Rule{Function: "nvmlDeviceGetHandleByIndex_v2", Code: 15, GPU: new(1)}), report{Answer: &Answer{
			DriverVersion: "550.54.15", Devices: devices[:1],
			Faults: []Fault{{Index: 1, Lost: true, Err: "cannot open it: GPU is lost"}},
		}}},
		{"one GPU does not answer yet", silent(gpus(), 0), report{Answer: &Answer{
			DriverVersion: "550.54.15", Devices: devices[1:], Faults: []Fault{{Index: 0, Err: "cannot open it: Unknown Error"}},
		}}},
		{"one GPU fell off the bus", lost(gpus(), 1), report{Answer: &Answer{
			DriverVersion: "550.54.15", Devices: devices[:1], Faults: []Fault{{Index: 1, Lost: true, Err: "cannot open it: GPU is lost"}},
		}}},
		{"starting takes its time", slow(gpus()), report{Answer: &Answer{DriverVersion: "550.54.15", Devices: devices}}},
		{"what is nice to know fails", failing(one, nvmltest.Rule{Function: "nvmlDeviceGetMinorNumber", Code: 3}, nvmltest.Rule{Function: "nvmlDeviceGetName", Code: 3},
			nvmltest.Rule{Function: "nvmlDeviceGetMemoryInfo", Code: 3}, nvmltest.Rule{Function: "nvmlSystemGetDriverVersion", Code: 3}),
			report{Answer: &Answer{Devices: []Device{{PCI: "0000:01:00.0", UUID: uuidA, Minor: -1}}}}},
		{"MIG with a hole", mig(nvmltest.MIGEnabled,
			nvmltest.MIG{Place: 0, GPUInstance: 1, ComputeInstance: 0, MemoryBytes: 5100273664, UUID: "MIG-11111111-0000-0000-0000-000000000000", Profile: "1g.5gb"},
			nvmltest.MIG{Place: 2, GPUInstance: 2, ComputeInstance: 1, MemoryBytes: 20937965568, UUID: "MIG-22222222-0000-0000-0000-000000000000", Profile: "1c.3g.20gb"},
		), report{Answer: &Answer{DriverVersion: "550.54.15", Devices: []Device{{
			PCI: "0000:01:00.0", UUID: uuidA, Name: a100, MemoryBytes: 40 << 30, MIGMode: true,
			MIG: []gpu.MIG{
				{Index: 0, UUID: "MIG-11111111-0000-0000-0000-000000000000", Profile: "1g.5gb", MemoryBytes: 5100273664, GPUInstance: 1, ComputeInstance: 0, GIMinor: -1, CIMinor: -1},
				{Index: 2, UUID: "MIG-22222222-0000-0000-0000-000000000000", Profile: "1c.3g.20gb", MemoryBytes: 20937965568, GPUInstance: 2, ComputeInstance: 1, GIMinor: -1, CIMinor: -1},
			},
		}}}}},
		{"MIG enabled without devices", mig(nvmltest.MIGEnabled),
			report{Answer: &Answer{DriverVersion: "550.54.15", Devices: []Device{{PCI: "0000:01:00.0", UUID: uuidA, Name: a100, MemoryBytes: 40 << 30, MIGMode: true}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, read(t, library, c.scenario)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}

	t.Run("found by the dynamic linker", func(t *testing.T) {
		t.Parallel()
		got := read(t, "", gpus(), "LD_LIBRARY_PATH="+filepath.Dir(library))
		if diff := cmp.Diff(report{Answer: &Answer{DriverVersion: "550.54.15", Devices: devices}}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestReadWithoutLibrary(t *testing.T) {
	t.Parallel()
	got := read(t, filepath.Join(t.TempDir(), nvmltest.Library), nvmltest.Scenario{})
	if !got.Absent || got.Answer != nil {
		t.Errorf("a missing library gives %+v, want ErrAbsent", got)
	}
	broken := filepath.Join(t.TempDir(), nvmltest.Library)
	if err := os.WriteFile(broken, []byte("not a library"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := read(t, broken, nvmltest.Scenario{}); got.Absent || !strings.Contains(got.Err, ErrUnusable.Error()) {
		t.Errorf("a broken library gives %+v, want an error that says so", got)
	}
}

// Without a symbol of required there is no answer, and no crash; without
// another one, what it would tell is missing.
func TestReadWithoutSymbols(t *testing.T) {
	t.Parallel()
	const migID = "MIG-11111111-0000-0000-0000-000000000000"
	scenario := nvmltest.Scenario{GPUs: []nvmltest.GPU{{PCI: "0000:b3:00.0", UUID: uuidA, Name: h100, MemoryBytes: 80 << 30, Virtualisation: new(1),
		MIG: nvmltest.MIGEnabled, MIGDevices: []nvmltest.MIG{{GPUInstance: 1, UUID: migID, Profile: "1g.10gb", MemoryBytes: 10 << 30}}}}}
	answer := func(change func(*Answer)) *Answer {
		a := &Answer{DriverVersion: "550.54.15", Devices: []Device{{PCI: "0000:b3:00.0", UUID: uuidA, Name: h100, MemoryBytes: 80 << 30,
			Virtualisation: VirtualisationPassthrough, MIGMode: true,
			MIG: []gpu.MIG{{UUID: migID, Profile: "1g.10gb", MemoryBytes: 10 << 30, GPUInstance: 1, GIMinor: -1, CIMinor: -1}}}}}
		change(a)
		return a
	}
	cases := map[string]report{
		"nothing":                         {Answer: answer(func(*Answer) {})},
		"nvmlSystemGetDriverVersion":      {Answer: answer(func(a *Answer) { a.DriverVersion = "" })},
		"nvmlDeviceGetVirtualizationMode": {Answer: answer(func(a *Answer) { a.Devices[0].Virtualisation = "" })},
	}
	for _, symbol := range required {
		cases[symbol] = report{Err: "cannot use NVML of this driver: it lacks " + symbol}
	}
	for _, symbol := range migSymbols {
		cases[symbol] = report{Answer: answer(func(a *Answer) { a.Devices[0].MIGMode, a.Devices[0].MIG = false, nil })}
	}
	for symbol, want := range cases {
		t.Run(symbol, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(want, read(t, build(t, symbol), scenario)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Everything of a machine's shape comes back as it is.
func TestReadShapes(t *testing.T) {
	t.Parallel()
	library := build(t)
	for name, s := range map[string]nvmltest.Scenario{
		"8 H100": nvmltest.EightH100(), "8 A100 with MIG": nvmltest.EightA100(), "4 L40S": nvmltest.FourL40S(), "16 V100": nvmltest.SixteenV100(),
		"shuffled": nvmltest.Shuffled(nvmltest.EightA100()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := &Answer{DriverVersion: s.Driver}
			for _, g := range s.GPUs {
				d := Device{PCI: g.PCI, UUID: g.UUID, Minor: g.Minor, Name: g.Name, MemoryBytes: g.MemoryBytes,
					MIGMode: g.MIG == nvmltest.MIGEnabled, Virtualisation: VirtualisationNone}
				for _, m := range g.MIGDevices {
					d.MIG = append(d.MIG, gpu.MIG{Index: m.Place, UUID: m.UUID, Profile: m.Profile, MemoryBytes: m.MemoryBytes,
						GPUInstance: m.GPUInstance, ComputeInstance: m.ComputeInstance, GIMinor: -1, CIMinor: -1})
				}
				want.Devices = append(want.Devices, d)
			}
			if diff := cmp.Diff(report{Answer: want}, read(t, library, s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestVirtualisation(t *testing.T) {
	t.Parallel()
	library := build(t)
	s := nvmltest.Scenario{}
	for mode := range 6 {
		s.GPUs = append(s.GPUs, nvmltest.GPU{PCI: fmt.Sprintf("0000:%02x:00.0", mode+1), UUID: uuidA, Virtualisation: &mode})
	}
	got := []string{}
	for _, d := range read(t, library, s).Answer.Devices {
		got = append(got, d.Virtualisation)
	}
	if diff := cmp.Diff([]string{"none", "passthrough", "vgpu", "host-vgpu", "host-vsga", ""}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
