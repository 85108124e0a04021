package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, root, name, data string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// device makes a PCI device as the kernel shows it: a link in bus/pci/devices
// to a folder in devices.
func device(t *testing.T, root, address string, attributes map[string]string) {
	t.Helper()
	for name, value := range attributes {
		put(t, root, "sys/devices/pci0000:00/"+address+"/"+name, value+"\n")
	}
	link := filepath.Join(root, sysDevices, address)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../devices/pci0000:00/"+address, link); err != nil {
		t.Fatal(err)
	}
}

var h100 = map[string]string{"vendor": "0x10de", "class": "0x030200"}

func TestDetectOrder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, a := range []string{"10000:00:00.0", "0000:9b:00.0", "0000:a1:00.0", "0000:0b:00.0", "0000:0b:00.1", "0000:0b:1f.0", "ffff:00:00.0", "0001:00:00.0"} {
		device(t, root, a, h100)
	}
	put(t, root, sysDevices+"/not-an-address/class", "0x030200")
	gpus, findings := Detect(root, false)
	var got []string
	for i, g := range gpus {
		if g.Index != i || g.Minor != i || g.NUMANode != -1 || g.UUID != "" || g.Simulated {
			t.Errorf("GPU %d is %+v", i, g)
		}
		got = append(got, g.PCI)
	}
	want := []string{"0000:0b:00.0", "0000:0b:00.1", "0000:0b:1f.0", "0000:9b:00.0", "0000:a1:00.0", "0001:00:00.0", "ffff:00:00.0", "10000:00:00.0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if len(findings) != len(want) {
		t.Errorf("%d findings", len(findings))
	}
}

func TestDetectDriver(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, a := range []string{"0000:17:00.0", "0000:18:00.0", "0000:19:00.0"} {
		device(t, root, a, h100)
	}
	put(t, root, procGPUs+"/0000:17:00.0/information", "Model: \t\t NVIDIA H100: 80GB\nGPU UUID: \t GPU-12345678-9abc-def0-1234-56789abcdef0\nDevice Minor: \t 2\n")
	put(t, root, procGPUs+"/0000:18:00.0/information", "GPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 0\nGPU Excluded:\t Yes\n")
	want := []GPU{
		{Index: 0, PCI: "0000:17:00.0", Minor: 2, UUID: "GPU-12345678-9abc-def0-1234-56789abcdef0", Name: "NVIDIA H100: 80GB", NUMANode: -1},
		{Index: 1, PCI: "0000:19:00.0", Minor: 1, NUMANode: -1}, // the excluded one has 0
	}
	gpus, _ := Detect(root, false)
	if diff := cmp.Diff(want, gpus); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if gpus, _ := Scan(root); len(gpus) != 3 || gpus[0].UUID != "" {
		t.Errorf("Scan asked the driver: %+v", gpus)
	}
}

func TestDetectNothing(t *testing.T) {
	t.Parallel()
	if gpus, findings := Detect(t.TempDir(), false); gpus != nil || findings != nil {
		t.Errorf("a machine without PCI: %v, %v", gpus, findings)
	}
	root := t.TempDir()
	put(t, root, sysDevices, "a file")
	if gpus, findings := Detect(root, false); gpus != nil || len(findings) != 1 || findings[0].Used {
		t.Errorf("a bus that cannot be listed: %v, %v", gpus, findings)
	}
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "0000:00:00", "000:00:00.0", "0000:00:00.00", "0000:0g:00.0", "0000:0A:00.0", "0000:00:00.0\n", "../0:00:00.0", "0000:+1:00.0", "000000000:00:00.0"} {
		if _, ok := parseAddress(s); ok {
			t.Errorf("%q was taken", s)
		}
	}
}

const bootID = "3f0d1f9c-6f0e-4c55-9a52-6d7f2f3d8a01"

