package bus

import (
	"encoding/hex"
	"math"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/state"
)

// merge takes into o the properties that signals carry. Missing ones keep
// their value: systemd sends only what it declares as emitting changes.
func merge(o *state.Observation, props map[string]dbus.Variant) {
	take(props, "ActiveState", &o.Active)
	take(props, "SubState", &o.Sub)
	take(props, "Result", &o.Result)
	take(props, "MainPID", &o.MainPID)
	take(props, "ExecMainPID", &o.ExecMainPID)
	take(props, "ExecMainCode", &o.ExecMainCode)
	take(props, "ExecMainStatus", &o.ExecMainStatus)
	take(props, "NRestarts", &o.NRestarts)
	take(props, "StatusText", &o.StatusText)
	take(props, "StateChangeTimestamp", &o.ChangedUS)
	take(props, "StateChangeTimestampMonotonic", &o.ChangedMonoUS)
	var id []byte
	if take(props, "InvocationID", &id) {
		o.InvocationID = ""
		if len(id) == 16 {
			o.InvocationID = hex.EncodeToString(id)
		}
	}
	// Job is (u id, o path).
	if v, ok := props["Job"]; ok {
		if job, ok := v.Value().([]any); ok && len(job) == 2 {
			if n, ok := job[0].(uint32); ok {
				o.Job = n
			}
		}
	}
}

// mergeFull takes what only a snapshot has.
func mergeFull(o *state.Observation, props map[string]dbus.Variant) {
	take(props, "ControlGroup", &o.ControlGroup)
	take(props, "Slice", &o.Slice)
	o.MemoryMax = figure(props, "MemoryMax")
	o.Memory = figure(props, "MemoryCurrent")
	o.MemoryPeak = figure(props, "MemoryPeak")
	o.CPUNS = figure(props, "CPUUsageNSec")
}

func take[T any](props map[string]dbus.Variant, key string, to *T) bool {
	v, ok := props[key]
	if !ok {
		return false
	}
	t, ok := v.Value().(T)
	if ok {
		*to = t
	}
	return ok
}

// figure returns an uint64 property; systemd writes "unknown" and "infinity"
// as all ones.
func figure(props map[string]dbus.Variant, key string) *uint64 {
	var n uint64
	if !take(props, key, &n) || n == math.MaxUint64 {
		return nil
	}
	return &n
}
