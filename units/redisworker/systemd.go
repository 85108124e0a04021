package redisworker

import (
	"context"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// StopTimeout asks systemd for TimeoutStopSec= of this process's unit, as it
// holds now: it may have been changed since the worker began.
func StopTimeout(ctx context.Context) (time.Duration, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("cannot connect to the system bus: %w", err)
	}
	defer func() { _ = conn.Close() }()
	const systemd = "org.freedesktop.systemd1"
	var unit dbus.ObjectPath
	err = conn.Object(systemd, "/org/freedesktop/systemd1").
		CallWithContext(ctx, systemd+".Manager.GetUnitByPID", 0, uint32(os.Getpid())).Store(&unit) //nolint:gosec // a process ID is positive
	if err != nil {
		return 0, fmt.Errorf("cannot find own unit: %w", err)
	}
	var value dbus.Variant
	err = conn.Object(systemd, unit).
		CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, systemd+".Service", "TimeoutStopUSec").Store(&value)
	if err != nil {
		return 0, fmt.Errorf("cannot read TimeoutStopSec= of own unit: %w", err)
	}
	usec, ok := value.Value().(uint64)
	switch {
	case !ok:
		return 0, fmt.Errorf("TimeoutStopSec= of own unit is a %s", value.Signature())
	case usec > math.MaxInt64/1000: // infinity
		return math.MaxInt64, nil
	}
	return time.Duration(usec) * time.Microsecond, nil
}
