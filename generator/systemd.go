package generator

import (
	"path/filepath"
	"strings"

	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
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
