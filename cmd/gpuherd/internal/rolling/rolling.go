// Package rolling restarts units a few at a time: the next ones only once
// those before are up and have stayed so, and none after the first failure. A
// service with more than one worker always keeps one that is up.
package rolling

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator/service"
)

// A State is what one unit is at a moment.
type State struct {
	Active     string // ActiveState
	Sub        string // SubState
	Invocation string // InvocationID: another one is another start
}

func (s State) up() bool { return s.Active == "active" && s.Sub != "auto-restart" }

// off reports whether nobody wants the unit to run now.
func (s State) off() bool { return s.Active == "inactive" || s.Active == "deactivating" }

// A Herd is where the units are.
type Herd interface {
	// States returns every unit of the herd that is there.
	States(ctx context.Context) (map[string]State, error)
	// Restart restarts a unit and returns when its job has ended.
	Restart(ctx context.Context, unit string) jobs.Outcome
}

// Options say how fast.
type Options struct {
	MaxUnavailable int           // units that may be down at once, from 1
	Settle         time.Duration // how long a unit has to stay up to count as well
}

// Run restarts the units and returns an outcome for each, in their order. A
// unit that is off stays so; one that has failed already comes first, since it
// can only gain. ended, if not nil, is called for each outcome as it comes, in
// the caller's goroutine.
//
// The first failure ends it: units that are under way are waited for, the
// others are Untouched. So does the end of ctx.
func Run(ctx context.Context, herd Herd, units []string, o Options, ended func(jobs.Outcome)) []jobs.Outcome {
	r := &roll{
		herd: herd, options: o, ended: ended,
		outcomes: map[string]jobs.Outcome{}, under: map[string]bool{}, well: map[string]string{},
		arrived: make(chan arrival),
	}
	r.run(ctx, units)
	all := make([]jobs.Outcome, 0, len(units))
	for _, unit := range units {
		all = append(all, r.outcomes[unit])
	}
	return all
}

type roll struct {
	herd    Herd
	options Options
	ended   func(jobs.Outcome)

	outcomes map[string]jobs.Outcome
	under    map[string]bool   // units under way
	well     map[string]string // units that are through, with their invocation
	failed   bool
	arrived  chan arrival
}

// An arrival is one unit's end, with the invocation that is up since.
type arrival struct {
	outcome    jobs.Outcome
	invocation string
}

func (r *roll) run(ctx context.Context, units []string) {
	waiting := slices.Clone(units)
	states, err := r.herd.States(ctx)
	if err != nil {
		r.leave(waiting, err.Error())
		return
	}
	waiting = slices.DeleteFunc(waiting, func(unit string) bool {
		if states[unit].off() {
			r.end(outcome(unit, jobs.Off, true, ""))
			return true
		}
		return false
	})
	slices.SortStableFunc(waiting, func(a, b string) int { return rank(states[a]) - rank(states[b]) })

	for len(waiting)+len(r.under) > 0 {
		for !r.failed && ctx.Err() == nil && len(waiting) > 0 && len(r.under) < r.options.MaxUnavailable {
			unit := waiting[0]
			if states, err = r.herd.States(ctx); err != nil {
				r.end(failure(unit, jobs.Refused, err.Error()))
				waiting = waiting[1:]
				break
			}
			if !r.stillWell(states) {
				break
			}
			if r.needed(unit, states) {
				if len(r.under) > 0 {
					break // one of them will be up soon
				}
				name, _, _ := service.ParseUnit(unit)
				r.end(failure(unit, jobs.Lonely, "no other worker of "+name+" is up, so its queue would be idle"))
				waiting = waiting[1:]
				break
			}
			waiting = waiting[1:]
			r.under[unit] = true
			go func() { r.arrived <- r.restart(ctx, unit) }()
		}
		if len(r.under) == 0 {
			if len(waiting) > 0 && (r.failed || ctx.Err() != nil) {
				r.leave(waiting, "")
				return
			}
			continue
		}
		a := <-r.arrived
		delete(r.under, a.outcome.Unit)
		if a.outcome.OK {
			r.well[a.outcome.Unit] = a.invocation
		}
		r.end(a.outcome)
	}
	if states, err := r.herd.States(ctx); err == nil {
		r.stillWell(states)
	}
}

// rank puts what is down already first.
func rank(s State) int {
	if s.up() {
		return 1
	}
	return 0
}

// needed reports whether the service would have no worker while this unit is
// down, and has one now. A service of one worker cannot do better.
func (r *roll) needed(unit string, states map[string]State) bool {
	if !states[unit].up() {
		return false
	}
	name, _, _ := service.ParseUnit(unit)
	workers := 0
	for other, state := range states {
		if of, _, _ := service.ParseUnit(other); of != name {
			continue
		}
		workers++
		if other != unit && state.up() && !r.under[other] {
			return false
		}
	}
	return workers > 1
}

// stillWell holds those that are through against what they are now: a worker
// that dies a while after its restart is a failure as well.
func (r *roll) stillWell(states map[string]State) bool {
	for _, unit := range slices.Sorted(maps.Keys(r.well)) {
		if state := states[unit]; !state.up() || state.Invocation != r.well[unit] {
			delete(r.well, unit)
			o := r.outcomes[unit]
			o.Result, o.OK, o.Error = jobs.Unstable, false, unstable(state)
			r.end(o)
			return false
		}
	}
	return true
}

// restart restarts one unit and sees whether it stays up.
func (r *roll) restart(ctx context.Context, unit string) arrival {
	begun := time.Now()
	o := r.herd.Restart(ctx, unit)
	if !o.OK {
		return arrival{outcome: o}
	}
	first, err := r.state(ctx, unit)
	if err == nil && first.up() {
		settled := time.NewTimer(r.options.Settle)
		defer settled.Stop()
		select {
		case <-settled.C:
		case <-ctx.Done(): // it is up, and nobody waits for more
			return arrival{o, first.Invocation}
		}
		var then State
		then, err = r.state(ctx, unit)
		if err == nil && then.up() && then.Invocation == first.Invocation {
			o.Millis = time.Since(begun).Milliseconds()
			return arrival{o, then.Invocation}
		}
		first = then
	}
	o.Result, o.OK, o.Error = jobs.Unstable, false, unstable(first)
	if err != nil {
		o.Error = err.Error()
	}
	return arrival{outcome: o}
}

func (r *roll) state(ctx context.Context, unit string) (State, error) {
	states, err := r.herd.States(ctx)
	if err != nil {
		return State{}, err
	}
	return states[unit], nil
}

func unstable(s State) string {
	switch {
	case s.Active == "":
		return "it is gone"
	case s.up():
		return "it was started again meanwhile"
	}
	return fmt.Sprintf("it is %s/%s", s.Active, s.Sub)
}

func (r *roll) end(o jobs.Outcome) {
	r.outcomes[o.Unit] = o
	r.failed = r.failed || !o.OK
	if r.ended != nil {
		r.ended(o)
	}
}

// leave ends those that were not tried.
func (r *roll) leave(units []string, why string) {
	slices.SortFunc(units, selection.Compare)
	for _, unit := range units {
		r.end(failure(unit, jobs.Untouched, why))
	}
}

func outcome(unit, result string, ok bool, why string) jobs.Outcome {
	return jobs.Outcome{Unit: unit, Verb: jobs.Reload, Result: result, OK: ok, Error: why}
}

func failure(unit, result, why string) jobs.Outcome { return outcome(unit, result, false, why) }
