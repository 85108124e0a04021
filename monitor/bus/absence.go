package bus

import (
	"context"
	"errors"
	"time"

	"github.com/godbus/dbus/v5"
)

// Errors of dbus-daemon(1), where systemd is not on the bus.
const (
	errNoReply = "org.freedesktop.DBus.Error.NoReply" // it went away before it answered
	errNoOwner = "org.freedesktop.DBus.Error.NameHasNoOwner"
	errUnknown = "org.freedesktop.DBus.Error.ServiceUnknown" // the same, of a call that may start nothing
)

// systemd is off the bus for some 100 ms while it re-executes itself.
const (
	absence  = 2 * time.Second // until it counts as not there
	askAgain = 20 * time.Millisecond
)

// absent reports whether err says that systemd is not on the bus.
func absent(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && (e.Name == errNoReply || e.Name == errNoOwner || e.Name == errUnknown)
}

// read calls a method that changes nothing. Where systemd is not on the bus, it
// calls again until systemd is back from a re-execution.
func (c *Conn) read(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	began := time.Now()
	for {
		call := c.bus.Object(busName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
		if !absent(call.Err) || time.Since(began) > absence {
			return call
		}
		select {
		case <-ctx.Done():
			return call
		case <-time.After(askAgain):
		}
	}
}
