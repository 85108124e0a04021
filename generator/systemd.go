package generator

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/service"
)

// libDirs are the folders below the root that systemd's private library may be
// in; its file name tells the version without starting a process.
var libDirs = []string{
	"/usr/lib/systemd",
	"/usr/lib64/systemd",
	"/usr/lib/x86_64-linux-gnu/systemd",
	"/usr/lib/aarch64-linux-gnu/systemd",
	"/lib/systemd",
}

// SystemdVersion returns the version of the systemd below root, 0 where it
// cannot be told. Of several the lowest counts, since all know what it knows.
func SystemdVersion(root string) int {
	lowest := 0
	look := func(pattern string) {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return
		}
		for _, name := range names {
			// libsystemd-shared-257.so, libsystemd-shared-256.7-1.fc41.so
			rest := strings.TrimPrefix(filepath.Base(name), "libsystemd-shared-")
			digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
			if n := atoi(digits); n > 0 && (lowest == 0 || n < lowest) {
				lowest = n
			}
		}
	}
	const file = "libsystemd-shared-*.so"
	for _, dir := range libDirs {
		look(rootfs.Path(root, dir) + "/" + file)
	}
	if lowest == 0 {
		look(rootfs.Path(root, "/usr/lib") + "/*/systemd/" + file)
	}
	return lowest
}

func (r *Result) systemd(root string) {
	r.Systemd = SystemdVersion(root)
	if r.Systemd == 0 {
		r.decide(plan.KindMachine, "systemd", plan.Noted, "its version is not known; directives newer than %d are left out", plan.OldestSystemd)
		return
	}
	r.decide(plan.KindMachine, "systemd", plan.Noted, "version %d", r.Systemd)
}

// unitDirs are the folders in which a unit would be hidden by a generated one,
// or would hide it.
var unitDirs = []string{
	"/etc/systemd/system",
	"/run/systemd/system",
	"/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system",
	"/lib/systemd/system",
}

// reserved are the names of gpuherd's own static units.
var reserved = []string{"gpuherd", "gpuherd-monitor", "gpuherd-setup"}

// taken says what stands in the way of the name of a service's unit.
func taken(root, unit string, s *service.Service) (plan.Claim, string) {
	if slices.Contains(reserved, s.Name) {
		return plan.Foreign, s.Name + " is the name of a unit of gpuherd itself"
	}
	for _, dir := range unitDirs {
		name := dir + "/" + unit
		data, err := rootfs.ReadFile(root, name, rootfs.MaxFile)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case errors.Is(err, rootfs.ErrMasked):
			return plan.Masked, name + " masks the unit"
		case err == nil && isOurs(data):
			// `systemctl edit --full` copies the unit, header and all.
			return plan.Replaced, name + " replaces the unit"
		}
		return plan.Foreign, "there is a unit of this name already: " + name
	}
	return plan.Free, ""
}

func isOurs(unit []byte) bool {
	return strings.HasPrefix(string(unit), "# "+plan.Header)
}
