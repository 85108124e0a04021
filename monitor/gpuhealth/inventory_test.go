package gpuhealth

import (
	"bytes"
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

// newRoot returns a root file system of this boot.
func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{"proc/sys/kernel/random/boot_id": bootID + "\n", gpu.RescanDir + "/.keep": ""} {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func writeInventory(t *testing.T, root, boot string, gpus ...gpu.GPU) {
	t.Helper()
	for i := range gpus {
		gpus[i].Index = i
	}
	inv := gpu.Inventory{Version: gpu.InventoryVersion, BootID: boot, Source: gpu.SourceNVML, GPUs: gpus}
	if err := inv.Write(root); err != nil {
		t.Fatal(err)
	}
}

func TestFollowsTheFile(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	var log bytes.Buffer
	f := &inventoryFile{root: root, log: slog.New(slog.NewTextHandler(&log, nil))}
	want := func(names ...string) {
		t.Helper()
		inv, ok := f.look()
		var got []string
		if ok {
			for _, g := range inv.GPUs {
				got = append(got, g.Name)
			}
		}
		if diff := cmp.Diff(names, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	first, second := gpu.GPU{PCI: "0000:01:00.0", Name: "H100", NUMANode: -1}, gpu.GPU{PCI: "0000:02:00.0", Name: "L40S", NUMANode: -1}
	want() // nothing there yet
	writeInventory(t, root, "00000000-0000-0000-0000-000000000000", first)
	want() // of another boot
	writeInventory(t, root, bootID, first)
	want("H100")
	want() // the same: told once
	writeInventory(t, root, bootID, first, second)
	want("H100", "L40S")
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}

	if err := os.WriteFile(filepath.Join(root, gpu.InventoryPath), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	want()
	want()
	if n := strings.Count(log.String(), "cannot tell of the GPUs"); n != 1 {
		t.Errorf("a broken file was logged %d times: %s", n, &log)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	got := describe(gpu.GPU{Index: 3, UUID: "GPU-1", PCI: "0000:01:00.0", Name: "H100", Minor: 7, NUMANode: -1, MemoryBytes: 80 << 30,
		MIG: []gpu.MIG{{Index: 1, UUID: "MIG-1", Profile: "1g.10gb", MemoryBytes: 10 << 30}}})
	want := state.GPU{Index: 3, UUID: "GPU-1", PCI: "0000:01:00.0", Name: "H100", Minor: 7, NUMA: -1, Memory: 80 << 30,
		MIG: []state.MIG{{Index: 1, UUID: "MIG-1", Profile: "1g.10gb", Memory: 10 << 30}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
