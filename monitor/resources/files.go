package resources

import (
	"errors"
	"slices"
)

// A hierarchy is a tree of control groups and what is read of each.
type hierarchy struct {
	mount string // where systemd mounts it
	proof string // a file that tells a control group from another folder; "": none is needed
	files []file
}

// A file is one of a control group, and what takes its content.
type file struct {
	name  string
	take  func(u *Usage, data []byte) error
	live  bool // herds are watched by it: it is read every time
	limit bool // what memory is held against
}

const mountV2 = "sys/fs/cgroup"

// unified is v2. Every group but the root one has the file cgroup.events.
var unified = []hierarchy{{mountV2, "cgroup.events", []file{
	{name: "memory.current", live: true, take: number(func(u *Usage) **uint64 { return &u.MemoryBytes })},
	{name: "memory.peak", take: number(func(u *Usage) **uint64 { return &u.MemoryPeakBytes })},
	{name: "memory.max", limit: true, take: number(func(u *Usage) **uint64 { return &u.MemoryMaxBytes })},
	{name: "memory.events", take: func(u *Usage, data []byte) error {
		return errors.Join(key(data, "oom_kill", &u.OOMKills), key(data, "max", &u.LimitHits))
	}},
	{name: "cpu.stat", live: true, take: func(u *Usage, data []byte) error {
		var us *uint64
		err := key(data, "usage_usec", &us)
		if us != nil {
			*us *= 1000
			u.CPUNS = us
		}
		return err
	}},
	{name: "pids.current", take: number(func(u *Usage) **uint64 { return &u.Tasks })},
	{name: "memory.pressure", take: stalls(func(u *Usage) **Stalls { return &u.Pressure.Memory })},
	{name: "cpu.pressure", take: stalls(func(u *Usage) **Stalls { return &u.Pressure.CPU })},
	{name: "io.pressure", take: stalls(func(u *Usage) **Stalls { return &u.Pressure.IO })},
}}}

// Hierarchies of v1. cpuacct is a link where it shares a hierarchy with cpu.
const (
	mountMemory  = "sys/fs/cgroup/memory"
	mountCPUAcct = "sys/fs/cgroup/cpuacct"
	mountPIDs    = "sys/fs/cgroup/pids"
)

// unlimited is where v1's "no limit" begins: it is the most that a signed
// number holds, in whole pages.
const unlimited = 1 << 62

// legacy is v1.
var legacy = []hierarchy{
	{mountMemory, "", []file{
		{name: "memory.usage_in_bytes", live: true, take: number(func(u *Usage) **uint64 { return &u.MemoryBytes })},
		{name: "memory.max_usage_in_bytes", take: number(func(u *Usage) **uint64 { return &u.MemoryPeakBytes })},
		{name: "memory.limit_in_bytes", limit: true, take: func(u *Usage, data []byte) error {
			err := parse(data, &u.MemoryMaxBytes)
			if u.MemoryMaxBytes != nil && *u.MemoryMaxBytes >= unlimited {
				u.MemoryMaxBytes = nil
			}
			return err
		}},
		{name: "memory.oom_control", take: func(u *Usage, data []byte) error { return key(data, "oom_kill", &u.OOMKills) }},
		{name: "memory.failcnt", take: number(func(u *Usage) **uint64 { return &u.LimitHits })},
	}},
	{mountCPUAcct, "", []file{{name: "cpuacct.usage", live: true, take: number(func(u *Usage) **uint64 { return &u.CPUNS })}}},
	{mountPIDs, "", []file{{name: "pids.current", take: number(func(u *Usage) **uint64 { return &u.Tasks })}}},
}

// versions are v2 and v1, in the order in which they are looked for.
type versions struct{ unified, legacy []hierarchy }

// whole is all that there is to read, brief what people look at.
var (
	whole = versions{unified, legacy}
	brief = versions{abridged(unified), abridged(legacy)}
)

// abridged leaves out what is neither live nor the limit of memory.
func abridged(hierarchies []hierarchy) []hierarchy {
	var out []hierarchy
	for _, h := range hierarchies {
		h.files = slices.DeleteFunc(slices.Clone(h.files), func(f file) bool { return !f.live && !f.limit })
		if len(h.files) > 0 {
			out = append(out, h)
		}
	}
	return out
}
