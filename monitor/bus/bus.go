// Package bus reads systemd's view of the herd from D-Bus: a snapshot on
// request, and every change of state in the order in which systemd announced
// it.
//
// It speaks raw godbus. go-systemd's subscription helpers poll, drop or
// reorder, and a crash-looping worker shows it: SetSubStateSubscriber reported
// none of its failures, SetPropertiesSubscriber drops the Service interface.
package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/state"
)

// Names on the bus, from org.freedesktop.systemd1(5).
const (
	busName      = "org.freedesktop.systemd1"
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = "org.freedesktop.systemd1.Manager"
	unitIface    = "org.freedesktop.systemd1.Unit"
	serviceIface = "org.freedesktop.systemd1.Service"
	propsIface   = "org.freedesktop.DBus.Properties"
	propsChanged = propsIface + ".PropertiesChanged"
)

// Target is the unit whose Wants= are the herd.
const Target = "gpuherd.target"

// times are how long, and how often. Tests have others.
type times struct {
	// call bounds each call to systemd. A daemon-reload of a big machine
	// blocks PID 1 for seconds, never this long.
	call     time.Duration
	probe    time.Duration // Subscribe again: before 257 PID 1 can forget subscribers (systemd#31015)
	reassert time.Duration // a resync for its own sake
	reload   time.Duration // Reloading(true) without its (false)
	retry    time.Duration // of a resync that failed
}

var usual = times{
	call: 15 * time.Second, probe: time.Minute, reassert: 5 * time.Minute, reload: 60 * time.Second, retry: time.Second,
}

// parallel is how many units a snapshot asks for at once: enough to hide the
// way over dbus-daemon, few enough to let PID 1 do other things between.
const parallel = 4

// An Option changes how Dial connects.
type Option func(*options)

type options struct {
	address, target string
	stream          io.ReadWriteCloser
	times           times
	patience        time.Duration
}

// WithAddress connects to the D-Bus address a ("unix:path=…", "unixexec:…")
// instead of the system bus.
func WithAddress(a string) Option { return func(o *options) { o.address = a } }

// WithStream speaks to the bus on the far end of a stream, such as a
// systemd-stdio-bridge(1), instead of the system bus. The connection closes it.
func WithStream(s io.ReadWriteCloser) Option { return func(o *options) { o.stream = s } }

// WithTarget takes the units that the named target wants for the herd.
func WithTarget(unit string) Option { return func(o *options) { o.target = unit } }

func collect(opts []Option) options {
	o := options{target: Target, times: usual}
	for _, f := range opts {
		f(&o)
	}
	return o
}

// A Conn is a connection to systemd over the bus, for calls. Its methods may
// be called concurrently.
type Conn struct {
	bus     *dbus.Conn
	systemd dbus.BusObject
	opts    options
	absence atomic.Int64 // since when systemd is not on the bus, unix time in ns; 0: it is
}

// Dial connects to the system bus. ctx bounds the dialling only.
func Dial(ctx context.Context, opts ...Option) (*Conn, error) {
	o := collect(opts)
	b, err := connect(ctx, o, nil)
	if err != nil {
		return nil, err
	}
	return &Conn{bus: b, systemd: b.Object(busName, managerPath), opts: o}, nil
}

// connect returns an authenticated connection. signals, unless nil, takes its
// signals; godbus' default handler starts a goroutine for each and so loses
// their order.
func connect(ctx context.Context, o options, signals dbus.SignalHandler) (*dbus.Conn, error) {
	address := o.address
	if address == "" {
		address = systemBus()
	}
	life, end := context.WithCancel(context.Background())
	// Auth and Hello know no deadline: ending the connection ends them.
	stop := context.AfterFunc(ctx, end)
	var deliver func(*dbus.Signal)
	if signals == nil {
		signals = dbus.NewSequentialSignalHandler()
	} else {
		deliver = func(s *dbus.Signal) { signals.DeliverSignal(propsIface, "PropertiesChanged", s) }
	}
	settings := []dbus.ConnOption{dbus.WithSignalHandler(signals), dbus.WithContext(life)}
	var conn *dbus.Conn
	var err error
	switch path, plain := socketPath(address); {
	case o.stream != nil:
		address = "the end of a stream"
		conn, err = greet(newSieve(o.stream, deliver), settings)
	case plain:
		var socket net.Conn
		if socket, err = (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil {
			conn, err = greet(newSieve(socket, deliver), settings)
		}
	default:
		conn, err = dbus.Connect(address, settings...)
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("cannot connect to the bus at %s: %w", address, err)
	}
	if !stop() {
		end()
		return nil, fmt.Errorf("cannot connect to the bus at %s: %w", address, ctx.Err())
	}
	return conn, nil
}

// socketPath returns the path of the socket at a D-Bus address, where the
// address is that of one socket.
func socketPath(address string) (path string, ok bool) {
	keys, ok := strings.CutPrefix(address, "unix:")
	if !ok || strings.ContainsAny(keys, ";%") { // several, or escaped: godbus reads these
		return "", false
	}
	for key := range strings.SplitSeq(keys, ",") {
		name, value, _ := strings.Cut(key, "=")
		switch name {
		case "path":
			path = value
		case "abstract":
			path = "@" + value
		}
	}
	return path, path != ""
}

// greet authenticates on a stream and says hello, as dbus.Connect does on a
// socket.
func greet(stream io.ReadWriteCloser, settings []dbus.ConnOption) (*dbus.Conn, error) {
	conn, err := dbus.NewConn(stream, settings...)
	if err != nil {
		_ = stream.Close() // nothing was written
		return nil, err
	}
	if err = conn.Auth(nil); err == nil {
		err = conn.Hello()
	}
	if err != nil {
		_ = conn.Close() // what went wrong is told already
		return nil, err
	}
	return conn, nil
}

// Bus returns the connection itself, for what this package does not ask of
// systemd. Close ends it.
func (c *Conn) Bus() *dbus.Conn { return c.bus }

// Subscribe asks systemd to send signals to the bus; without, not even
// PropertiesChanged comes. fresh tells that systemd did not have us.
func (c *Conn) Subscribe(ctx context.Context) (fresh bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.times.call)
	defer cancel()
	err = c.systemd.CallWithContext(ctx, managerIface+".Subscribe", dbus.FlagNoAutoStart).Err
	var e dbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.AlreadySubscribed" {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot subscribe to systemd: %w", err)
	}
	return true, nil
}

