package gpuhealth

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/monitor/state"
)

// settle is how long the driver has after an XID error to say that the GPU
// needs nothing: it finds out what to do a moment after the error.
const settle = 30 * time.Second

// XID errors, see NVIDIA's "XID Errors" and its catalogue.
const (
	xidFellOff  = 79
	xidRecovery = 154 // the recovery action changed, which a sample tells
)

// applicationFault reports whether an XID error comes of what a program did.
// The GPU is as good as before.
func applicationFault(xid uint64) bool {
	switch xid {
	case 13, 31, 43, 45, 68, 109:
		return true
	}
	return false
}

// xidText names an XID error in words where it is a common one.
func xidText(xid uint64) string {
	words := map[uint64]string{
		48: "uncorrectable memory error", 61: "microcontroller breakpoint", 62: "microcontroller halt", 63: "memory row or page to be remapped",
		64: "memory row or page cannot be remapped", 69: "graphics engine class error", 74: "NVLink error", xidFellOff: "fell off the bus",
		92: "many correctable memory errors", 94: "contained memory error", 95: "uncontained memory error", 119: "GSP does not answer", 120: "GSP error",
		140: "unrecovered memory error", 999: "of unknown number",
	}[xid]
	if words == "" {
		return fmt.Sprintf("XID %d", xid)
	}
	return fmt.Sprintf("XID %d: %s", xid, words)
}

// A record is what is known of one GPU's health.
type record struct {
	sample  *nvml.Sample         // the last; nil: none yet
	missing bool                 // NVML was asked and does not have it
	xids    map[uint64]time.Time // errors that stand, and when each was last
}

// failed takes an XID error. It reports whether it counts against the GPU.
func (r *record) failed(xid uint64, at time.Time) bool {
	if applicationFault(xid) || xid == xidRecovery {
		return false
	}
	if r.xids == nil {
		r.xids = map[uint64]time.Time{}
	}
	r.xids[xid] = at
	return true
}

// recovering notes that the driver said anew what is to be done: what it says
// next is about the errors so far.
func (r *record) recovering() {
	for xid := range r.xids {
		r.xids[xid] = time.Time{}
	}
}

// sampled takes a sample. A driver that says of a GPU with errors that it
// needs nothing has recovered it; nobody else can tell, unless the GPU was
// lost and is back, which takes a reset.
func (r *record) sampled(s nvml.Sample, at time.Time) {
	if lost, _ := r.lost(); lost && !s.Lost {
		r.xids = nil
	}
	r.sample, r.missing = &s, false
	if s.Recovery == nil || *s.Recovery != nvml.RecoveryNone || s.Lost || s.NeedsReset {
		return
	}
	maps.DeleteFunc(r.xids, func(_ uint64, last time.Time) bool { return at.Sub(last) >= settle })
}

// lost reports whether NVML has no such GPU any more; known is false where it
// has not been asked.
func (r *record) lost() (lost, known bool) {
	if r.missing {
		return true, true
	}
	return r.sample != nil && r.sample.Lost, r.sample != nil
}

// verdict says how the GPU is. unwatched is why nothing new is heard of it, if
// so: what is known to be wrong stands all the same.
func (r *record) verdict(g gpu.GPU, unwatched string) (health string, reasons []string) {
	if g.Simulated {
		return state.HealthUnknown, nil
	}
	if g.Fault != "" {
		reasons = append(reasons, g.Fault)
	}
	if lost, _ := r.lost(); lost && g.Fault == "" {
		if r.missing {
			reasons = append(reasons, "does not answer NVML")
		} else if _, told := r.xids[xidFellOff]; !told {
			reasons = append(reasons, "fell off the bus")
		}
	}
	if s := r.sample; s != nil {
		if s.Recovery != nil && *s.Recovery != nvml.RecoveryNone {
			reasons = append(reasons, "needs "+s.Recovery.String())
		} else if s.NeedsReset {
			reasons = append(reasons, "needs reset of the GPU")
		}
	}
	for _, xid := range slices.Sorted(maps.Keys(r.xids)) {
		reasons = append(reasons, xidText(xid))
	}
	switch {
	case len(reasons) > 0:
		return state.Unhealthy, reasons
	case unwatched != "":
		return state.HealthUnknown, []string{unwatched}
	case r.sample == nil:
		return state.HealthUnknown, nil
	case r.sample.Err != "":
		return state.HealthUnknown, []string{"NVML: " + r.sample.Err}
	}
	return state.Healthy, nil
}
