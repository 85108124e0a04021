package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRun(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		name string
		args []string
		want int
	}{
		{"version", []string{"--version"}, 0},
		{"help", []string{"--help"}, 0},
		{"unknown flag", []string{"--nonsense"}, 2},
		{"argument", []string{"now"}, 2},
		{"no boot id", []string{"--root", root}, 1},
	} {
		if got := run(c.args); got != c.want {
			t.Errorf("%s: exit status %d, want %d", c.name, got, c.want)
		}
	}
	dir := filepath.Join(root, "proc/sys/kernel/random")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "boot_id"), []byte("4ffbcdd9-1f19-4d90-8bf6-38282720e1e3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := run([]string{"--root", root}); got != 0 {
		t.Errorf("exit status %d on an empty machine, want 0", got)
	}
	if _, err := os.Stat(filepath.Join(root, "run/gpuherd/inventory.json")); err != nil {
		t.Error(err)
	}
}
