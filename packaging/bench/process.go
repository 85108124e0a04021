package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory is what a process holds, from /proc/PID/smaps_rollup, in MB (10⁶
// bytes). Pss counts shared pages by their share, Rss counts them whole.
type memory struct{ Rss, Pss float64 }

func readMemory(pid int) (memory, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, err
	}
	defer func() { _ = file.Close() }()
	var m memory
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
		switch {
		case err != nil:
		case name == "Rss":
			m.Rss = kib * 1024 / 1e6
		case name == "Pss":
			m.Pss = kib * 1024 / 1e6
		}
	}
	if m.Rss == 0 {
		return m, fmt.Errorf("process %d tells no memory", pid)
	}
	return m, nil
}

// sameNamespace lists the processes in the process namespace of leader:
// process id there → process id as this process sees it.
func sameNamespace(leader int) (map[int]int, error) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", leader))
	if err != nil {
		return nil, err
	}
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	inside := map[int]int{}
	for _, entry := range entries {
		if at, err := os.Readlink(filepath.Join(entry, "ns/pid")); err != nil || at != space {
			continue // of another machine, or gone meanwhile
		}
		if outer, inner, err := namespacePIDs(entry); err == nil {
			inside[inner] = outer
		}
	}
	return inside, nil
}

// namespacePIDs reads the ids of a process in the outermost and in the
// innermost namespace. entry is its folder in /proc.
func namespacePIDs(entry string) (outer, inner int, err error) {
	status, err := os.ReadFile(filepath.Join(entry, "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		rest, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		ids := strings.Fields(rest)
		outer, errOuter := strconv.Atoi(ids[0])
		inner, errInner := strconv.Atoi(ids[len(ids)-1])
		return outer, inner, errors.Join(errOuter, errInner)
	}
	return 0, 0, fmt.Errorf("%s tells no NSpid", entry)
}
