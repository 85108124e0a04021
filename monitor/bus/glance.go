package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/state"
)

// Private is the socket where systemd answers root without a bus between.
const Private = "/run/systemd/private"

// ErrCut is what a View returns whose connection ended early: as systemd's own
// do when it re-executes itself, and those of a bus that is restarted.
var ErrCut = errors.New("the connection was cut")

// A View is a look at the herd for eyes: what a table has a column for, in a
// tenth of the time that a Conn takes for all there is to know. It is over when
// the context ends that it was opened with. Its methods may not be called
// concurrently.
type View struct {
	asker  *asker
	target string
}

// OpenView connects to systemd as root's systemctl(1) does, without a bus
// between, where the socket named private lets us, and else to the bus as Dial
// does; "" is for the bus. Only a bus at a socket of this machine will do.
func OpenView(ctx context.Context, private string, opts ...Option) (*View, error) {
	o := collect(opts)
	if private != "" {
		a, err := dialAsker(ctx, private, false)
		if err == nil {
			return &View{a, o.target}, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("systemd at %s: %w", private, err)
		}
	}
	address := o.address
	if address == "" {
		address = systemBus()
	}
	path, ok := socketPath(address)
	if !ok || o.stream != nil {
		return nil, fmt.Errorf("%w: %s", errors.ErrUnsupported, address)
	}
	a, err := dialAsker(ctx, path, true)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the bus at %s: %w", address, err)
	}
	return &View{a, o.target}, nil
}

// Close ends the connection.
func (v *View) Close() { v.asker.close() }

// Herd is as Conn.Herd.
func (v *View) Herd() ([]string, error) {
	v.asker.get(UnitPath(v.target), unitIface, "Wants")
	err := v.asker.send()
	if err != nil {
		return nil, err
	}
	value, err := v.asker.property()
	if err != nil {
		return nil, fmt.Errorf("cannot read what %s wants: %w", v.target, err)
	}
	all, _ := value.([]string)
	return services(all), nil
}

// services returns the services among units, sorted.
func services(units []string) []string {
	var names []string
	for _, n := range units {
		if strings.HasSuffix(n, ".service") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// glanced are the properties of an active unit that Glance asks for.
var glanced = []struct{ iface, name string }{
	{unitIface, "StateChangeTimestamp"},
	{serviceIface, "NRestarts"},
	{serviceIface, "StatusText"},
}

// window is how many questions are under way at once: dbus-daemon allows a
// connection 128 (max_replies_per_connection of dbus-daemon(1)), and a socket
// that is full both ways would be the end.
const window = 96

// Glance returns of those of the named units that are active their state,
// StateChangeTimestamp, NRestarts and StatusText, which come from moments some
// milliseconds apart. The others are left out, and what changed its state in
// between.
func (v *View) Glance(names []string) ([]state.Observation, error) {
	v.asker.list(names)
	if err := v.asker.send(); err != nil {
		return nil, err
	}
	before, err := v.asker.listed()
	if err != nil {
		return nil, fmt.Errorf("cannot list the units: %w", err)
	}
	var seen []state.Observation
	for _, name := range names {
		if s := before[name]; s.Load == "loaded" && s.Active == "active" {
			seen = append(seen, state.Observation{Name: name, Active: s.Active, Sub: s.Sub, Job: s.Job})
		}
	}
	if err := v.fill(seen, names); err != nil {
		return nil, err
	}
	after, err := v.asker.listed()
	if err != nil {
		return nil, fmt.Errorf("cannot list the units: %w", err)
	}
	return slices.DeleteFunc(seen, func(o state.Observation) bool {
		return o.ReceivedUS == 0 || before[o.Name] != after[o.Name]
	}), nil
}

// fill asks for the glanced properties, and then once more for the list of
// names, whose answer it leaves to be read. A unit of which a property is
// missing, since it has vanished, has no ReceivedUS.
func (v *View) fill(seen []state.Observation, names []string) error {
	var props map[string]dbus.Variant
	answered := 0
	answer := func() error {
		o, p := &seen[answered/len(glanced)], glanced[answered%len(glanced)]
		if answered%len(glanced) == 0 {
			props = make(map[string]dbus.Variant, len(glanced))
		}
		answered++
		value, err := v.asker.property()
		var refused dbus.Error
		switch {
		case errors.As(err, &refused):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read %s of unit %s: %w", p.name, o.Name, err)
		}
		props[p.name] = dbus.MakeVariant(value)
		if len(props) == len(glanced) {
			merge(o, props)
			o.ReceivedUS = time.Now().UnixMicro()
		}
		return nil
	}
	read := func(down int) error {
		err := v.asker.send()
		for err == nil && v.asker.due() > down {
			err = answer()
		}
		return err
	}
	for i := range seen {
		path := UnitPath(seen[i].Name)
		for _, p := range glanced {
			v.asker.get(path, p.iface, p.name)
		}
		if v.asker.due() >= window {
			if err := read(window / 2); err != nil {
				return err
			}
		}
	}
	v.asker.list(names)
	return read(1)
}
