package journal

import "gpuherd/monitor/state"

// Since says where the past begins that is asked for.
type Since struct {
	// Seeds is each unit as it was told last.
	Seeds map[string]state.Seed
	// MonoUS is CLOCK_MONOTONIC before which everything was told, in µs. It
	// counts for units without a seed.
	MonoUS uint64
}

// Reduce returns the phases that units entered after since, in order. whole
// says that records go back to where since is; where they do not, the first of
// each unit is marked as uncertain, and so is what follows a hole.
//
// A seed is as exact as the invocation and phase that it names: what records
// tell up to there is not told again, whatever the clocks say.
func Reduce(records []Record, whole bool, since Since) []state.Past {
	tracks := map[string]*track{}
	known := map[string]bool{} // units of which the seed's invocation is in records
	for _, r := range records {
		if s, ok := since.Seeds[r.Unit]; ok && r.Invocation != "" && r.Invocation == s.InvocationID {
			known[r.Unit] = true
		}
	}
	var past []state.Past
	for _, r := range records {
		if r.Kind == Suppressed {
			for _, t := range tracks {
				t.doubt = true
			}
			whole = false // for units that have no record so far
			continue
		}
		if r.Invocation == "" {
			continue // a condition kept it from its first start
		}
		t := tracks[r.Unit]
		if t == nil {
			if since.told(r, known[r.Unit]) {
				continue
			}
			t = &track{Seed: since.Seeds[r.Unit], doubt: !whole && !known[r.Unit]}
			if t.Phase != state.Failed { // else it is not known
				t.result = "success"
			}
			tracks[r.Unit] = t
		}
		if event := t.take(r); event != "" {
			past = append(past, t.past(r, event))
		}
	}
	return past
}

// told reports whether r, of a unit of which nothing newer was seen yet, is
// older than the seed. known says that the seed's invocation is among the
// records.
func (s Since) told(r Record, known bool) bool {
	seed, ok := s.Seeds[r.Unit]
	switch {
	case known:
		return r.Invocation != seed.InvocationID
	case ok && seed.InvocationID != "":
		return r.AtUS/1000 < seed.SinceMS
	}
	return r.MonoUS < s.MonoUS
}

// A track follows one unit through its records.
type track struct {
	state.Seed // where it is
	result     string
	exitCode   string // of the main process, as far as it failed
	exitStatus int32
	stopping   bool   // a stop job is under way
	scheduled  uint32 // N_RESTARTS as last told; 0: not told
	doubt      bool   // changes before the next event may be missing
}

// take notes r and returns the phase that the unit enters with it, if any.
//
// Within an invocation phases only go forward, so a record of what was told
// already changes nothing.
func (t *track) take(r Record) string {
	if r.Kind == Scheduled {
		if t.scheduled != 0 && r.Restarts > t.scheduled+1 {
			t.Restarts += uint64(r.Restarts - t.scheduled - 1)
			t.doubt = true
		}
		t.scheduled = r.Restarts
		return ""
	}
	if r.Invocation != t.InvocationID {
		t.begin(r)
	}
	switch r.Kind {
	case Starting:
		if t.Phase == "" {
			return t.enter(state.Starting)
		}
	case Started:
		if t.Phase == "" || t.Phase == state.Starting {
			return t.enter(state.Running)
		}
	case Stopping:
		t.stopping = true
		if t.up() && t.Phase != state.Stopping {
			return t.enter(state.Stopping)
		}
	case Succeeded, Skipped:
		if t.up() {
			t.result = "success"
			if r.Kind == Skipped {
				t.result = "exec-condition"
			}
			return t.enter(state.Stopped)
		}
	case Failed:
		if t.Phase == state.Stopped {
			return ""
		}
		t.result = r.Result
		if t.up() {
			return t.enter(state.Failed)
		}
	case Stopped:
		asked := t.stopping
		t.stopping = false
		if t.up() { // how it ended was not told
			t.doubt = true
			return t.enter(state.Stopped)
		}
		if t.Phase == state.Failed && r.Job == "stop" && !asked {
			return t.enter(state.Stopped) // it waited for a restart
		}
	case Exited:
		if r.Command == "ExecStart" {
			t.exitCode, t.exitStatus = r.ExitCode, r.ExitStatus
		}
	}
	return ""
}

// up reports whether the invocation has not ended, as far as was told.
func (t *track) up() bool { return t.Phase != state.Stopped && t.Phase != state.Failed }

// begin makes r's invocation the unit's.
func (t *track) begin(r Record) {
	if t.InvocationID != "" {
		t.Restarts++
		if t.up() {
			t.doubt = true // the end of the one before is missing
		}
	}
	if r.Kind != Starting && r.Kind != Started {
		t.doubt = true // its beginning is missing
	}
	t.InvocationID, t.Phase = r.Invocation, ""
	t.result, t.exitCode, t.exitStatus, t.stopping = "success", "", 0, false
}

func (t *track) enter(phase string) string {
	t.Phase = phase
	return phase
}

// active is the ActiveState that goes with a phase.
var active = map[string]string{
	state.Starting: "activating", state.Running: "active", state.Stopping: "deactivating",
	state.Stopped: "inactive", state.Failed: "failed",
}

// past returns the unit as it was when r was written.
func (t *track) past(r Record, event string) state.Past {
	o := state.Observation{
		Name: r.Unit, Active: active[event], Result: t.result, InvocationID: t.InvocationID, ChangedUS: uint64(r.AtUS),
	}
	p := state.Past{Unit: o.Unit(), Event: event, AtUS: r.AtUS, Uncertain: t.doubt}
	p.Unit.Restarts, p.Unit.ExitCode, p.Unit.ExitStatus = t.Restarts, t.exitCode, t.exitStatus
	t.doubt = false
	return p
}
