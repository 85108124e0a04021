package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers for each unit as its entry says. A unit whose job is "never"
// has a job that does not end.
type fake struct {
	units map[string]fakeUnit
	lost  atomic.Bool
}

type fakeUnit struct {
	job         string
	refuse      error
	active, sub string
	result      string
	status      int32
	unmet       bool // a condition of it
	code        int32
	says        string
}

func (f *fake) job(_ context.Context, name, _ string, ch chan<- string) (int, error) {
	u := f.units[name]
	if u.refuse != nil {
		return 0, u.refuse
	}
	if ch != nil && u.job != "never" {
		ch <- u.job
	}
	return 1, nil
}

func (f *fake) StartUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error) {
	return f.job(ctx, name, mode, ch)
}

func (f *fake) StopUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error) {
	return f.job(ctx, name, mode, ch)
}

func (f *fake) RestartUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error) {
	return f.job(ctx, name, mode, ch)
}

func (f *fake) GetUnitTypePropertyContext(_ context.Context, unit, kind, name string) (*sd.Property, error) {
	return f.units[unit].property(kind, name)
}

func (u fakeUnit) property(kind, name string) (*sd.Property, error) {
	v, ok := map[string]any{
		"Unit.ActiveState": u.active, "Unit.SubState": u.sub, "Unit.ConditionResult": !u.unmet,
		"Service.Result": u.result, "Service.ExecMainStatus": u.status, "Service.MainPID": uint32(0),
		"Service.ExecMainCode": u.code, "Service.StatusText": u.says,
	}[kind+"."+name]
	if !ok {
		return nil, fmt.Errorf("no property %s of %s", name, kind)
	}
	return &sd.Property{Name: name, Value: dbus.MakeVariant(v)}, nil
}

// slow is a unit whose job ends once ends says how, and which becomes another
// meanwhile.
type slow struct {
	Bus
	ends chan string

	mu  sync.Mutex
	now fakeUnit
}

func (s *slow) become(u fakeUnit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = u
}

func (s *slow) RestartUnitContext(ctx context.Context, _, _ string, ch chan<- string) (int, error) {
	go func() {
		select {
		case result := <-s.ends:
			ch <- result
		case <-ctx.Done():
		}
	}()
	return 1, nil
}

func (s *slow) GetUnitTypePropertyContext(ctx context.Context, _, kind, name string) (*sd.Property, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.property(kind, name)
}

func (*slow) Connected() bool { return true }

func (f *fake) Connected() bool { return !f.lost.Load() }

