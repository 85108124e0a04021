package machine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUMLCommandLine(t *testing.T) {
	t.Parallel()
	config := Config{
		Memory:     3 << 30,
		Env:        map[string]string{"WORKER_ID": "a box", "NUM_GPUS": "2"},
		KernelArgs: []string{"gpuherd.simulate=1"},
	}
	got, err := umlCommandLine(config, "/tmp/m", Image{Disk: "/cache/disk"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ubd0=/tmp/m/cow,/cache/disk", "root=/dev/ubda", "rw", "rootfstype=ext4", "mem=3072M",
		"con=null", "con0=null,fd:1", "ssl=null", "init=/usr/lib/gpuherd-machine/stage", "loglevel=4",
		"gpuherd_machine.folder=/tmp/m/shared",
		"gpuherd.simulate=1", "NUM_GPUS=2", `WORKER_ID="a box"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("umlCommandLine() (-want +got):\n%s", diff)
	}
}

func TestUMLCommandLineRefuses(t *testing.T) {
	t.Parallel()
	long := Config{Env: map[string]string{"A": strings.Repeat("x", 2000)}}
	if _, err := umlCommandLine(long, "/tmp/m", Image{}); err == nil {
		t.Error("a command line that the kernel would cut off was taken")
	}
	many := Config{Env: map[string]string{}}
	for i := range umlEnvMax + 1 {
		many.Env[fmt.Sprintf("V%d", i)] = ""
	}
	if _, err := umlCommandLine(many, "/tmp/m", Image{}); err == nil {
		t.Error("more variables than the kernel takes were taken")
	}
}

func TestTakeCPU(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, release, err := takeCPU(dir)
	if err != nil {
		t.Fatal(err)
	}
	taken := []int{first}
	for {
		cpu, release, err := takeCPU(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = release() }()
		if slices.Contains(taken, cpu) {
			break // all are taken: they are shared
		}
		taken = append(taken, cpu)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	again, release, err := takeCPU(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	if again != first {
		t.Errorf("CPU %d was given back, but %d was taken", first, again)
	}
}

func TestMemoryFolder(t *testing.T) {
	t.Parallel()
	if _, err := memoryFolder(1 << 60); err == nil {
		t.Error("a folder was found with room for an exabyte")
	}
	if dir, err := memoryFolder(1 << 20); err != nil {
		t.Errorf("no room for a megabyte: %v", err)
	} else if dir == "" {
		t.Error("no folder")
	}
}
