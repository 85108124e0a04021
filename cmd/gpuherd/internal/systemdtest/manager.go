package systemdtest

import (
	"fmt"
	"slices"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/bus"
)

// Version is what the fake tells as systemd's.
const Version = "257.9-1~deb13u1"

// managerProperties are the properties of the manager.
type managerProperties struct{}

// Get tells the version, and nothing else.
func (managerProperties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	if name != "Version" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{name})
	}
	return dbus.MakeVariant(Version), nil
}

// Reload has the target want what is generated, and tells when it begins and
// ends, as systemd does.
func (m managerMethods) Reload() *dbus.Error {
	if err := m.s.call(bus.Target, "Reload"); err != nil {
		return err
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for _, active := range []bool{true, false} {
		if err := m.s.conn.Emit(rootPath, manager+".Reloading", active); err != nil {
			return dbus.MakeFailedError(err)
		}
		if active && m.s.generate != nil {
			m.s.units[bus.UnitPath(bus.Target)].Props["Wants"] = m.s.generate()
		}
	}
	return nil
}

// A listedJob is one of ListJobs, org.freedesktop.systemd1(5).
type listedJob struct {
	ID       uint32
	Unit     string
	Type     string
	State    string
	Path     dbus.ObjectPath
	UnitPath dbus.ObjectPath
}

// ListJobs lists a start job of every unit whose jobs never end.
func (m managerMethods) ListJobs() ([]listedJob, *dbus.Error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	jobs := []listedJob{}
	for _, u := range m.s.units {
		if u.Job == "never" {
			jobs = append(jobs, listedJob{Unit: u.Name, Type: "start", State: "running", UnitPath: bus.UnitPath(u.Name)})
		}
	}
	slices.SortFunc(jobs, func(a, b listedJob) int { return len(a.Unit) - len(b.Unit) })
	for i := range jobs {
		jobs[i].ID = uint32(i + 1)
		jobs[i].Path = dbus.ObjectPath(fmt.Sprintf("%s/job/%d", rootPath, i+1))
	}
	return jobs, nil
}

// A listedUnit is one of ListUnitsByNames, org.freedesktop.systemd1(5).
type listedUnit struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	Job                                             uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

// ListUnitsByNames lists the named units, also those that do not exist.
func (m managerMethods) ListUnitsByNames(names []string) ([]listedUnit, *dbus.Error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	listed := []listedUnit{}
	for _, name := range names {
		l := listedUnit{Name: name, Load: "not-found", Active: "inactive", Sub: "dead", Path: bus.UnitPath(name), JobPath: "/"}
		if u := m.s.units[l.Path]; u != nil {
			l.Load, _ = u.Props["LoadState"].(string)
			l.Active, _ = u.Props["ActiveState"].(string)
			l.Sub, _ = u.Props["SubState"].(string)
		}
		listed = append(listed, l)
	}
	return listed, nil
}
