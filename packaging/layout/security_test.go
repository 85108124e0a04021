package layout

import (
	"bytes"
	"os"
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

// AppArmor's own parser takes the profile. That it is right, a machine with
// AppArmor shows, see packaging/acceptance.
func TestProfileParses(t *testing.T) {
	t.Parallel()
	parser := "/usr/sbin/apparmor_parser" // seldom in a user's PATH
	if _, err := os.Stat(parser); err != nil {
		t.Skipf("no apparmor_parser: apt-get install apparmor: %v", err)
	}
	profile := filepath.Join(root, "packaging/apparmor/gpuherd-monitor")
	// Neither loaded nor kept.
	parse := func(file string) ([]byte, error) {
		return exec.CommandContext(t.Context(), parser, "--skip-kernel-load", "--skip-cache", file).CombinedOutput()
	}
	if out, err := parse(profile); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	data, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, bytes.Replace(data, []byte(" mr,"), []byte(" mr"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := parse(broken); err == nil {
		t.Errorf("a rule without its comma was taken:\n%s", out)
	}
}
