package state

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"gpuherd/generator/service"
)

// maxStatusText is how much of a STATUS= text is kept, in bytes. systemd
// accepts far longer ones, and each goes into Redis with its unit.
const maxStatusText = 1024

// An Observation is what systemd told of one unit at one moment. Fields carry
// the values of the D-Bus properties named beside them.
type Observation struct {
	Name           string
	Active         string // ActiveState
	Sub            string // SubState
	Result         string // Result
	InvocationID   string // InvocationID, 32 hex digits; empty: never started
	Job            uint32 // Job: id of the job that waits or runs; 0: none
	MainPID        uint32 // MainPID; 0: none
	ExecMainPID    uint32 // ExecMainPID: the last main process, also after its end
	ExecMainCode   int32  // ExecMainCode: CLD_EXITED … of waitid(2); 0: has not ended
	ExecMainStatus int32  // ExecMainStatus
	NRestarts      uint32 // NRestarts: automatic restarts since systemd last forgot
	StatusText     string // StatusText
	ChangedUS      uint64 // StateChangeTimestamp, unix time in µs; 0: unknown
	ChangedMonoUS  uint64 // StateChangeTimestampMonotonic, µs: tells changes apart

	// What follows comes with a snapshot only: no signal carries it.
	ControlGroup string  // ControlGroup, "/gpuherd.slice/…"; empty: has none now
	Slice        string  // Slice, "gpuherd.slice"
	MemoryMax    *uint64 // MemoryMax, bytes; nil: no limit or not told
	Memory       *uint64 // MemoryCurrent, bytes; nil: not told
	MemoryPeak   *uint64 // MemoryPeak, bytes; nil: not told (systemd < 254)
	CPUNS        *uint64 // CPUUsageNSec; nil: not told

	// ReceivedUS is when the signal or reply came in, unix time in µs.
	ReceivedUS int64
}

// Values of ExecMainCode, from waitid(2).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// Unit returns o as a Unit, with Restarts from NRestarts and Seq 0.
func (o Observation) Unit() Unit {
	u := Unit{
		Name: o.Name, Active: o.Active, Sub: o.Sub, Result: o.Result,
		PID: o.MainPID, Restarts: uint64(o.NRestarts), InvocationID: o.InvocationID,
		SinceMS: int64(o.ChangedUS / 1000), StatusText: clip(o.StatusText),
		MemoryBytes: o.Memory, MemoryPeakBytes: o.MemoryPeak, MemoryMaxBytes: o.MemoryMax, CPUNS: o.CPUNS,
	}
	if o.MainPID != 0 { // what has ended has no job in hand, whatever it said last
		u.Job = jobIn(u.StatusText)
	}
	switch o.ExecMainCode {
	case cldExited:
		u.ExitCode = "exited"
	case cldKilled:
		u.ExitCode = "killed"
	case cldDumped:
		u.ExitCode = "dumped"
	}
	if u.ExitCode != "" {
		u.ExitStatus = o.ExecMainStatus
	}
	u.Service, u.Instance, _ = service.ParseUnit(o.Name)
	if u.Instance != "" {
		if in, err := service.ParseInstance(u.Instance); err == nil {
			u.GPU = &in.GPU
		}
	}
	return u
}

// group returns the unit's control group. systemd tells none of a unit that
// does not run; it will be the unit's name below its slice, see
// systemd.slice(5).
func (o Observation) group() string {
	if o.ControlGroup != "" || o.Slice == "" {
		return o.ControlGroup
	}
	var path strings.Builder
	if name := strings.TrimSuffix(o.Slice, ".slice"); name != "-" {
		for i := range len(name) {
			if name[i] == '-' {
				path.WriteString("/" + name[:i] + ".slice")
			}
		}
		path.WriteString("/" + o.Slice)
	}
	return path.String() + "/" + o.Name
}

var (
	attempts   = regexp.MustCompile(`, attempt [0-9]+ of [0-9]+`)
	afterTries = regexp.MustCompile(`^($|: | \()`)
)

// jobIn returns the id in a STATUS= text of the form
//
//	job ID, attempt N of M
//
// which may go on with ": progress" or " (remark)". Any service may say it,
// redis-worker does. A text that can be read in two ways has none.
func jobIn(status string) string {
	rest, ok := strings.CutPrefix(status, "job ")
	if !ok {
		return ""
	}
	at := attempts.FindAllStringIndex(rest, 2)
	if len(at) != 1 || !afterTries.MatchString(rest[at[0][1]:]) {
		return ""
	}
	return rest[:at[0][0]]
}

// clip shortens s to maxStatusText bytes at a rune's edge and replaces what is
// no UTF-8, since the text goes into JSON.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxStatusText {
		return s
	}
	n := maxStatusText - len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
