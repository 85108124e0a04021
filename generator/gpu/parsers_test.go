package gpu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMajors(t *testing.T) {
	t.Parallel()
	text := `Character devices:
  1 mem
  4 /dev/vc/0
  4 tty
195 nvidia
195 nvidia-modeset
195 nvidiactl
234 nvidia-nvswitch
235 nvidia-caps
236 nvidia-caps
 -1 odd
99999 odd
x odd
237
510 nvidia uvm
511 nvidia-uvm

Block devices:
  8 sd
512 nvidia-block
`
	want := Majors{
		"mem": 1, "/dev/vc/0": 4, "tty": 4, "nvidia": 195, "nvidia-modeset": 195, "nvidiactl": 195, "nvidia-nvswitch": 234,
		"nvidia-caps": 235, "nvidia uvm": 510, "nvidia-uvm": 511,
	}
	if diff := cmp.Diff(want, ParseMajors([]byte(text))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	root := t.TempDir()
	if got := ReadMajors(root); len(got) != 0 {
		t.Errorf("without /proc/devices: %v", got)
	}
	put(t, root, procDevices, text)
	if diff := cmp.Diff(want, ReadMajors(root)); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func TestParseMIGMinors(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		"config 1", "monitor 2", "sys/config 3", "gpu0/gi0/access 3", "gpu0/gi0/ci0/access 4", "gpu12/gi14/ci7/access 4321",
		"gpu0/gi1/access", "gpu0/gi1/access x", "gpu0/gi1/access -1", "gpu0/gi1/access 99999999", "gpu0/ci1/access 5", "gi0/gpu0/access 6",
		"gpu/gi1/access 7", "gpu0/gi1/ci2/x/access 8", "gpu0/access 9", "access 10", "/access 11", "gpu-1/gi0/access 12", "gpu0/gi1/ci2/config 13", "", "\x00",
	}, "\n")
	want := map[MIGNode]int{{0, 0, -1}: 3, {0, 0, 0}: 4, {12, 14, 7}: 4321}
	if diff := cmp.Diff(want, ParseMIGMinors([]byte(text))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	root := t.TempDir()
	if got := ReadMIGMinors(root); len(got) != 0 {
		t.Errorf("without a driver: %v", got)
	}
	put(t, root, procMIGMinors, text)
	if diff := cmp.Diff(want, ReadMIGMinors(root)); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func TestReadNodeCPUs(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, list := range map[string]string{"node0": "0-15,32-47\n", "node1": "\n", "node2": "0-\n", "node3": "3-1\n", "node4": "%i\n", "node5": strings.Repeat("1,", 3000) + "1\n", "node6": "7"} {
		put(t, root, sysNodes+"/"+name+"/cpulist", list)
	}
	var gpus []GPU
	for n := -1; n < 9; n++ {
		gpus = append(gpus, GPU{NUMANode: n})
	}
	if diff := cmp.Diff(map[int]string{0: "0-15,32-47", 6: "7"}, ReadNodeCPUs(root, gpus)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
