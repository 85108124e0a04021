//go:build acceptance

package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const verifyUnit = "gpuherd-verify.service"

// An error in the configuration is a failed unit from the next start of the
// target on, the target being active, until it is mended. The workers take no
// notice, and a warning fails nothing.
func TestConfigurationErrorsFail(t *testing.T) {
	h := open(t)
	workers := h.workers()
	before := map[string]unit{}
	for _, worker := range workers {
		before[worker] = h.mustUnit(worker)
	}
	const key = "Instancez"
	file := filepath.Join(servicesDir, "acceptance-errors.service")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		h.reload()
		h.start(target)
	}
	remove := func() {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		h.reload()
		h.start(target)
	}
	t.Cleanup(remove)
	const off = "[X-GPU]\nPer=host\nEnabled=no\n"
	// checked waits for another run of the check than the one before.
	last := h.mustUnit(verifyUnit).Invocation
	checked := func(active, sub string) {
		t.Helper()
		eventually(t, "the configuration is checked", func() error {
			u := h.mustUnit(verifyUnit)
			if u.Invocation == last || u.Invocation == "" || u.Active != active || u.Sub != sub {
				return fmt.Errorf("%s is %+v, want %s/%s after the run %s", verifyUnit, u, active, sub, last)
			}
			last = u.Invocation
			return nil
		})
	}

	write(off + key + "=2\n[Service]\nExecStart=/bin/true\n")
	checked("failed", "failed")
	if failed := h.failed(); !slices.Equal(failed, []string{verifyUnit}) {
		t.Errorf("failed: %v, want %s alone", failed, verifyUnit)
	}
	stdout, stderr, _ := run(t, "systemctl", "status", "--no-pager", "--full", verifyUnit)
	if place := file + ":4: " + key; !strings.Contains(stdout, place) {
		t.Errorf("systemctl status does not show %s:\n%s%s", place, stdout, stderr)
	}

	write(off + "[Service]\nExecStart=/bin/true\nMemroyMax=1G\n")
	checked("inactive", "dead")
	if failed := h.failed(); len(failed) > 0 {
		t.Errorf("failed after a warning: %v", failed)
	}

	write(off + "Per=card\n[Service]\nExecStart=/bin/true\n")
	checked("failed", "failed")
	remove()
	checked("inactive", "dead")
	if failed := h.failed(); len(failed) > 0 {
		t.Errorf("failed after the file was taken away: %v", failed)
	}

	for _, worker := range workers {
		if u := h.mustUnit(worker); u.PID != before[worker].PID || u.Invocation != before[worker].Invocation {
			t.Errorf("%s is %+v, before %+v", worker, u, before[worker])
		}
	}
	names, err := h.herd()
	if err != nil || slices.Contains(names, verifyUnit) {
		t.Errorf("the herd is %v (%v), want no %s in it", names, err, verifyUnit)
	}
}
