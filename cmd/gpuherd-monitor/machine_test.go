package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// A process that was started later runs for a shorter time.
func TestUpSince(t *testing.T) {
	t.Parallel()
	mine, err := upSince("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	first, err := upSince("/proc/1/stat")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	child, err := upSince("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := upSince("/proc/self/stat"); err != nil || child > again || mine > again || again > first || first > uptime() {
		t.Errorf("the child runs for %v, this process %v and then %v, the first %v, the host %v: %v", child, mine, again, first, uptime(), err)
	}
	for name, text := range map[string]string{"short": "1 (a) b) S 1 2", "word": "1 (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 0 0 1 0 x 0"} {
		path := filepath.Join(t.TempDir(), "stat")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if up, err := upSince(path); err == nil {
			t.Errorf("%s: %v", name, up)
		}
	}
}
