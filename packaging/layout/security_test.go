package layout

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The monitor can do little more than its work, also if it were taken over:
// systemd's own measure of a unit, from 0 to 10, is at most 2.0.
func TestMonitorIsConfined(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("no systemd-analyze: apt-get install systemd: %v", err)
	}
	unit := filepath.Join(root, "packaging/systemd/gpuherd-monitor.service")
	out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit).CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	// That the threshold bites is not to be taken on trust.
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=1", "--no-pager", unit).CombinedOutput()
	if err == nil {
		t.Errorf("a measure of 0.1 was reached, or is not checked:\n%s", out)
	}
}
