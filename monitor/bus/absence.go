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

// askAgain is how long a patient Conn waits before it asks again.
const askAgain = 20 * time.Millisecond

// WithPatience has a Conn ask again what it only reads while systemd is not on
// the bus, until it has been away for so long: a re-execution takes it off for
// some 100 ms. Without, such calls fail at once.
func WithPatience(d time.Duration) Option { return func(o *options) { o.patience = d } }

// absent reports whether err says that systemd is not on the bus.
func absent(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && (e.Name == errNoReply || e.Name == errNoOwner || e.Name == errUnknown)
}

// read calls a method that changes nothing.
func (c *Conn) read(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	for {
		call := c.bus.Object(busName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
		if !absent(call.Err) {
			c.absence.Store(0)
			return call
		}
		// One absence is the same for all calls that are under way.
		now := time.Now().UnixNano()
		if !c.absence.CompareAndSwap(0, now) && now-c.absence.Load() >= int64(c.opts.patience) || c.opts.patience <= 0 {
			return call
		}
		select {
		case <-ctx.Done():
			return call
		case <-time.After(askAgain):
		}
	}
}