func systemBus() string {
	if a := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); a != "" {
		return a
	}
	return "unix:path=/run/dbus/system_bus_socket"
}

// Close ends the connection; calls under way return an error.
func (c *Conn) Close() error {
	if err := c.bus.Close(); err != nil && !errors.Is(err, dbus.ErrClosed) {
		return fmt.Errorf("cannot close the bus connection: %w", err)
	}
	return nil
}

// Snapshot returns every unit of the herd as systemd has it now, by name.
// Restarts is systemd's own NRestarts; Seq is 0. A herd that does not exist,
// since gpuherd.target is not installed, is empty.
func (c *Conn) Snapshot(ctx context.Context) ([]state.Unit, error) {
	names, err := c.Herd(ctx)
	if err != nil {
		return nil, err
	}
	seen, err := c.Observe(ctx, names)
	if err != nil {
		return nil, err
	}
	units := make([]state.Unit, 0, len(seen))
	for _, o := range seen {
		units = append(units, o.Unit())
	}
	return units, nil
}

// Herd returns the names of the herd's services, sorted: what gpuherd.target
// wants.
func (c *Conn) Herd(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.times.call)
	defer cancel()
	var v dbus.Variant
	err := c.read(ctx, UnitPath(c.opts.target), propsIface+".Get", unitIface, "Wants").Store(&v)
	if err != nil {
		return nil, fmt.Errorf("cannot read what %s wants: %w", c.opts.target, err)
	}
	all, ok := v.Value().([]string)
	if !ok {
		return nil, fmt.Errorf("cannot read what %s wants: systemd answered %s", c.opts.target, v.Signature())
	}
	return services(all), nil
}

// Observe asks for the named units, in the order of names. Units that have no
// file, or vanished meanwhile, are left out.
func (c *Conn) Observe(ctx context.Context, names []string) ([]state.Observation, error) {
	found := make([]*state.Observation, len(names))
	errs := make([]error, len(names))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(parallel, len(names)) {
		wg.Go(func() {
			for i := range next {
				found[i], errs[i] = c.observe(ctx, names[i])
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var out []state.Observation
	for _, o := range found {
		if o != nil {
			out = append(out, *o)
		}
	}
	return out, nil
}

func (c *Conn) observe(ctx context.Context, name string) (*state.Observation, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.times.call)
	defer cancel()
	var props map[string]dbus.Variant
	// The empty interface means all of them, so that Unit and Service come
	// from the same moment.
	err := c.read(ctx, UnitPath(name), propsIface+".GetAll", "").Store(&props)
	if err != nil {
		var e dbus.Error
		if errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.UnknownObject" || e.Name == "org.freedesktop.systemd1.NoSuchUnit") {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot read unit %s: %w", name, err)
	}
	if load, ok := props["LoadState"].Value().(string); ok && load == "not-found" {
		return nil, nil
	}
	o := &state.Observation{Name: name, ReceivedUS: time.Now().UnixMicro()}
	merge(o, props)
	mergeFull(o, props)
	return o, nil
}

// UnitPath returns the object path of a unit, escaped as systemd does it:
// everything but ASCII letters and digits, and a leading digit, as _xx.
func UnitPath(name string) dbus.ObjectPath {
	const hex = "0123456789abcdef"
	var b strings.Builder
	b.WriteString("/org/freedesktop/systemd1/unit/")
	if name == "" {
		b.WriteByte('_')
	}
	for i := range len(name) {
		ch := name[i]
		switch {
		case ch >= 'a' && ch <= 'z', ch >= 'A' && ch <= 'Z', ch >= '0' && ch <= '9' && i > 0:
			b.WriteByte(ch)
		default:
			b.WriteByte('_')
			b.WriteByte(hex[ch>>4])
			b.WriteByte(hex[ch&15])
		}
	}
	return dbus.ObjectPath(b.String())
}
