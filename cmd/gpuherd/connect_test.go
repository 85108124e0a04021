package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestWhyNoSystemd(t *testing.T) {
	t.Parallel()
	refused := errors.New("cannot connect to the bus at unix:path=/x: connection refused")
	for _, tc := range []struct {
		err    error
		booted bool
		want   string
	}{
		{refused, false, "systemd is not PID 1 here, so there is no herd to ask; boot the machine or container with systemd as its init"},
		{refused, true, refused.Error() + "; is dbus.service running?"},
		{fmt.Errorf("cannot read: %w", context.DeadlineExceeded), true, "cannot read: context deadline exceeded: systemd does not answer; see systemctl status: it may be reloading, or stuck"},
		{fmt.Errorf("cannot read: %w", dbus.Error{Name: "org.freedesktop.DBus.Error.ServiceUnknown", Body: []any{"nobody"}}), true, "cannot read: nobody; is PID 1 systemd, and did dbus.service start after it?"},
		{fmt.Errorf("cannot read: %w", dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied", Body: []any{"no"}}), true, "cannot read: no"},
	} {
		if got := whyNoSystemd(tc.err, tc.booted).Error(); got != tc.want {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
	}
}
