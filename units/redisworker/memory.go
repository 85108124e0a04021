package redisworker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what the kernel tells of the memory of a control group (v2): that
// of the worker's unit, which its jobs are in too.
type Memory struct{ dir string }

// OwnMemory returns that of this process. The error says why nothing can be
// told: a hierarchy of version 1, say.
func OwnMemory() (*Memory, error) { return ownMemory("/") }

func ownMemory(root string) (*Memory, error) {
	data, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil, fmt.Errorf("cannot find control group: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if group, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			m := &Memory{dir: filepath.Join(root, "sys/fs/cgroup", group)}
			if _, err := m.Kills(); err != nil {
				return nil, err
			}
			return m, nil
		}
	}
	return nil, errors.New("cannot find control group: none of version 2")
}

// Kills returns how many processes the kernel has killed for want of memory.
func (m *Memory) Kills() (uint64, error) {
	events, err := m.table("memory.events")
	return events["oom_kill"], err
}

// Use returns how many bytes are in use that the kernel could not take back by
// dropping caches, and MemoryMax=; 0: there is none.
func (m *Memory) Use() (bytes, limit uint64, err error) {
	text, err := m.read("memory.max")
	if err != nil || text == "max" {
		return 0, 0, err
	}
	if limit, err = strconv.ParseUint(text, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("cannot read memory.max: %w", err)
	}
	if text, err = m.read("memory.current"); err != nil {
		return 0, 0, err
	}
	if bytes, err = strconv.ParseUint(text, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("cannot read memory.current: %w", err)
	}
	stat, err := m.table("memory.stat")
	if err != nil {
		return 0, 0, err
	}
	caches := stat["active_file"] + stat["inactive_file"] + stat["slab_reclaimable"]
	return bytes - min(caches, bytes), limit, nil
}

func (m *Memory) read(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		return "", fmt.Errorf("cannot read memory of control group: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// table reads lines of a name and a number.
func (m *Memory) table(name string) (map[string]uint64, error) {
	text, err := m.read(name)
	if err != nil {
		return nil, err
	}
	table := map[string]uint64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			table[f[0]] = n
		}
	}
	return table, nil
}

// jobScore is by how much a job is likelier than its worker to be killed for
// want of memory, in thousandths of what may be had: see proc(5),
// /proc/pid/oom_score_adj.
const jobScore = 500

// offer makes the process pid, and what it will start, the kernel's choice
// before this one. It may fail for a program that changed its user: then the
// kernel goes by size alone.
func offer(pid int) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), strconv.AppendInt(nil, int64(min(own+jobScore, 1000)), 10), 0)
}
