package resources

import "errors"

// A hierarchy is a tree of control groups and what is read of each.
type hierarchy struct {
	mount string // where systemd mounts it
	proof string // a file that tells a control group from another folder; "": none is needed
	files []file
}

// A file is one of a control group, and what takes its content.
type file struct {
	name string
	take func(u *Usage, data []byte) error
}

const mountV2 = "sys/fs/cgroup"

// unified is v2. Every group but the root one has the file cgroup.events.
var unified = []hierarchy{{mountV2, "cgroup.events", []file{
	{"memory.current", number(func(u *Usage) **uint64 { return &u.MemoryBytes })},
	{"memory.peak", number(func(u *Usage) **uint64 { return &u.MemoryPeakBytes })},
	{"memory.max", number(func(u *Usage) **uint64 { return &u.MemoryMaxBytes })},
	{"memory.events", func(u *Usage, data []byte) error {
		return errors.Join(key(data, "oom_kill", &u.OOMKills), key(data, "max", &u.LimitHits))
	}},
	{"cpu.stat", func(u *Usage, data []byte) error {
		if err := key(data, "usage_usec", &u.CPUNS); err != nil || u.CPUNS == nil {
			return err
		}
		*u.CPUNS *= 1000
		return nil
	}},
	{"pids.current", number(func(u *Usage) **uint64 { return &u.Tasks })},
	{"memory.pressure", stalls(func(u *Usage) **Stalls { return &u.Pressure.Memory })},
	{"cpu.pressure", stalls(func(u *Usage) **Stalls { return &u.Pressure.CPU })},
	{"io.pressure", stalls(func(u *Usage) **Stalls { return &u.Pressure.IO })},
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
		{"memory.usage_in_bytes", number(func(u *Usage) **uint64 { return &u.MemoryBytes })},
		{"memory.max_usage_in_bytes", number(func(u *Usage) **uint64 { return &u.MemoryPeakBytes })},
		{"memory.limit_in_bytes", func(u *Usage, data []byte) error {
			err := parse(data, &u.MemoryMaxBytes)
			if u.MemoryMaxBytes != nil && *u.MemoryMaxBytes >= unlimited {
				u.MemoryMaxBytes = nil
			}
			return err
		}},
		{"memory.oom_control", func(u *Usage, data []byte) error { return key(data, "oom_kill", &u.OOMKills) }},
		{"memory.failcnt", number(func(u *Usage) **uint64 { return &u.LimitHits })},
	}},
	{mountCPUAcct, "", []file{{"cpuacct.usage", number(func(u *Usage) **uint64 { return &u.CPUNS })}}},
	{mountPIDs, "", []file{{"pids.current", number(func(u *Usage) **uint64 { return &u.Tasks })}}},
}
