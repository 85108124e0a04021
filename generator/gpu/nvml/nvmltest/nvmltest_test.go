package nvmltest

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"

	"gpuherd/generator/gpu"
)

// symbols returns what a library offers.
func symbols(t *testing.T, path string) []string {
	t.Helper()
	library, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer library.Close()
	all, err := library.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		if s.Section != elf.SHN_UNDEF && strings.HasPrefix(s.Name, "nvml") {
			names = append(names, s.Name)
		}
	}
	return names
}

func TestBuildLeavesSymbolsOut(t *testing.T) {
	t.Parallel()
	build := func(without ...string) []string {
		path, err := Build(t.TempDir(), without...)
		if err != nil {
			t.Fatal(err)
		}
		return symbols(t, path)
	}
	all := build()
	some := build("nvmlDeviceGetUUID", "nvmlEventSetCreate")
	if len(all)-len(some) != 2 || !slices.Contains(all, "nvmlDeviceGetUUID") || slices.Contains(some, "nvmlDeviceGetUUID") {
		t.Errorf("all: %q\nsome: %q", all, some)
	}
}

// What sysfs and procfs show of a shape is what it has.
func TestTrees(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Scenario{
		"H100": EightH100(), "A100": EightA100(), "L40S": FourL40S(), "V100": SixteenV100(), "shuffled": Shuffled(EightH100()),
	} {
		root := t.TempDir()
		if err := s.WritePCI(root); err != nil {
			t.Fatal(err)
		}
		before, _ := gpu.Detect(root, false)
		if err := s.WriteDriver(root); err != nil {
			t.Fatal(err)
		}
		after, findings := gpu.Detect(root, false)
		if len(before) != len(s.GPUs) || len(after) != len(s.GPUs) || len(findings) != len(s.GPUs)+len(s.Displays) {
			t.Fatalf("%s: %d GPUs are %d without a driver, %d with it: %+v", name, len(s.GPUs), len(before), len(after), findings)
		}
		for _, g := range s.GPUs {
			i := slices.IndexFunc(after, func(found gpu.GPU) bool { return found.PCI == g.PCI })
			if i < 0 || after[i].UUID != g.UUID || after[i].Minor != g.Minor || after[i].NUMANode != g.NUMANode || after[i].Name != g.Name {
				t.Errorf("%s: %+v is not found as it is: %+v", name, g, after)
			}
		}
	}
}
