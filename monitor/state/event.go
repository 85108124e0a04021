package state

// Types of events, the field `type` in Redis.
const (
	TypeUnit     = "unit"     // a unit's phase changed; data is a UnitEvent
	TypeGPU      = "gpu"      // a GPU came, went, or is otherwise well or ill; data is a GPUEvent
	TypeSnapshot = "snapshot" // the hashes were written afresh; data is a SnapshotEvent
	TypeHost     = "host"     // the monitor came or went; data is a HostEvent
	TypeGap      = "gap"      // events were lost; data is a GapEvent
	TypeStatus   = "status"   // on the channel only: a STATUS= text changed; data is a UnitEvent
	TypeExit     = "exit"     // on the channel only: a main process ended; data is a UnitEvent
)

// Phases of a unit, the field `event` of a UnitEvent. An event of type unit
// tells that a unit entered the phase, and is sent once for it however many
// sub-states systemd goes through.
//
// Failing begins when the main process has: that systemd still kills what it
// left behind is no phase. Waiting for an automatic restart belongs to the
// phase before it, failed or stopped. So a killed worker is told as failed,
// starting and running. Only
// Type=notify, forking, oneshot and those with ExecStartPre= have a starting.
const (
	Starting = "starting" // activating
	Running  = "running"  // active, reloading; a oneshot that remains after exit, too
	Stopping = "stopping" // deactivating, the main process not yet failed
	Stopped  = "stopped"  // inactive: it ended well, or was stopped
	Failed   = "failed"   // failed, whether it is restarted or not
	Status   = "status"   // no phase: the STATUS= text changed (channel only)
	Exited   = "exited"   // no phase: the main process ended, and systemd has not said so yet (channel only)
)

// An Event is one entry of the event stream.
type Event struct {
	Seq  uint64 // rising by one within an epoch
	AtUS int64  // when it happened, unix time in µs: for units systemd's time
	Type string
	Data any // one of the …Event types, by value of Type
}

// A UnitEvent is the data of an event of type unit, status or exit: the unit as
// it was then; in exited as systemd had told it last, with the pid that ended.
// In failed and stopped, pid is that of the main process that ended,
// and restarts does not count the start that follows.
type UnitEvent struct {
	Unit
	Event string `json:"event"`
	// Resynced: found by reading the state again, or in a journal with a hole:
	// changes before it may be missing.
	Resynced bool `json:"resynced,omitempty"`
	// Backfilled: read back from the journal, since no monitor watched then.
	// Of sub, pid and the figures the journal tells nothing, and of the end of
	// the main process only where it failed.
	Backfilled bool `json:"backfilled,omitempty"`
}

// Events of a GPU that are no health, the field `event` of a GPUEvent.
const (
	Added   = "added"   // with the health that it has
	Removed = "removed" // as it was last
)

// A GPUEvent is the data of an event of type gpu: the GPU as it is now. Event
// is its health, where that or the reasons changed, Added or Removed.
type GPUEvent struct {
	GPU
	Event string `json:"event"`
}

// A SnapshotEvent tells that units and gpus were written whole.
type SnapshotEvent struct {
	Units  int    `json:"units"`
	GPUs   int    `json:"gpus"`
	Reason string `json:"reason"` // "connected", …
}

// A HostEvent tells that the monitor came ("online") or went in good order
// ("offline").
type HostEvent struct {
	Event   string `json:"event"`
	Version string `json:"version"`
}

// A GapEvent stands for events that no reader will see.
type GapEvent struct {
	Count   uint64 `json:"count"`
	FromSeq uint64 `json:"from_seq"`
	ToSeq   uint64 `json:"to_seq"` // the gap's own seq, too
	Reason  string `json:"reason"` // "overflow" of the monitor's buffer, or "redis-lost-writes"
}

// A GPU is the value in the Redis hash gpuherd:{H}:gpus.
type GPU struct {
	Index       int      `json:"index"`
	UUID        string   `json:"uuid"`
	Name        string   `json:"name"`
	PCI         string   `json:"pci"`
	Minor       int      `json:"minor"`
	NUMA        int      `json:"numa"`                  // −1: none
	Memory      uint64   `json:"memory"`                // bytes
	Health      string   `json:"health"`                // Healthy, Unhealthy or HealthUnknown
	Reasons     []string `json:"reasons,omitempty"`     // why it is not healthy, a few words each
	Temperature *int     `json:"temperature,omitempty"` // °C; nil: not available
	Utilisation *int     `json:"utilisation,omitempty"` // percent; nil: not available
	MIG         []MIG    `json:"mig,omitempty"`
	Simulated   bool     `json:"simulated,omitempty"`
}

// A MIG is one MIG device of a GPU.
type MIG struct {
	Index   int    `json:"index"`
	UUID    string `json:"uuid"`
	Profile string `json:"profile"`
	Memory  uint64 `json:"memory"` // bytes
}

// Healths of a GPU.
const (
	Healthy       = "healthy"
	Unhealthy     = "unhealthy" // something is known to be wrong with it
	HealthUnknown = "unknown"   // nobody can tell: it is simulated, or not watched now
)

// A Delta is what one step changed. Deltas come in order, and whoever applies
// them all has the state.
type Delta struct {
	Reset  bool     // Units and GPUs are all there are: forget others
	Units  []Unit   // new or changed
	Gone   []string // units that left the herd
	GPUs   []GPU    // all of them, where GPUsChanged or Reset
	Events []Event
	Hints  []Event // for the channel only, and lost where nobody listens

	GPUsChanged bool
}
