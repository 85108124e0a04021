//go:build acceptance

package acceptance

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Under Debian's policy and our module the herd works as elsewhere, with SELinux
// enforcing, and nothing of it is denied.
func TestUnderSELinux(t *testing.T) {
	const enforce = "/sys/fs/selinux/enforce"
	h := open(t)
	h.jobs()
	kernel := followKernel(t)
	if err := os.WriteFile(enforce, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(enforce, []byte("0"), 0o644); err != nil {
			t.Error(err)
		}
	})

	// What was denied before, SELinux only told, is done again.
	h.restart(setupUnit)
	h.healthy()
	before := generated(t)
	h.reload()
	if after := generated(t); len(after) != len(before) {
		t.Errorf("the generator wrote %d files, before %d", len(after), len(before))
	}
	h.healthy()
	since := time.Now()
	killed := h.kill(monitorUnit)
	eventually(t, "the monitor is back", func() error { return h.replaced(killed) })
	h.readBack(since)
	h.healthy()
	id := jobID(t)
	h.redis.enqueue(id, task{Do: "try"}.String())
	h.redis.waitJob(id, "succeeded")

	for _, name := range append(h.workers(), monitorUnit) {
		label, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", h.mustUnit(name).PID))
		if err != nil {
			t.Fatal(err)
		}
		// That of any service without a policy of its own.
		if got := strings.Trim(string(label), "\x00\n"); !strings.Contains(got, ":initrc_t:") {
			t.Errorf("%s runs as %s, want initrc_t", name, got)
		}
	}
	for line := range strings.Lines(kernel()) {
		// The test's own outputs are the host's files, without a label.
		if strings.Contains(line, "avc:") && strings.Contains(line, "denied") && !strings.Contains(line, `dev="hostfs"`) {
			t.Error(strings.TrimSpace(line))
		}
	}
}
