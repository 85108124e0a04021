//go:build acceptance

package acceptance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const (
	rulesFile = "/usr/lib/udev/rules.d/60-gpuherd.rules"
	request   = requestsDir + "/udev"
)

// The rules ask for a rescan for NVIDIA's display devices, whatever happens to
// them, and for nothing else.
func TestUdevRules(t *testing.T) {
	open(t)
	const bus = "/sys/bus/pci/devices"
	for name, device := range map[string]struct {
		class, id string
		want      bool
	}{
		"3D controller of NVIDIA":    {"30200", "10DE:2330", true},
		"VGA controller of NVIDIA":   {"30000", "10DE:26B9", true},
		"sound of NVIDIA":            {"40300", "10DE:22BA", false},
		"NVSwitch":                   {"68000", "10DE:22A3", false},
		"VGA controller of another":  {"30000", "1A03:2000", false},
		"3D controller of another's": {"30200", "1002:74A1", false},
	} {
		dir := filepath.Join(bus, "0000:7f:00.0")
		uevent := fmt.Sprintf("PCI_CLASS=%s\nPCI_ID=%s\nPCI_SLOT_NAME=0000:7f:00.0\n", device.class, device.id)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "uevent"), []byte(uevent), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/sys/bus/pci", filepath.Join(dir, "subsystem")); err != nil {
			t.Fatal(err)
		}
		// What this finds is a folder, and no sysfs.
		t.Setenv("SYSTEMD_DEVICE_VERIFY_SYSFS", "0")
		actions := []string{"add", "remove"}
		if name == "3D controller of NVIDIA" {
			actions = append(actions, "bind", "unbind", "change")
		}
		for _, action := range actions {
			stdout, stderr, status := run(t, "udevadm", "test", "--action="+action, dir)
			all := stdout + stderr
			asks := strings.Contains(all, "/bin/mkdir -p "+request)
			if status != 0 || asks != (device.want && action != "change") {
				t.Errorf("%s: on %s udevadm test ended with %d, asks for a rescan: %t\n%s", name, action, status, asks, all)
			}
			for line := range strings.Lines(all) {
				if strings.Contains(line, rulesFile+":") && !strings.Contains(line, " RUN ") {
					t.Errorf("udevadm complains: %s", line)
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// An event of the kernel starts a rescan, and a burst of them starts one. Since
// there is no module of NVIDIA's here, another stands for it.
func TestEventsStartARescan(t *testing.T) {
	h := open(t)
	found, err := filepath.Glob("/sys/module/*/uevent")
	if err != nil || len(found) == 0 {
		t.Fatalf("no module has an uevent file: %v", err)
	}
	slices.Sort(found)
	module := filepath.Base(filepath.Dir(found[0]))
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(rules), `KERNEL=="nvidia"`, fmt.Sprintf("KERNEL==%q", module), 1)
	if text == string(rules) {
		t.Fatalf("%s has no rule for the module:\n%s", rulesFile, rules)
	}
	copied := "/run/udev/rules.d/61-acceptance.rules"
	if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	udevadm := func(args ...string) {
		t.Helper()
		// Not by run, whose context has ended in a cleanup.
		if out, err := exec.Command("udevadm", args...).CombinedOutput(); err != nil {
			t.Fatalf("udevadm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	udevadm("control", "--reload")
	t.Cleanup(func() {
		if err := os.Remove(copied); err != nil {
			t.Error(err)
		}
		udevadm("control", "--reload")
	})
	send := func(action string) {
		t.Helper()
		if err := os.WriteFile(found[0], []byte(action), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	for _, action := range []string{"remove", "add"} {
		before := h.mustUnit(rescanUnit).Invocation
		send(action)
		eventually(t, "a rescan for "+action, func() error { return h.rescannedSince(before) })
	}
	if u := h.mustUnit("sys-module-" + module + ".device"); u.Active != "active" {
		t.Errorf("the module has no device unit: %+v", u)
	}

	// The rescan waits for its lock, and so for the whole burst.
	lock, err := os.Open("/run/gpuherd")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	before, count := h.mustUnit(rescanUnit).Invocation, starts(t, rescanUnit)
	for range 20 {
		send("add")
	}
	udevadm("settle", "--timeout=120")
	if _, err := os.Stat(request); err != nil {
		t.Errorf("nothing asks for a rescan: %v", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a rescan for the burst", func() error { return h.rescannedSince(before) })
	rescans := 0
	eventually(t, "a rescan in the journal", func() error {
		if rescans = starts(t, rescanUnit) - count; rescans == 0 {
			return errors.New("none")
		}
		return nil
	})
	if rescans != 1 {
		t.Errorf("%d rescans for a burst of events, want one", rescans)
	}
}

// A rescan that fails is tried again until it succeeds, and its path keeps
// watching.
func TestRescanFails(t *testing.T) {
	h := open(t)
	const (
		dropIn = "/run/systemd/system/" + rescanUnit + ".d/acceptance.conf"
		broken = "/run/acceptance-broken"
	)
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "[Service]\nExecStartPre=test ! -e " + broken + "\nRestartSec=1\n"
	for path, text := range map[string]string{dropIn: text, broken: ""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = os.Remove(broken) // where it was not reached below
		if err := os.Remove(dropIn); err != nil {
			t.Error(err)
		}
		h.reload()
	})
	h.reload()
	if err := os.WriteFile(filepath.Join(requestsDir, "operator"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a rescan that is tried again", func() error {
		u, err := h.unit(rescanUnit)
		if err == nil && u.Restarts < 3 {
			err = fmt.Errorf("%+v", u)
		}
		return err
	})
	if u := h.mustUnit(pathUnit); u.Active != "active" {
		t.Errorf("%s is %s/%s", pathUnit, u.Active, u.Sub)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a rescan that succeeds", h.rescanned)
}
