package sharedsetup

import (
	"testing"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
)

// GPUs are matched by what they were found by.
func TestDeviceOf(t *testing.T) {
	t.Parallel()
	answer := &nvml.Answer{Devices: []nvml.Device{
		{PCI: "0000:ca:00.0", Minor: 0, UUID: "GPU-c"},
		{PCI: "0000:17:00.0", Minor: 3, UUID: "GPU-a"},
		{PCI: "0000:b3:00.0", Minor: -1, UUID: "GPU-b"},
	}}
	for name, tt := range map[string]struct {
		gpu  gpu.GPU
		want string
	}{
		"address":         {gpu.GPU{PCI: "0000:17:00.0", Minor: 0}, "GPU-a"},
		"address, lost":   {gpu.GPU{PCI: "0000:18:00.0", Minor: 3}, ""},
		"node":            {gpu.GPU{Node: "/dev/nvidia3", Minor: 3}, "GPU-a"},
		"node, lost":      {gpu.GPU{Node: "/dev/nvidia1", Minor: 1}, ""},
		"node of Windows": {gpu.GPU{Node: gpu.WSLNode}, "GPU-c"},
	} {
		got := ""
		if d := deviceOf(&tt.gpu, answer); d != nil {
			got = d.UUID
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
