// Package state turns ordered transitions of units into their current state
// and into events. It does no I/O.
package state

import "fmt"

// A Unit is what is known of one unit of the herd. Its JSON is the value in
// the Redis hash gpuherd:{H}:units and in /api/v1/units, so names are fixed.
type Unit struct {
	Name            string  `json:"unit"`
	Service         string  `json:"service"`                     // "redis-worker"
	Instance        string  `json:"instance,omitempty"`          // "0:1.2"; empty for host services
	GPU             *int    `json:"gpu,omitempty"`               // GPU index; nil for host services
	Active          string  `json:"active"`                      // ActiveState of org.freedesktop.systemd1.Unit
	Sub             string  `json:"sub"`                         // SubState; an open set
	Result          string  `json:"result"`                      // Result of …Service: "success", "oom-kill", "signal", …
	PID             uint32  `json:"pid"`                         // main process; 0: none
	Restarts        uint64  `json:"restarts"`                    // starts after the first, never going back
	InvocationID    string  `json:"invocation_id"`               // 32 hex digits; empty: never started
	SinceMS         int64   `json:"since_ms"`                    // unix time of the last state change, ms
	ExitCode        string  `json:"exit_code,omitempty"`         // "exited", "killed", "dumped"; empty: has not ended
	ExitStatus      int32   `json:"exit_status"`                 // exit status, or signal number where killed or dumped
	StatusText      string  `json:"status_text,omitempty"`       // STATUS= of sd_notify(3); systemd keeps it after the end
	Job             string  `json:"job,omitempty"`               // id of the job in hand, as StatusText has it; see jobIn
	MemoryBytes     *uint64 `json:"memory_bytes,omitempty"`      // memory.current; nil: not available
	MemoryPeakBytes *uint64 `json:"memory_peak_bytes,omitempty"` // memory.peak; nil: not available
	MemoryMaxBytes  *uint64 `json:"memory_max_bytes,omitempty"`  // MemoryMax=; nil: no limit or not available
	CPUNS           *uint64 `json:"cpu_ns,omitempty"`            // CPU time used by this invocation; nil: not available
	Seq             uint64  `json:"seq"`                         // of the event that last changed it
}

// Says is the unit's own word, or how it ended where it is not up. systemd keeps
// the word of one that has ended, which says nothing any more.
func (u *Unit) Says() string {
	switch {
	case u.Active != "active" && u.Result != "" && u.Result != "success":
		return u.Ending()
	case u.Active == "inactive":
		return ""
	}
	return u.StatusText
}

// Ending says how the last run ended: "oom-kill", "exit-code, status 1",
// "signal 9".
func (u *Unit) Ending() string {
	switch {
	case u.Result == "exit-code":
		return fmt.Sprintf("exit-code, status %d", u.ExitStatus)
	case (u.Result == "signal" || u.Result == "core-dump") && u.ExitCode != "":
		return fmt.Sprintf("%s %d", u.Result, u.ExitStatus)
	default:
		return u.Result
	}
}