func TestRun(t *testing.T) {
	t.Parallel()
	denied := dbus.Error{Name: "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", Body: []any{"Interactive authentication required."}}
	bus := &fake{units: map[string]fakeUnit{
		"good":       {job: "done", active: "active", sub: "running", result: "success"},
		"bad":        {job: "failed", active: "failed", sub: "failed", result: "exit-code", status: 203},
		"loop":       {job: "done", active: "activating", sub: "auto-restart", result: "exit-code", status: 1},
		"needy":      {job: "dependency", active: "inactive", sub: "dead", result: "success"},
		"stubborn":   {job: "done", active: "failed", sub: "failed", result: "timeout"},
		"kept":       {job: "done", active: "inactive", sub: "dead", result: "success", unmet: true},
		"denied":     {refuse: denied},
		"missing":    {refuse: errors.New("unit missing not found")},
		"superseded": {job: "canceled", active: "active", sub: "running", result: "success"},
	}}
	for _, tc := range []struct {
		unit string
		verb Verb
		want Outcome
		text string
	}{
		{"good", Start, Outcome{Result: "done", OK: true, Active: "active", Sub: "running", UnitResult: "success"}, "started in 0ms"},
		{"good", Restart, Outcome{Result: "done", OK: true, Active: "active", Sub: "running", UnitResult: "success"}, "restarted in 0ms"},
		{"bad", Start, Outcome{Result: "failed", Active: "failed", Sub: "failed", UnitResult: "exit-code", ExitStatus: 203}, "failed to start: exit-code, status 203"},
		{"loop", Start, Outcome{Result: "done", Active: "activating", Sub: "auto-restart", UnitResult: "exit-code", ExitStatus: 1}, "failed to start: exit-code, status 1"},
		{"needy", Start, Outcome{Result: "dependency", Active: "inactive", Sub: "dead", UnitResult: "success"}, "failed to start: a unit it needs failed"},
		{"stubborn", Stop, Outcome{Result: "done", OK: true, Active: "failed", Sub: "failed", UnitResult: "timeout"}, "stopped in 0ms (timeout)"},
		{"kept", Start, Outcome{Result: "done", Active: "inactive", Sub: "dead", UnitResult: "success"}, "failed to start: a condition of its unit is not met, see systemctl status kept"},
		{"kept", Stop, Outcome{Result: "done", OK: true, Active: "inactive", Sub: "dead", UnitResult: "success"}, "stopped in 0ms"},
		{"denied", Stop, Outcome{Result: "refused", Error: "Interactive authentication required."}, "not stopped: permission denied"},
		{"missing", Restart, Outcome{Result: "refused", Error: "unit missing not found"}, "not restarted: unit missing not found"},
		{"superseded", Restart, Outcome{Result: "canceled", Active: "active", Sub: "running", UnitResult: "success"}, "failed to restart: another job replaced this one"},
	} {
		t.Run(tc.unit+" "+string(tc.verb), func(t *testing.T) {
			t.Parallel()
			tc.want.Unit, tc.want.Verb = tc.unit, tc.verb
			got := Run(t.Context(), bus, tc.verb, []string{tc.unit}, true, Listener{})
			if diff := cmp.Diff([]Outcome{tc.want}, got, cmpopts.IgnoreUnexported(Outcome{}), cmpopts.IgnoreFields(Outcome{}, "Millis")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			got[0].Millis = 0
			if diff := cmp.Diff(tc.text, got[0].String()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunKeepsOrderAndReportsEach(t *testing.T) {
	t.Parallel()
	bus := &fake{units: map[string]fakeUnit{"a": {job: "done"}, "b": {refuse: errors.New("no")}, "c": {job: "done"}}}
	var seen []string
	got := Run(t.Context(), bus, Stop, []string{"c", "b", "a"}, true, Listener{Ended: func(o Outcome) { seen = append(seen, o.Unit) }})
	var order []string
	for _, o := range got {
		order = append(order, o.Unit)
	}
	if diff := cmp.Diff([]string{"c", "b", "a"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	slices.Sort(seen)
	if diff := cmp.Diff([]string{"a", "b", "c"}, seen); diff != "" {
		t.Errorf("reported (-want +got):\n%s", diff)
	}
}

func TestRunDoesNotWait(t *testing.T) {
	t.Parallel()
	bus := &fake{units: map[string]fakeUnit{"slow": {job: "never"}}}
	got := Run(t.Context(), bus, Start, []string{"slow"}, false, Listener{})
	if got[0].Result != Queued || !got[0].OK || got[0].String() != "queued to start" {
		t.Errorf("got %+v", got[0])
	}
}

func TestRunEndsInTime(t *testing.T) {
	t.Parallel()
	bus := &fake{units: map[string]fakeUnit{"slow": {job: "never"}, "quick": {job: "done"}}}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("the time is up"))
	defer cancel()
	got := Run(ctx, bus, Stop, []string{"slow", "quick"}, true, Listener{})
	if got[0].OK || got[0].String() != "not yet stopped: the time is up" {
		t.Errorf("slow: %+v", got[0])
	}
	if !got[1].OK {
		t.Errorf("quick: %+v", got[1])
	}
}

func TestRunEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	bus := &fake{units: map[string]fakeUnit{"slow": {job: "never"}}}
	bus.lost.Store(true)
	got := Run(t.Context(), bus, Stop, []string{"slow"}, true, Listener{})
	if got[0].OK || got[0].Error != errLost.Error() {
		t.Errorf("got %+v", got[0])
	}
}

func TestUnauthorized(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"org.freedesktop.DBus.Error.AccessDenied":                     true,
		"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": true,
		"org.freedesktop.systemd1.NoSuchUnit":                         false,
	} {
		if got := Unauthorized(dbus.Error{Name: name}); got != want {
			t.Errorf("Unauthorized(%s) = %v", name, got)
		}
	}
	if Unauthorized(errors.New("x")) || Unauthorized(nil) {
		t.Error("an ordinary error is no refusal")
	}
}
