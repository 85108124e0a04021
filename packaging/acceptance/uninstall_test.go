//go:build acceptance

package acceptance

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// `make uninstall` on a running machine: workers and monitor are stopped first,
// nothing of gpuherd is left in systemd or on the disk, and the configuration
// stays.
func TestUninstalled(t *testing.T) {
	h := newHerd(t) // it ends with the test
	h.healthy()
	conf, err := os.ReadFile(mainConf)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := os.ReadFile(uninstallList)
	if err != nil {
		t.Fatal(err)
	}
	var pids []uint32
	for _, name := range append(h.workers(), monitorUnit) {
		pids = append(pids, h.mustUnit(name).PID)
	}

	stdout, stderr, status := run(t, "sh", "-c", uninstallProgram+" '' <"+uninstallList)
	if status != 0 || stderr != "" {
		t.Fatalf("uninstall ended with %d: %s%s", status, stdout, stderr)
	}
	for _, want := range []string{"kept /etc/gpuherd\n", "kept /var/lib/gpuherd\n", "kept the users gpuherd and gpuherd-worker"} {
		if !strings.Contains(stdout, "uninstall: "+want) {
			t.Errorf("it does not say %q:\n%s", want, stdout)
		}
	}
	for _, pid := range pids {
		if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(int(pid)), "exe")); err == nil && strings.Contains(exe, "gpuherd") {
			t.Errorf("%s runs on", exe)
		}
	}
	units, stderr, _ := run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "gpuherd*", "redis-worker*", "shared-setup*")
	if units != "" || stderr != "" {
		t.Errorf("systemd knows of\n%s%s", units, stderr)
	}
	if failed := h.failed(); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
	links, err := filepath.Glob("/etc/systemd/system/*.wants/gpuherd*")
	if err != nil || len(links) > 0 {
		t.Errorf("it is enabled still: %v (%v)", links, err)
	}
	for line := range strings.Lines(string(listed)) {
		kind, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "f" || "/"+path == mainConf {
			continue
		}
		if _, err := os.Lstat("/" + path); !os.IsNotExist(err) {
			t.Errorf("/%s is there still (%v)", path, err)
		}
	}
	for _, path := range []string{"/run/gpuherd", "/usr/lib/gpuherd", "/usr/share/gpuherd", "/usr/share/doc/gpuherd"} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there still (%v)", path, err)
		}
	}
	if after, err := os.ReadFile(mainConf); err != nil || !slices.Equal(after, conf) {
		t.Errorf("%s is %q now (%v)", mainConf, after, err)
	}
}
