package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// newCgroups makes a cgroup for one container beside this program's own, in
// each hierarchy that systemd-nspawn writes to: the v2 one and, on a host with
// v1, the one named systemd. Without, two containers would share their cgroups.
func newCgroups(name string) ([]string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot find this program's cgroup: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find the cgroup mounts: %w", err)
	}
	var made []string
	for _, parent := range cgroupFolders(string(own), string(mounts)) {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot make a cgroup: %w", err), removeCgroups(made))
		}
		made = append(made, dir)
	}
	return made, nil
}

// cgroupFolders returns the folders of a process's cgroups in the hierarchies
// that systemd keeps, given /proc/PID/cgroup and /proc/PID/mountinfo.
func cgroupFolders(cgroups, mountinfo string) []string {
	var folders []string
	for line := range strings.Lines(cgroups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		v2 := fields[0] == "0"
		if !v2 && fields[1] != "name=systemd" {
			continue
		}
		for mount := range strings.Lines(mountinfo) {
			// 40 31 0:37 ROOT POINT OPTIONS… - TYPE SOURCE SUPEROPTIONS
			before, after, ok := strings.Cut(strings.TrimSpace(mount), " - ")
			where, what := strings.Fields(before), strings.Fields(after)
			if !ok || len(where) < 5 || len(what) < 3 {
				continue
			}
			if v2 && what[0] != "cgroup2" ||
				!v2 && (what[0] != "cgroup" || !slices.Contains(strings.Split(what[2], ","), "name=systemd")) {
				continue
			}
			path, err := filepath.Rel(where[3], fields[2])
			if err != nil || path == ".." || strings.HasPrefix(path, "../") {
				continue // another part of the hierarchy is mounted there
			}
			folders = append(folders, filepath.Join(where[4], path))
			break
		}
	}
	return folders
}

// removeCgroups removes cgroups that have no processes left, with those below.
func removeCgroups(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		var below []string
		// A folder that cannot be walked shows in its removal.
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				below = append(below, path)
			}
			return nil
		})
		for _, path := range slices.Backward(below) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("cannot remove a cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