func TestInventory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, bootIDPath, bootID+"\n")
	if _, err := ReadInventory(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no inventory: %v", err)
	}
	gpus := append([]GPU{{
		PCI: "0000:17:00.0", UUID: "GPU-12345678-9abc-def0-1234-56789abcdef0", Minor: 1, Name: "NVIDIA H100", MemoryBytes: 85 << 30, NUMANode: 1, MIGMode: true,
		MIG: []MIG{{Index: 0, UUID: "MIG-12345678-9abc-def0-1234-56789abcdef0", Profile: "1g.10gb", MemoryBytes: 1 << 33, GPUInstance: 7, GIMinor: 30, CIMinor: -1}},
	}}, Simulated(2)[1])
	inv := &Inventory{Version: InventoryVersion, BootID: bootID, Source: SourceNVML, DriverVersion: "570.86.15", GPUs: gpus}
	if err := inv.Write(root); err != nil {
		t.Fatal(err)
	}
	first := read(t, root)
	got, err := ReadInventory(root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(inv, got, cmp.Transformer("nil", func(m []MIG) []MIG { return append([]MIG{}, m...) })); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if err := got.Write(root); err != nil {
		t.Fatal(err)
	}
	if second := read(t, root); second != first {
		t.Errorf("written again:\n%s\nfirst:\n%s", second, first)
	}
	info, err := os.Stat(filepath.Join(root, InventoryPath))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(filepath.Join(root, InventoryPath)))
	if err != nil || len(entries) != 1 {
		t.Errorf("something is left beside it: %v, %v", entries, err)
	}

	put(t, root, bootIDPath, "00000000-6f0e-4c55-9a52-6d7f2f3d8a01\n")
	if _, err := ReadInventory(root); !errors.Is(err, ErrStale) {
		t.Errorf("of an earlier boot: %v", err)
	}
}

func read(t *testing.T, root string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, InventoryPath))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestInventoryRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*Inventory){
		"newer":          func(i *Inventory) { i.Version = InventoryVersion + 1 },
		"no version":     func(i *Inventory) { i.Version = 0 },
		"source":         func(i *Inventory) { i.Source = "guess" },
		"index":          func(i *Inventory) { i.GPUs[0].Index = 1 },
		"minor":          func(i *Inventory) { i.GPUs[0].Minor = -1 },
		"node":           func(i *Inventory) { i.GPUs[0].NUMANode = -2 },
		"address":        func(i *Inventory) { i.GPUs[0].PCI = "0000:17:00.0\nExecStart=/bin/sh" },
		"uuid":           func(i *Inventory) { i.GPUs[0].UUID = "GPU-%H" },
		"mig uuid":       func(i *Inventory) { i.GPUs[0].MIG = []MIG{{UUID: "x"}} },
		"mig order":      func(i *Inventory) { i.GPUs[0].MIG = []MIG{{Index: 1}, {Index: 1}} },
		"mig minor":      func(i *Inventory) { i.GPUs[0].MIG = []MIG{{GIMinor: -2}} },
		"too many":       func(i *Inventory) { i.GPUs = Simulated(MaxGPUs + 1) },
		"too many parts": func(i *Inventory) { i.GPUs[0].MIG = make([]MIG, maxMIG+1) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			put(t, root, bootIDPath, bootID+"\n")
			inv := &Inventory{Version: InventoryVersion, BootID: bootID, Source: SourcePCI, GPUs: []GPU{{PCI: "0000:17:00.0", NUMANode: -1}}}
			change(inv)
			data, err := json.Marshal(inv)
			if err != nil {
				t.Fatal(err)
			}
			put(t, root, InventoryPath, string(data))
			if _, err := ReadInventory(root); err == nil {
				t.Error("was taken")
			}
		})
	}
	for _, text := range []string{"", "null", "[]", "{", "\x00"} {
		root := t.TempDir()
		put(t, root, bootIDPath, bootID+"\n")
		put(t, root, InventoryPath, text)
		if _, err := ReadInventory(root); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestSimulated(t *testing.T) {
	t.Parallel()
	gpus := Simulated(MaxGPUs)
	uuids, addresses := map[string]bool{}, map[string]bool{}
	for i, g := range gpus {
		if g.Index != i || g.Minor != i || !g.Simulated || g.MemoryBytes != 16<<30 {
			t.Errorf("GPU %d is %+v", i, g)
		}
		if _, ok := parseAddress(g.PCI); !ok || !validUUID(g.UUID, "GPU-") || uuids[g.UUID] || addresses[g.PCI] {
			t.Errorf("GPU %d: address %q, UUID %q", i, g.PCI, g.UUID)
		}
		uuids[g.UUID], addresses[g.PCI] = true, true
	}
	if g := gpus[1]; g.PCI != "ffff:01:00.0" || g.UUID != "GPU-00000000-0000-0000-0000-000000000001" {
		t.Errorf("%+v", g)
	}
}

func TestFill(t *testing.T) {
	t.Parallel()
	hardware := []GPU{{Index: 0, PCI: "0000:17:00.0", Minor: 4}, {Index: 1, PCI: "0000:18:00.0", Minor: 0}}
	for n, want := range map[int]string{0: "0=4 1=0", 2: "0=4 1=0", 4: "0=4 1=0 2=5s 3=6s"} {
		got := ""
		for _, g := range Fill(hardware, n) {
			if got != "" {
				got += " "
			}
			got += fmt.Sprintf("%d=%d", g.Index, g.Minor)
			if g.Simulated {
				got += "s"
			}
		}
		if got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
