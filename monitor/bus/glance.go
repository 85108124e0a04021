package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/state"
)

// glanced are the properties of a running unit that Glance asks for.
var glanced = []struct{ iface, name string }{
	{unitIface, "StateChangeTimestamp"},
	{serviceIface, "NRestarts"},
	{serviceIface, "StatusText"},
}

// window is how many calls of Glance are under way at once: dbus-daemon allows
// a connection 128 (max_replies_per_connection of dbus-daemon(1)).
const window = 64

// Glance is Observe for eyes. A unit has 450 properties, and to make, carry and
// read them all takes milliseconds; so of a unit that is active, its state,
// StateChangeTimestamp, NRestarts and StatusText alone are asked for, which come
// from moments some milliseconds apart. A unit that is not active, or changed
// its state in between, is observed.
func (c *Conn) Glance(ctx context.Context, names []string) ([]state.Observation, error) {
	before, err := c.states(ctx, names)
	if err != nil {
		return nil, err
	}
	var running []string
	for _, name := range names {
		if s := before[name]; s.Load == "loaded" && s.Active == "active" {
			running = append(running, name)
		}
	}
	values, err := c.properties(ctx, running)
	if err != nil {
		return nil, err
	}
	after, err := c.states(ctx, running)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]state.Observation, len(names))
	var rest []string
	now := time.Now().UnixMicro()
	for _, name := range names {
		s, props := before[name], values[name]
		if s != after[name] || len(props) < len(glanced) {
			rest = append(rest, name)
			continue
		}
		o := state.Observation{Name: name, Active: s.Active, Sub: s.Sub, Job: s.Job, ReceivedUS: now}
		merge(&o, props)
		mergeFull(&o, props)
		seen[name] = o
	}
	observed, err := c.Observe(ctx, rest)
	if err != nil {
		return nil, err
	}
	for _, o := range observed {
		seen[o.Name] = o
	}
	out := make([]state.Observation, 0, len(seen))
	for _, name := range names {
		if o, ok := seen[name]; ok {
			out = append(out, o)
		}
	}
	return out, nil
}

// A unitState is what systemd lists of a unit.
type unitState struct {
	Load, Active, Sub string
	Job               uint32
}

// states lists the named units, in one call.
func (c *Conn) states(ctx context.Context, names []string) (map[string]unitState, error) {
	if len(names) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.times.call)
	defer cancel()
	var rows []struct {
		Name, Description, Load, Active, Sub, Following string
		Path                                            dbus.ObjectPath
		Job                                             uint32
		JobType                                         string
		JobPath                                         dbus.ObjectPath
	}
	err := c.systemd.CallWithContext(ctx, managerIface+".ListUnitsByNames", dbus.FlagNoAutoStart, names).Store(&rows)
	if err != nil {
		return nil, fmt.Errorf("cannot list the units: %w", err)
	}
	states := make(map[string]unitState, len(rows))
	for _, r := range rows {
		states[r.Name] = unitState{Load: r.Load, Active: r.Active, Sub: r.Sub, Job: r.Job}
	}
	return states, nil
}

// properties asks for the glanced properties of the named units. Of a unit
// that has vanished some are missing.
func (c *Conn) properties(ctx context.Context, names []string) (map[string]map[string]dbus.Variant, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.times.call)
	defer cancel()
	values := make(map[string]map[string]dbus.Variant, len(names))
	calls := make([]*dbus.Call, 0, len(names)*len(glanced))
	// The answers come in the order of the calls, so that waiting for the
	// oldest keeps the window full.
	answer := func(i int) error {
		call := calls[i]
		<-call.Done
		name, property := names[i/len(glanced)], glanced[i%len(glanced)].name
		var v dbus.Variant
		err := call.Store(&v)
		var e dbus.Error
		switch {
		case err == nil:
			if values[name] == nil {
				values[name] = make(map[string]dbus.Variant, len(glanced))
			}
			values[name][property] = v
			return nil
		case errors.As(err, &e):
			return nil // observing the unit tells whether it is gone
		}
		return fmt.Errorf("cannot read %s of unit %s: %w", property, name, err)
	}
	answered := 0
	for _, name := range names {
		unit := c.bus.Object(busName, UnitPath(name))
		for _, p := range glanced {
			if len(calls)-answered == window {
				if err := answer(answered); err != nil {
					return nil, err
				}
				answered++
			}
			calls = append(calls, unit.GoWithContext(ctx, propsIface+".Get", dbus.FlagNoAutoStart, make(chan *dbus.Call, 1), p.iface, p.name))
		}
	}
	for ; answered < len(calls); answered++ {
		if err := answer(answered); err != nil {
			return nil, err
		}
	}
	return values, nil
}
