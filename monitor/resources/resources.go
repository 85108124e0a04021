// Package resources reads what units use, from the files of their control
// groups. It asks nobody: no D-Bus call, no process.
package resources

import "errors"

// ErrNotAvailable is returned where a control group has no such files: it is
// gone, the unit does not run, or its controllers are not mounted.
var ErrNotAvailable = errors.New("resource figures are not available")

// Versions of the control groups that figures were read from.
const (
	V1 = "v1"
	V2 = "v2"
)

// Usage is what one control group uses. A nil figure is not available there:
// its controller is off, the kernel too old, or there is none in v1.
//
// Its JSON is `resources` in /api/v1/units; the figures without a name there
// are in the unit itself.
type Usage struct {
	Version string `json:"cgroup"` // V1 or V2

	MemoryBytes     *uint64 `json:"-"` // memory.current
	MemoryPeakBytes *uint64 `json:"-"` // memory.peak; since Linux 5.19
	MemoryMaxBytes  *uint64 `json:"-"` // memory.max; nil also for no limit
	CPUNS           *uint64 `json:"-"` // usage_usec of cpu.stat, in ns

	Tasks     *uint64  `json:"tasks,omitempty"`             // processes and threads: pids.current
	OOMKills  *uint64  `json:"oom_kills,omitempty"`         // processes of it that were killed: oom_kill of memory.events
	LimitHits *uint64  `json:"memory_limit_hits,omitempty"` // times that it was held at memory.max: max of memory.events
	Pressure  Pressure `json:"pressure,omitzero"`
}

// Pressure is how much of the time tasks waited for each resource, see PSI in
// the kernel's documentation (accounting/psi.rst). There is none in v1.
type Pressure struct {
	Memory *Stalls `json:"memory,omitempty"` // memory.pressure
	CPU    *Stalls `json:"cpu,omitempty"`    // cpu.pressure
	IO     *Stalls `json:"io,omitempty"`     // io.pressure
}

// Stalls are the two lines of a pressure file.
type Stalls struct {
	Some Stall `json:"some"` // at least one task waited
	Full Stall `json:"full"` // all that were not idle waited
}

// A Stall is one line of a pressure file.
type Stall struct {
	Avg10   float64 `json:"avg10"`    // percent of the last 10 s
	TotalUS uint64  `json:"total_us"` // since the group was made, µs
}

// Read returns what the control group uses. root is the file system's root,
// controlGroup the unit's ControlGroup property ("/gpuherd.slice/…"). The error
// is ErrNotAvailable, or says which file could not be read.
func Read(root, controlGroup string) (Usage, error) {
	r := newReader(root, 0)
	return r.usage(controlGroup)
}

// Glance returns what the control group uses of memory, of how much, and of
// CPU time; else it is as Read.
func Glance(root, controlGroup string) (Usage, error) {
	r := newReader(root, 0)
	r.versions = brief
	return r.usage(controlGroup)
}
