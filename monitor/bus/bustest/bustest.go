// Package bustest stands in for systemd's signals in tests: an
// org.freedesktop.systemd1 on a private dbus-daemon, which announces what the
// test says in the way systemd does it: Service half first, then the Unit
// half, to subscribers only.
package bustest

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/state"
)

const (
	busName     = "org.freedesktop.systemd1"
	managerPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	manager     = busName + ".Manager"
	properties  = "org.freedesktop.DBus.Properties"
)

// A Systemd is a running fake.
type Systemd struct {
	Address string // of the bus

	tb     testing.TB
	dir    string
	daemon *exec.Cmd

	mu         sync.Mutex
	conn       *dbus.Conn
	units      map[dbus.ObjectPath]state.Observation
	wants      []string
	subscribed bool
	refuse     bool          // the next Subscribe
	hold       chan struct{} // GetAll waits for it to close; nil: it does not
	asked      int           // GetAll calls
}

// Start starts a dbus-daemon and the fake on it. The herd is units.
func Start(tb testing.TB, units ...state.Observation) *Systemd {
	tb.Helper()
	dir, err := os.MkdirTemp("", "bus") // tb.TempDir's path may be too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	s := &Systemd{tb: tb, dir: dir, Address: "unix:path=" + filepath.Join(dir, "s"), units: map[dbus.ObjectPath]state.Observation{}}
	tb.Cleanup(func() {
		s.StopBus()
		_ = os.RemoveAll(dir)
	})
	for _, o := range units {
		s.units[bus.UnitPath(o.Name)] = o
		s.wants = append(s.wants, o.Name)
	}
	s.StartBus()
	return s
}

