package bus_test

import (
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/bus/bustest"
)

// Regression: whoever is on the bus may send a signal to one receiver, which
// gets it without a match. A job, say, that plays systemd is not believed, and
// does not end the monitor either.
func TestOthersAreNotSystemd(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, at("w@0.service", "active", "running", 1, 1))
	r, _ := watch(t, s)
	r.want(t, "sync connected w@0.service=running")

	conn, err := dbus.Connect(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var names []string
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		t.Fatal(err)
	}
	const properties, manager = "org.freedesktop.DBus.Properties", "org.freedesktop.systemd1.Manager"
	unit := bus.UnitPath("w@0.service")
	failed := map[string]dbus.Variant{
		"ActiveState": dbus.MakeVariant("failed"), "SubState": dbus.MakeVariant("spoofed"), "StateChangeTimestampMonotonic": dbus.MakeVariant(uint64(1) << 62),
	}
	for _, name := range names {
		if !strings.HasPrefix(name, ":") || name == conn.Names()[0] {
			continue
		}
		for _, spoof := range []struct {
			path          dbus.ObjectPath
			iface, member string
			body          []any
		}{
			{unit, properties, "PropertiesChanged", []any{"org.freedesktop.systemd1.Service", failed, []string{}}},
			{unit, properties, "PropertiesChanged", []any{"org.freedesktop.systemd1.Unit", failed, []string{}}},
			{"/org/freedesktop/systemd1", manager, "Reloading", []any{true}},
			{"/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged", []any{"org.freedesktop.systemd1", ":1.0", ""}},
			{"/", "gpuherd", "herd", []any{"nobody"}},
			{"/", "gpuherd", "herd", nil},
		} {
			headers := map[dbus.HeaderField]dbus.Variant{
				dbus.FieldDestination: dbus.MakeVariant(name), dbus.FieldPath: dbus.MakeVariant(spoof.path),
				dbus.FieldInterface: dbus.MakeVariant(spoof.iface), dbus.FieldMember: dbus.MakeVariant(spoof.member),
			}
			if len(spoof.body) > 0 {
				headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(spoof.body...))
			}
			if call := conn.Send(&dbus.Message{Type: dbus.TypeSignal, Headers: headers, Body: spoof.body}, nil); call != nil && call.Err != nil {
				t.Fatal(call.Err)
			}
		}
		// The bus has passed on all that, once it answers.
		if err := conn.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil {
			t.Fatal(err)
		}
	}
	s.Announce(at("w@0.service", "deactivating", "stop-sigterm", 2, 1))
	r.want(t, "w@0.service deactivating/stop-sigterm ")
}
