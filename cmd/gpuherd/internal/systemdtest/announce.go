package systemdtest

import (
	"maps"
	"testing"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/bus"
)

// Change changes properties of a unit, and tells those who watch.
func (s *Systemd) Change(t testing.TB, name string, props map[string]any) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[bus.UnitPath(name)]
	maps.Copy(u.Props, props)
	if err := s.announce(u); err != nil {
		t.Error(err)
	}
}

// announce tells those who watch what a unit's properties are. s.mu is held.
func (s *Systemd) announce(u *Unit) error {
	props := map[string]dbus.Variant{}
	for name, value := range u.Props {
		props[name] = dbus.MakeVariant(value)
	}
	return s.conn.Emit(bus.UnitPath(u.Name), "org.freedesktop.DBus.Properties.PropertiesChanged", busName+".Unit", props, []string{})
}
