package bus

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

// The traces are the signals of real systemds, 252 and 257, with the
// properties that matter: one line a PropertiesChanged, or Reloading. The
// units ran sleep (simple-*, direct-* with RestartMode=direct, which 252
// ignores), a shell that notifies (notify-*), or true (oneshot-*).
func TestTraces(t *testing.T) {
	t.Parallel()
	running := state.Observation{Active: "active", Sub: "running", Result: "success", MainPID: 77, ExecMainPID: 77}
	exited := state.Observation{Active: "active", Sub: "exited", Result: "success"}
	stopped := state.Observation{Active: "inactive", Sub: "dead", Result: "success"}
	failed := state.Observation{Active: "failed", Sub: "failed", Result: "exit-code", NRestarts: 0}
	for _, tt := range []struct {
		trace string
		first state.Observation
		want  []string
	}{
		{"252/simple-kill", running, []string{"failed signal killed/9 restarts=0", "running success /0 restarts=1"}},
		{"257/simple-kill", running, []string{"failed signal killed/9 restarts=0", "running success /0 restarts=1"}},
		{"252/simple-reload-kill", running, []string{"failed signal killed/9 restarts=0", "running success /0 restarts=1"}},
		{"257/simple-reload-kill", running, []string{"failed signal killed/9 restarts=0", "running success /0 restarts=1"}},
		{"252/direct-kill", running, []string{"failed signal killed/9 restarts=0", "running success /0 restarts=1"}},
		{"257/direct-kill", running, []string{"failed signal killed/9 restarts=0", "running success /0 restarts=1"}},
		{"252/notify-kill", running, []string{"failed signal killed/9 restarts=0", "starting success /0 restarts=1", "running success /0 restarts=1", "status up"}},
		{"257/notify-kill", running, []string{"failed signal killed/9 restarts=0", "starting success /0 restarts=1", "running success /0 restarts=1", "status up"}},
		{"252/simple-restart", running, []string{"stopping success /0 restarts=0", "stopped success killed/15 restarts=0", "running success /0 restarts=1"}},
		{"252/simple-stop-start", running, []string{"stopping success /0 restarts=0", "stopped success killed/15 restarts=0", "running success /0 restarts=1"}},
		{"257/simple-stop-start", running, []string{"stopping success /0 restarts=0", "stopped success killed/15 restarts=0", "running success /0 restarts=1"}},
		{"252/simple-exit0", stopped, []string{"running success /0 restarts=1", "stopped success exited/0 restarts=1", "running success /0 restarts=2",
			"stopping success /0 restarts=2", "stopped success killed/15 restarts=2"}},
		{"257/simple-exit0", failed, []string{"running success /0 restarts=1", "stopped success exited/0 restarts=1", "running success /0 restarts=2",
			"stopping success /0 restarts=2", "stopped success killed/15 restarts=2"}},
		{"252/oneshot-restart", exited, []string{"stopped success exited/0 restarts=0", "starting success /0 restarts=1", "running success exited/0 restarts=1"}},
		{"257/oneshot-restart", exited, []string{"stopped success exited/0 restarts=0", "starting success /0 restarts=1", "running success exited/0 restarts=1"}},
		{"252/reexec", running, nil},
		{"257/reexec", running, nil},
	} {
		t.Run(tt.trace, func(t *testing.T) {
			t.Parallel()
			signals := readTrace(t, filepath.Join("testdata", tt.trace+".trace"))
			var got []string
			herd := state.NewHerd(func(d state.Delta) {
				for _, e := range append(d.Events, d.Hints...) {
					u := e.Data.(*state.UnitEvent)
					if e.Type == state.TypeStatus {
						got = append(got, "status "+u.StatusText)
						continue
					}
					if (u.Event == state.Failed || u.Event == state.Stopped) && u.PID == 0 {
						t.Errorf("%s tells no pid: %+v", u.Event, u)
					}
					got = append(got, fmt.Sprintf("%s %s %s/%d restarts=%d", u.Event, u.Result, u.ExitCode, u.ExitStatus, u.Restarts))
				}
			}, time.Now)

			// The unit as it was when the recording began.
			first := tt.first
			first.Name, first.ChangedMonoUS = tracedUnit, 1
			for _, s := range signals {
				if id, ok := s.props["InvocationID"]; ok {
					first.InvocationID = hex.EncodeToString(id.Value().([]byte))
					break
				}
			}
			if first.InvocationID == "" {
				first.InvocationID = strings.Repeat("ab", 16)
			}
			s := &session{w: NewWatcher(slog.New(slog.DiscardHandler), herd, nil), units: map[dbus.ObjectPath]*unit{
				tracedPath: {now: first, sent: first},
			}}
			herd.Sync([]state.Observation{first}, ReasonConnected)
			for _, sig := range signals {
				if sig.props == nil {
					s.reloading = sig.reloading
					continue
				}
				s.changed(&dbus.Signal{Path: tracedPath, Name: propsChanged, Body: []any{sig.iface, sig.props, []string{}}})
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

const tracedUnit = "traced.service"

var tracedPath = UnitPath(tracedUnit)

type traced struct {
	reloading bool
	iface     string
	props     map[string]dbus.Variant // nil: Reloading
}

func readTrace(t *testing.T, path string) []traced {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []traced
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		if kind == "Reloading" {
			all = append(all, traced{reloading: rest == "true"})
			continue
		}
		s := traced{iface: "org.freedesktop.systemd1." + kind, props: map[string]dbus.Variant{}}
		for _, field := range strings.Fields(rest) {
			key, value, _ := strings.Cut(field, "=")
			s.props[key] = dbus.MakeVariant(tracedValue(t, key, value))
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return all
}

// tracedValue returns a property in systemd's own type.
func tracedValue(t *testing.T, key, value string) any {
	t.Helper()
	if s, err := strconv.Unquote(value); err == nil {
		return s
	}
	switch key {
	case "InvocationID":
		id, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		return id
	case "StateChangeTimestampMonotonic":
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	switch key {
	case "ExecMainCode", "ExecMainStatus":
		return int32(n)
	case "Job":
		return []any{uint32(n), dbus.ObjectPath("/")}
	}
	return uint32(n)
}
