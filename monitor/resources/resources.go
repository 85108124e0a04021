// Package resources reads what a unit uses, from the files of its control
// group (cgroup v2). It asks nobody: no D-Bus call, no process.
package resources

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrNotAvailable is returned where a control group has no such files: it is
// gone, the unit does not run, or the host mounts cgroup v1.
var ErrNotAvailable = errors.New("resource figures are not available")

// Usage is what one control group uses. A nil figure is not available there:
// its controller is off or the kernel too old.
type Usage struct {
	MemoryBytes     *uint64 // memory.current
	MemoryPeakBytes *uint64 // memory.peak; since Linux 5.19
	MemoryMaxBytes  *uint64 // memory.max; nil also for no limit
	CPUNS           *uint64 // usage_usec of cpu.stat, in ns
}

// Read returns what the control group uses. root is the file system's root,
// controlGroup the unit's ControlGroup property ("/gpuherd.slice/…"). The error
// is ErrNotAvailable, or says which file could not be read.
func Read(root, controlGroup string) (Usage, error) {
	if controlGroup == "" || controlGroup[0] != '/' || strings.Contains(controlGroup+"/", "/../") {
		return Usage{}, fmt.Errorf("%w: control group %q", ErrNotAvailable, controlGroup)
	}
	dir := filepath.Join(root, "sys/fs/cgroup", controlGroup)
	// Only v2 has this file in every group but the root one.
	if _, err := os.Stat(filepath.Join(dir, "cgroup.events")); err != nil {
		return Usage{}, fmt.Errorf("%w: %w", ErrNotAvailable, err)
	}
	var u Usage
	var err error
	for _, f := range []struct {
		name string
		to   **uint64
	}{
		{"memory.current", &u.MemoryBytes},
		{"memory.peak", &u.MemoryPeakBytes},
		{"memory.max", &u.MemoryMaxBytes},
	} {
		if *f.to, err = number(filepath.Join(dir, f.name)); err != nil {
			return Usage{}, err
		}
	}
	if u.CPUNS, err = cpu(filepath.Join(dir, "cpu.stat")); err != nil {
		return Usage{}, err
	}
	return u, nil
}

// number reads a file of one number; "max" and a missing file are nil.
func number(path string) (*uint64, error) {
	data, err := read(path)
	if data == nil || err != nil {
		return nil, err
	}
	s := strings.TrimSpace(string(data))
	if s == "max" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return &n, nil
}

func cpu(path string) (*uint64, error) {
	data, err := read(path)
	if data == nil || err != nil {
		return nil, err
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "usage_usec "); ok {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %w", path, err)
			}
			n *= 1000
			return &n, nil
		}
	}
	return nil, nil
}

// read returns nil for a file that is not there. A group removed between open
// and read answers ENODEV: it is gone as well.
func read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV):
		return nil, nil
	}
	return nil, fmt.Errorf("cannot read a control group: %w", err)
}
