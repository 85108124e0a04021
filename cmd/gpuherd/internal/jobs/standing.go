package jobs

import (
	"context"
	"time"

	"gpuherd/monitor/state"
)

// A job that lasts is looked into: from patience on, and then again and again.
// Most are done long before.
const (
	patience = 2 * time.Second
	again    = time.Second
)

// lastLook bounds the look at a unit whose wait has ended before its job.
const lastLook = time.Second

// A Standing is where a unit stands on its way, while its job goes on.
type Standing struct {
	Unit       string
	Active     string // ActiveState: "activating" or "deactivating"
	Ending     string // how its last start ended, where systemd is to start it anew; empty: it has not
	StatusText string // what the unit says of itself (STATUS=); empty: nothing
}

// String says in one line where the unit stands, without its name.
func (s *Standing) String() string {
	text := "not ready yet"
	if s.Active == "deactivating" {
		text = "not stopped yet"
	}
	if says := s.Says(); says != "" {
		text += ": " + says
	}
	return text
}

// Says returns what is known of why it is there; empty: nothing.
func (s *Standing) Says() string {
	if s.Ending != "" {
		return quoting(s.Ending, s.StatusText)
	}
	return s.StatusText
}

// look reads where the unit stands; false where it is not on its way, or
// systemd does not say.
func look(ctx context.Context, bus Bus, unit string) (Standing, bool) {
	o := state.Observation{Name: unit}
	if !property(ctx, bus, unit, "Unit", "ActiveState", &o.Active) || o.Active != "activating" && o.Active != "deactivating" {
		return Standing{}, false
	}
	property(ctx, bus, unit, "Service", "StatusText", &o.StatusText)
	property(ctx, bus, unit, "Service", "Result", &o.Result)
	property(ctx, bus, unit, "Service", "ExecMainCode", &o.ExecMainCode)
	property(ctx, bus, unit, "Service", "ExecMainStatus", &o.ExecMainStatus)
	u := o.Unit()
	s := Standing{Unit: unit, Active: u.Active, StatusText: u.StatusText}
	if u.Active == "activating" && u.Result != "success" {
		s.Ending = u.Ending()
	}
	return s, true
}

// lookAll reads where those of the units stand that are on their way.
func lookAll(ctx context.Context, bus Bus, units []string) []Standing {
	var all []Standing
	for _, unit := range units {
		if s, ok := look(ctx, bus, unit); ok {
			all = append(all, s)
		}
	}
	return all
}

// property reads a property of the unit; false where systemd does not tell it.
func property(ctx context.Context, bus Bus, unit, kind, name string, to any) bool {
	p, err := bus.GetUnitTypePropertyContext(ctx, unit, kind, name)
	return err == nil && p.Value.Store(to) == nil
}

// quoting puts what a unit said last behind what became of it.
func quoting(what, said string) string {
	if said == "" {
		return what
	}
	return what + "; it said: " + said
}
