//go:build acceptance

package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
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

// What gpuherd verify says of a service before it is started is what systemd
// says when it is, by the status of its exit.
func TestStartForetold(t *testing.T) {
	h := open(t)
	cases := []string{
		"ExecStart=/bin/true",
		"ExecStart=true",
		"ExecStart=/opt/acceptance-none",
		"ExecStart=acceptance-none",
		"ExecStart=-/opt/acceptance-none",
		"ExecStart=@+/opt/acceptance-none argv0",
		"ExecStart=/etc/os-release",
		"ExecStart=/opt",
		"ExecStartPre=/opt/acceptance-none\nExecStart=/bin/true",
		"ExecStart=/opt/acceptance-script",
		"ExecStart=/opt/acceptance-none\nBindReadOnlyPaths=/bin/true:/opt/acceptance-none",
		"ExecStart=/bin/true\nUser=nobody\nGroup=nogroup",
		"ExecStart=/bin/true\nUser=gpuherd-wroker",
		"ExecStart=/bin/true\nGroup=acceptance-none",
		"ExecStart=/bin/true\nUser=gpuherd-worker\nSupplementaryGroups=video acceptance-none",
		"ExecStart=/bin/true\nUser=acceptance-none\nDynamicUser=yes",
		"ExecStart=/bin/true\nUser=54321",
		"ExecStart=/bin/true\nGroup=54321",
		"ExecStart=/bin/true\nUser=65534\nGroup=0",
	}
	write := func(file, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(h.reload) // after the files are gone
	write("/opt/acceptance-script", "#!/opt/acceptance-none\n", 0o755)
	name := func(i int) string { return fmt.Sprintf("acceptance-start-%d.service", i) }
	for i, service := range cases {
		write(filepath.Join(servicesDir, name(i)), "[X-GPU]\nPer=host\n[Service]\nType=oneshot\nRestart=no\n"+service+"\n", 0o644)
	}
	h.reload()
	said, stderr, status := run(t, "gpuherd", "verify")
	if status != 0 || stderr != "" {
		t.Errorf("gpuherd verify ended with %d: %s%s", status, said, stderr)
	}
	foretold := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)/(acceptance-start-\d+\.service):.* fails with (\d+)/`).FindAllStringSubmatch(said, -1) {
		foretold[m[1]] = m[2]
	}
	if len(foretold) < 12 {
		t.Errorf("gpuherd verify foretells %v only:\n%s", foretold, said)
	}
	// Confined, as at boot, it sees the same.
	since := time.Now()
	h.start(verifyUnit)
	eventually(t, "the journal has the warnings", func() error {
		journal, _, _ := run(t, "journalctl", "--unit="+verifyUnit, "--output=cat", "--no-pager", fmt.Sprintf("--since=@%d", since.Unix()))
		for line := range strings.Lines(said) {
			if !strings.Contains(journal, line) {
				return fmt.Errorf("%s is missing in\n%s", line, journal)
			}
		}
		return nil
	})
	for i, service := range cases {
		_, _, _ = run(t, "systemctl", "start", name(i))
		stdout, stderr, _ := run(t, "systemctl", "show", "--property=ExecMainStatus,ExecStartPre,Result", name(i))
		got := "" // also of a failure that is to be ignored
		if m := regexp.MustCompile(`(?:ExecMainStatus|status)=(2\d\d)\b`).FindStringSubmatch(stdout); m != nil && !strings.Contains(stdout, "Result=success") {
			got = m[1]
		}
		if want := foretold[name(i)]; got != want {
			t.Errorf("%q ends with status %q, foretold is %q:\n%s%s%s", service, got, want, stdout, stderr, said)
		}
		_, _, _ = run(t, "systemctl", "reset-failed", name(i))
	}
}
