package gpuhealth

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu"
	"gpuherd/monitor/state"
)

const bootID = "0b7c1a52-7c1a-4f2e-9f10-5a3c0d8f1e77"

func TestFollowsTheFile(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	boot := filepath.Join(root, "proc/sys/kernel/random/boot_id")
	if err := os.MkdirAll(filepath.Dir(boot), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(boot, []byte(bootID+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var told [][]state.GPU
	var log bytes.Buffer
	i := &Inventory{
		Root: root, Set: func(g []state.GPU) { told = append(told, g) },
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	write := func(boot string, names ...string) {
		t.Helper()
		inv := gpu.Inventory{Version: gpu.InventoryVersion, BootID: boot, Source: gpu.SourceNVML}
		for n, name := range names {
			inv.GPUs = append(inv.GPUs, gpu.GPU{Index: n, PCI: fmt.Sprintf("0000:0%d:00.0", n+1), Name: name, Minor: 7 - n, NUMANode: -1, MemoryBytes: 80 << 30,
				MIG: []gpu.MIG{{Index: 1, UUID: "MIG-1", Profile: "1g.10gb", MemoryBytes: 10 << 30}}})
		}
		if err := inv.Write(root); err != nil {
			t.Fatal(err)
		}
	}

	i.look() // nothing there yet
	write("00000000-0000-0000-0000-000000000000", "of another boot")
	i.look()
	write(bootID, "H100")
	i.look()
	i.look() // the same: told once
	write(bootID, "H100", "L40S")
	i.look()

	of := func(index, minor int, name string) state.GPU {
		return state.GPU{Index: index, PCI: fmt.Sprintf("0000:0%d:00.0", index+1), Name: name, Minor: minor, NUMA: -1, Memory: 80 << 30, Health: state.HealthUnknown,
			MIG: []state.MIG{{Index: 1, UUID: "MIG-1", Profile: "1g.10gb", Memory: 10 << 30}}}
	}
	want := [][]state.GPU{{of(0, 7, "H100")}, {of(0, 7, "H100"), of(1, 6, "L40S")}}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}

	if err := os.WriteFile(filepath.Join(root, gpu.InventoryPath), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	i.look()
	i.look()
	if n := strings.Count(log.String(), "cannot tell of the GPUs"); n != 1 || len(told) != 2 {
		t.Errorf("a broken file was logged %d times, GPUs told %d times: %s", n, len(told), &log)
	}
}
