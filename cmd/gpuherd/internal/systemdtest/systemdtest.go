// Package systemdtest stands in for systemd in tests: an
// org.freedesktop.systemd1 on a private dbus-daemon, with units as the test
// describes them and jobs that end as it says.
package systemdtest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/bus"
)

// Names of systemd's D-Bus interface, org.freedesktop.systemd1(5).
const (
	busName  = "org.freedesktop.systemd1"
	manager  = busName + ".Manager"
	rootPath = dbus.ObjectPath("/org/freedesktop/systemd1")
)

// A Unit is one unit of the fake.
type Unit struct {
	Name  string
	Props map[string]any // by the names of systemd's properties
	// Job is the result of every job on the unit; empty: "done".
	// "never" is a job that does not end.
	Job string
	// After is what a job that ended leaves behind in Props.
	After map[string]any
	// Moves: a job leaves the unit running or dead, as it was asked for.
	Moves bool
	// Refuse is the D-Bus error that a job is answered with.
	Refuse string
	// Unwanted: gpuherd.target does not want it yet.
	Unwanted bool
}

// A Systemd is a running fake.
type Systemd struct {
	Address string // for DBUS_SYSTEM_BUS_ADDRESS

	conn *dbus.Conn

	mu       sync.Mutex
	generate func() []string // see Generate
	units    map[dbus.ObjectPath]*Unit
	jobs     uint32
	calls    []string
}

// Start starts dbus-daemon and the fake on it, both ended with the test.
// gpuherd.target wants every unit given here that is not Unwanted.
func Start(t testing.TB, units ...Unit) *Systemd {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("no dbus-daemon: apt-get install dbus")
	}
	dir, err := os.MkdirTemp("", "bus") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.CommandContext(context.Background(), program, "--nofork", "--nopidfile", "--config-file="+config, "--print-address=1")
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("dbus-daemon did not come up: %v", err)
	}
	s := &Systemd{Address: strings.TrimSpace(address), units: map[dbus.ObjectPath]*Unit{}}
	var wants []string
	for _, u := range units {
		s.units[bus.UnitPath(u.Name)] = &u
		if !u.Unwanted {
			wants = append(wants, u.Name)
		}
	}
	s.units[bus.UnitPath(bus.Target)] = &Unit{Name: bus.Target, Props: map[string]any{
		"LoadState": "loaded", "ActiveState": "active", "SubState": "active", "Wants": wants,
	}}
	if s.conn, err = dbus.Connect(s.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.conn.Close() })
	if err := s.export(); err != nil {
		t.Fatal(err)
	}
	return s
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s/socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/><allow own="*"/></policy>
</busconfig>
`

func (s *Systemd) export() error {
	if err := s.conn.Export(managerMethods{s}, rootPath, manager); err != nil {
		return err
	}
	if err := s.conn.Export(managerProperties{}, rootPath, "org.freedesktop.DBus.Properties"); err != nil {
		return err
	}
	if err := s.conn.ExportSubtree(propertyMethods{s}, rootPath+"/unit", "org.freedesktop.DBus.Properties"); err != nil {
		return err
	}
	reply, err := s.conn.RequestName(busName, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("%s is taken", busName)
	}
	return err
}

// Calls returns what was asked of the manager: "StartUnit NAME MODE", sorted,
// since callers ask in parallel.
func (s *Systemd) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := slices.Clone(s.calls)
	slices.Sort(calls)
	return calls
}

// Sequence is Calls in the order in which they came.
func (s *Systemd) Sequence() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// managerMethods are the methods of org.freedesktop.systemd1.Manager.
type managerMethods struct{ s *Systemd }

func (m managerMethods) Subscribe() *dbus.Error { return nil }

func (m managerMethods) StartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.s.job("StartUnit", name, mode)
}

func (m managerMethods) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.s.job("StopUnit", name, mode)
}

func (m managerMethods) RestartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.s.job("RestartUnit", name, mode)
}

func (m managerMethods) KillUnit(name, whom string, signal int32) *dbus.Error {
	return m.s.call(name, fmt.Sprintf("KillUnit %s %s %d", name, whom, signal))
}

func (m managerMethods) ResetFailedUnit(name string) *dbus.Error {
	return m.s.call(name, "ResetFailedUnit "+name)
}

// call is a method that is no job, on a unit.
func (s *Systemd) call(name, what string) *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
	_, err := s.unit(name)
	return err
}

// unit returns the unit, or why there is none to be had.
func (s *Systemd) unit(name string) (*Unit, *dbus.Error) {
	u := s.units[bus.UnitPath(name)]
	if u == nil {
		return nil, dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not found."})
	}
	if u.Refuse != "" {
		return nil, dbus.NewError(u.Refuse, []any{"refused"})
	}
	return u, nil
}

func (s *Systemd) job(method, name, mode string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, method+" "+name+" "+mode)
	u, refused := s.unit(name)
	if refused != nil {
		return "", refused
	}
	s.jobs++
	path := dbus.ObjectPath(fmt.Sprintf("%s/job/%d", rootPath, s.jobs))
	if u.Job == "never" {
		return path, nil
	}
	result := u.Job
	if result == "" {
		result = "done"
	}
	switch {
	case u.Moves && method == "StopUnit":
		u.Props["ActiveState"], u.Props["SubState"] = "inactive", "dead"
	case u.Moves:
		u.Props["ActiveState"], u.Props["SubState"] = "active", "running"
	}
	for k, v := range u.After {
		u.Props[k] = v
	}
	if err := s.announce(u); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	// systemd too may announce the end before it answers the caller.
	if err := s.conn.Emit(rootPath, manager+".JobRemoved", s.jobs, path, name, result); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	return path, nil
}

// propertyMethods are those of org.freedesktop.DBus.Properties on every unit.
type propertyMethods struct{ s *Systemd }

func (p propertyMethods) unit(msg dbus.Message) (*Unit, *dbus.Error) {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	if u := p.s.units[path]; u != nil {
		return u, nil
	}
	return nil, dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{"Unknown object " + string(path)})
}

func (p propertyMethods) Get(msg dbus.Message, _, name string) (dbus.Variant, *dbus.Error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	u, err := p.unit(msg)
	if err != nil {
		return dbus.Variant{}, err
	}
	v, ok := u.Props[name]
	if !ok {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{name})
	}
	return dbus.MakeVariant(v), nil
}

func (p propertyMethods) GetAll(msg dbus.Message, _ string) (map[string]dbus.Variant, *dbus.Error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	u, err := p.unit(msg)
	if err != nil {
		return nil, err
	}
	all := map[string]dbus.Variant{}
	for name, value := range u.Props {
		all[name] = dbus.MakeVariant(value)
	}
	return all, nil
}

// Generate has wants say what gpuherd.target wants after each reload; without,
// it is what it wanted before.
func (s *Systemd) Generate(wants func() []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generate = wants
}
