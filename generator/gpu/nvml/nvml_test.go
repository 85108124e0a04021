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

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu"
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
	os.Exit(m.Run())
}

type report struct {
	Answer *Answer
	Err    string
	Absent bool
}

// build makes the fake library in its own folder and returns the folder.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), "testdata/fakenvml.c"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc (apt-get install gcc libc6-dev): %v\n%s", err, out)
	}
	return dir
}

// read runs Read(library) in another process that has the environment added.
func read(t *testing.T, library, scenario string, env ...string) report {
	t.Helper()
	file := filepath.Join(t.TempDir(), "scenario")
	if err := os.WriteFile(file, []byte(scenario), 0o644); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), "GPUHERD_READ_NVML="+library, "GPUHERD_FAKE_NVML="+file), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reading NVML killed the process: %v", err)
	}
	var r report
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
	dir := build(t)
	library := filepath.Join(dir, "libnvidia-ml.so.1")
	gpus := fmt.Sprintf("gpu 0 b3 0 0 85899345920 0 %s %s\ngpu 10000 17 1f 3 42949672960 2 %s NVIDIA A100-SXM4-40GB\n", uuidA, h100, uuidB)
	devices := []Device{
		{PCI: "0000:b3:00.0", UUID: uuidA, Minor: 0, Name: h100, MemoryBytes: 80 << 30},
		{PCI: "10000:17:1f.0", UUID: uuidB, Minor: 3, Name: "NVIDIA A100-SXM4-40GB", MemoryBytes: 40 << 30},
	}
	for _, c := range []struct {
		name, scenario string
		want           report
	}{
		{"order and minors are NVML's own", gpus, report{Answer: &Answer{DriverVersion: "550.54.15", Devices: devices}}},
		{"no GPU", "driver 418.67\n", report{Answer: &Answer{DriverVersion: "418.67"}}},
		{"driver not loaded", "fail nvmlInit_v2 9\n", report{Err: "cannot start NVML: Driver Not Loaded"}},
		{"count fails", gpus + "fail nvmlDeviceGetCount_v2 999\n", report{Err: "cannot count GPUs by NVML: error 999"}},
		{"one GPU is lost", gpus + "fail nvmlDeviceGetUUID 15 0\n", report{Answer: &Answer{
			DriverVersion: "550.54.15", Devices: devices[1:],
			Faults: []string{"NVML device 0: cannot read the UUID of 0000:b3:00.0: GPU is lost"},
		}}},
		{"a handle cannot be had", gpus + "fail nvmlDeviceGetHandleByIndex_v2 15 1\n", report{Answer: &Answer{
			DriverVersion: "550.54.15", Devices: devices[:1],
			Faults: []string{"NVML device 1: cannot open it: GPU is lost"},
		}}},
		{"what is nice to know fails", "gpu 0 1 0 5 1024 0 " + uuidA + " X\nfail nvmlDeviceGetMinorNumber 3\nfail nvmlDeviceGetName 3\nfail nvmlDeviceGetMemoryInfo 3\nfail nvmlSystemGetDriverVersion 3\n",
			report{Answer: &Answer{Devices: []Device{{PCI: "0000:01:00.0", UUID: uuidA, Minor: -1}}}}},
		{"MIG with a hole", "gpu 0 1 0 0 42949672960 1 " + uuidA + " NVIDIA A100-SXM4-40GB\n" +
			"mig 0 0 1 0 5100273664 MIG-11111111-0000-0000-0000-000000000000 NVIDIA A100-SXM4-40GB MIG 1g.5gb\n" +
			"mig 0 2 2 1 20937965568 MIG-22222222-0000-0000-0000-000000000000 NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb\n",
			report{Answer: &Answer{DriverVersion: "550.54.15", Devices: []Device{{
				PCI: "0000:01:00.0", UUID: uuidA, Name: "NVIDIA A100-SXM4-40GB", MemoryBytes: 40 << 30, MIGMode: true,
				MIG: []gpu.MIG{
					{Index: 0, UUID: "MIG-11111111-0000-0000-0000-000000000000", Profile: "1g.5gb", MemoryBytes: 5100273664, GPUInstance: 1, ComputeInstance: 0, GIMinor: -1, CIMinor: -1},
					{Index: 2, UUID: "MIG-22222222-0000-0000-0000-000000000000", Profile: "1c.3g.20gb", MemoryBytes: 20937965568, GPUInstance: 2, ComputeInstance: 1, GIMinor: -1, CIMinor: -1},
				},
			}}}}},
		{"MIG enabled without devices", "gpu 0 1 0 0 1024 1 " + uuidA + " X\n",
			report{Answer: &Answer{DriverVersion: "550.54.15", Devices: []Device{{PCI: "0000:01:00.0", UUID: uuidA, Name: "X", MemoryBytes: 1024, MIGMode: true}}}}},
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
		got := read(t, "", gpus, "LD_LIBRARY_PATH="+dir)
		if diff := cmp.Diff(report{Answer: &Answer{DriverVersion: "550.54.15", Devices: devices}}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestReadWithoutLibrary(t *testing.T) {
	t.Parallel()
	got := read(t, filepath.Join(t.TempDir(), "libnvidia-ml.so.1"), "")
	if !got.Absent || got.Answer != nil {
		t.Errorf("a missing library gives %+v, want ErrAbsent", got)
	}
	broken := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	if err := os.WriteFile(broken, []byte("not a library"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := read(t, broken, ""); got.Absent || !strings.Contains(got.Err, "cannot load NVML") {
		t.Errorf("a broken library gives %+v, want an error that says so", got)
	}
}

func TestReadWithoutSymbols(t *testing.T) {
	t.Parallel()
	gpus := fmt.Sprintf("gpu 0 b3 0 0 85899345920 1 %s %s\n", uuidA, h100)
	for _, c := range []struct{ flag, err string }{
		{"-DWITHOUT_INIT", "cannot use NVML of this driver: it lacks nvmlInit_v2"},
		{"-DWITHOUT_UUID", "cannot use NVML of this driver: it lacks nvmlDeviceGetUUID"},
		{"-DWITHOUT_MIG", ""},
	} {
		t.Run(c.flag, func(t *testing.T) {
			t.Parallel()
			want := report{Err: c.err}
			if c.err == "" { // an old driver: no MIG, but a GPU
				want.Answer = &Answer{DriverVersion: "550.54.15", Devices: []Device{{PCI: "0000:b3:00.0", UUID: uuidA, Name: h100, MemoryBytes: 80 << 30}}}
			}
			if diff := cmp.Diff(want, read(t, filepath.Join(build(t, c.flag), "libnvidia-ml.so.1"), gpus)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