const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
`

// StartBus starts dbus-daemon, again after StopBus, with the fake on it.
func (s *Systemd) StartBus() {
	s.tb.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		s.tb.Fatal("no dbus-daemon: apt-get install dbus-daemon")
	}
	file := filepath.Join(s.dir, "conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, s.Address), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	s.daemon = exec.Command(program, "--nofork", "--nopidfile", "--config-file="+file, "--print-address=1")
	out, err := s.daemon.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := s.daemon.Start(); err != nil {
		s.tb.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		s.tb.Fatalf("dbus-daemon did not come up: %v", err)
	}
	s.Boot()
}

// StopBus kills dbus-daemon, and with it every connection.
func (s *Systemd) StopBus() {
	s.mu.Lock()
	conn := s.conn
	s.conn = nil
	s.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
	if s.daemon != nil {
		_ = s.daemon.Process.Kill()
		_ = s.daemon.Wait()
		s.daemon = nil
		_ = os.Remove(filepath.Join(s.dir, "s"))
	}
}

// Boot puts the fake on the bus, without subscribers: at the start, and after
// Leave as the second half of a daemon-reexec.
func (s *Systemd) Boot() {
	s.tb.Helper()
	conn, err := dbus.Connect(s.Address)
	if err != nil {
		s.tb.Fatal(err)
	}
	err = conn.Export(methods{s}, managerPath, manager)
	if err == nil {
		err = conn.ExportSubtree(props{s}, managerPath+"/unit", properties)
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	s.mu.Lock()
	s.conn, s.subscribed = conn, false
	s.mu.Unlock()
	if r, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		s.tb.Fatalf("cannot take %s: %v %v", busName, r, err)
	}
}

// Leave takes the fake off the bus, as daemon-reexec does.
func (s *Systemd) Leave() {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	_ = conn.Close()
}

// Set changes units without a word, as what happens while nobody listens.
func (s *Systemd) Set(units ...state.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range units {
		s.units[bus.UnitPath(o.Name)] = o
	}
}

// Want sets what gpuherd.target wants.
func (s *Systemd) Want(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wants = names
}

// Announce sets a unit and signals it, both halves.
func (s *Systemd) Announce(o state.Observation) {
	s.tb.Helper()
	s.Set(o)
	s.Signal(o)
}

// Signal signals a unit's properties without setting them.
func (s *Systemd) Signal(o state.Observation) {
	s.tb.Helper()
	service, unit := halves(o)
	for _, half := range []struct {
		iface string
		props map[string]dbus.Variant
	}{{busName + ".Service", service}, {busName + ".Unit", unit}} {
		s.emit(bus.UnitPath(o.Name), properties+".PropertiesChanged", half.iface, half.props, []string{})
	}
}

// Reload signals Reloading(true), does what happens meanwhile, and signals
// Reloading(false).
func (s *Systemd) Reload(meanwhile func()) {
	s.tb.Helper()
	s.Reloading()
	meanwhile()
	s.emit(managerPath, manager+".Reloading", false)
}

// Reloading signals the beginning of a reload alone.
func (s *Systemd) Reloading() {
	s.tb.Helper()
	s.emit(managerPath, manager+".Reloading", true)
}

// Forget loses the subscribers, as PID 1 did before 257.
func (s *Systemd) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribed = false
}

// Refuse has the next call of Subscribe fail.
func (s *Systemd) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = true
}

// Subscribed reports whether anybody has called Subscribe.
func (s *Systemd) Subscribed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subscribed
}

// Asked returns how often a unit's properties were asked for.
func (s *Systemd) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Hold lets calls for properties wait until the function it returns is called.
func (s *Systemd) Hold() (release func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hold = nil
		close(hold)
	}
}

func (s *Systemd) emit(path dbus.ObjectPath, name string, body ...any) {
	s.tb.Helper()
	s.mu.Lock()
	conn, subscribed := s.conn, s.subscribed
	s.mu.Unlock()
	if !subscribed {
		return
	}
	if err := conn.Emit(path, name, body...); err != nil {
		s.tb.Errorf("cannot emit %s: %v", name, err)
	}
}

// halves returns the properties of the two interfaces that signals carry.
func halves(o state.Observation) (service, unit map[string]dbus.Variant) {
	id, err := hex.DecodeString(o.InvocationID)
	if err != nil {
		panic(err)
	}
	v := dbus.MakeVariant
	service = map[string]dbus.Variant{
		"Result": v(o.Result), "MainPID": v(o.MainPID), "ExecMainPID": v(o.ExecMainPID), "ExecMainCode": v(o.ExecMainCode),
		"ExecMainStatus": v(o.ExecMainStatus), "NRestarts": v(o.NRestarts), "StatusText": v(o.StatusText),
	}
	unit = map[string]dbus.Variant{
		"ActiveState": v(o.Active), "SubState": v(o.Sub), "InvocationID": v(id),
		"StateChangeTimestamp": v(o.ChangedUS), "StateChangeTimestampMonotonic": v(o.ChangedMonoUS),
		"Job": v(struct {
			ID   uint32
			Path dbus.ObjectPath
		}{o.Job, "/"}),
	}
	return service, unit
}

type methods struct{ s *Systemd }

func (m methods) Subscribe() *dbus.Error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s.refuse {
		m.s.refuse = false
		return dbus.NewError("org.freedesktop.DBus.Error.LimitsExceeded", []any{"not now"})
	}
	if m.s.subscribed {
		return dbus.NewError(busName+".AlreadySubscribed", []any{"Client is already subscribed."})
	}
	m.s.subscribed = true
	return nil
}

type props struct{ s *Systemd }

func (p props) Get(msg dbus.Message, _, name string) (dbus.Variant, *dbus.Error) {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	if path != bus.UnitPath(bus.Target) || name != "Wants" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{name})
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return dbus.MakeVariant(append(slices.Clone(p.s.wants), "other.target")), nil
}

func (p props) GetAll(msg dbus.Message, _ string) (map[string]dbus.Variant, *dbus.Error) {
	p.s.mu.Lock()
	hold := p.s.hold
	p.s.asked++
	p.s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	o, ok := p.s.units[path]
	if !ok { // systemd loads a unit to answer, and finds no file
		return map[string]dbus.Variant{"LoadState": dbus.MakeVariant("not-found")}, nil
	}
	service, unit := halves(o)
	maps.Copy(unit, service)
	unit["LoadState"] = dbus.MakeVariant("loaded")
	unit["ControlGroup"] = dbus.MakeVariant(o.ControlGroup)
	unit["Slice"] = dbus.MakeVariant(o.Slice)
	for name, figure := range map[string]*uint64{
		"MemoryMax": o.MemoryMax, "MemoryCurrent": o.Memory, "MemoryPeak": o.MemoryPeak, "CPUUsageNSec": o.CPUNS,
	} {
		n := ^uint64(0)
		if figure != nil {
			n = *figure
		}
		unit[name] = dbus.MakeVariant(n)
	}
	return unit, nil
}

// Invocation returns an invocation id for tests: 32 digits made of n.
func Invocation(n int) string { return strings.Repeat("0", 24) + fmt.Sprintf("%08x", n) }
