package gpu

import (
	"strconv"
	"strings"
	"testing"
)

// More seeds, as real machines have them, are in testdata/fuzz.

func FuzzParseInformation(f *testing.F) {
	f.Add([]byte("Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 3\nGPU Excluded:\t Yes\n"))
	f.Add([]byte("Device Minor: -1\nGPU UUID: GPU-%H\nModel:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		info := ParseInformation(data)
		if info.Minor < unknown || info.Minor > maxMinor {
			t.Errorf("minor %d", info.Minor)
		}
		if info.UUID != "" && !validUUID(info.UUID, "GPU-") {
			t.Errorf("UUID %q", info.UUID)
		}
		if strings.Contains(info.Model, "\n") {
			t.Errorf("model %q", info.Model)
		}
	})
}

func FuzzParseMajors(f *testing.F) {
	f.Add([]byte("Character devices:\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n8 sd\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, major := range ParseMajors(data) {
			if name == "" || major < 0 || major > maxMajor {
				t.Errorf("%q is %d", name, major)
			}
		}
	})
}

func FuzzParseMIGMinors(f *testing.F) {
	f.Add([]byte("config 1\nmonitor 2\ngpu0/gi0/access 3\ngpu0/gi0/ci0/access 4\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for node, minor := range ParseMIGMinors(data) {
			if node.GPU < 0 || node.GI < 0 || node.CI < -1 || minor < 0 || minor > maxMinor {
				t.Errorf("%+v is %d", node, minor)
			}
		}
	})
}

func FuzzParseTegra(f *testing.F) {
	f.Add([]byte("nvidia,p3737-0000+p3701-0000\x00nvidia,tegra234\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if chip := ParseTegra(data); chip != "" {
			if _, err := strconv.ParseUint(strings.TrimPrefix(chip, "tegra"), 10, 32); err != nil {
				t.Errorf("chip %q", chip)
			}
		}
	})
}

// An address goes into unit files as it is.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"0000:17:00.0", "10000:e1:1f.7", "0000:17:00.0\n", "../../etc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := parseAddress(s)
		if ok && (a.name != s || len(s) < 12 || len(s) > 16 || strings.Trim(s, "0123456789abcdef:.") != "") {
			t.Errorf("%q was taken", s)
		}
		if ok && compareAddress(a, a) != 0 {
			t.Errorf("%q is not itself", s)
		}
	})
}

// So does a list of CPUs.
func FuzzCPUList(f *testing.F) {
	for _, s := range []string{"0-15,32-47", "7", "", "0-", "3-1", "%i", "1,,2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if validCPUList(s) && (s == "" || strings.Trim(s, "0123456789-,") != "") {
			t.Errorf("%q was taken", s)
		}
	})
}

func FuzzNodeMinor(f *testing.F) {
	for _, s := range []string{"/dev/nvidia0", "/dev/nvidia247", "/dev/nvidia248", "/dev/nvidiactl", "/dev/nvidia00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if minor, ok := nodeMinor(s); ok && (minor < 0 || minor > maxGPUMinor || nodeOf(minor) != s) {
			t.Errorf("%q is %d", s, minor)
		}
	})
}

// What a damaged inventory holds does not get any further.
func FuzzInventory(f *testing.F) {
	f.Add([]byte(`{"version":1,"source":"nvml","gpus":[{"index":0,"pci":"0000:17:00.0","numa_node":-1,"mig":[{"index":0,"gi_minor":30,"ci_minor":-1}]}]}`))
	f.Add([]byte(`{"version":1,"source":"nvml","gpus":[{"node":"/dev/dxg"},{"index":1,"pci":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		inv, err := parseInventory(data)
		if err != nil || inv.check() != nil {
			return
		}
		for i, g := range inv.GPUs {
			if g.Index != i || g.Address() == "" || strings.ContainsAny(g.Address()+g.UUID, "\n %") || g.Minor < 0 || g.NUMANode < -1 {
				t.Errorf("GPU %d is %+v", i, g)
			}
		}
	})
}
