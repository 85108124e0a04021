package bus_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/state"
)

// A glance tells of each unit what Observe does, but for what nobody has asked
// for of those that are active; of more units than dbus-daemon allows calls to
// be due on one connection, by way of the bus and without.
func TestGlance(t *testing.T) {
	t.Parallel()
	units := map[string]string{
		"w@.service":  sleeper,
		"n.service":   "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --ready --status=up; exec sleep 1000'\n",
		"f.service":   "[Service]\nExecStart=/bin/sh -c 'exit 3'\n",
		"o.service":   "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
		"off.service": "[Service]\nExecStart=/bin/true\n",
	}
	names := []string{"n.service", "f.service", "gone.service", "o.service", "off.service"}
	for i := range 60 {
		names = append(names, "w@"+strings.Repeat("1", i+1)+".service")
	}
	u := bustest.StartUser(t, units, names...)
	u.Systemctl(append([]string{"start"}, names[3])...)
	u.Systemctl(append([]string{"start", "n.service", "f.service"}, names[5:]...)...)
	u.Systemctl("kill", "--signal=KILL", names[5])

	for name, opt := range map[string]bus.Option{"bus": bus.WithAddress(u.Address), "private": bus.WithoutBus(u.Private)} {
		t.Run(name, func(t *testing.T) {
			conn, err := bus.Dial(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			var whole, got []state.Observation
			until(t, "all is at rest", func() bool {
				if whole, err = conn.Observe(t.Context(), names); err != nil {
					t.Fatal(err)
				}
				return whole[0].StatusText == "up" && whole[1].Active == "failed" && whole[4].Sub == "running" && whole[4].NRestarts == 1
			})
			if got, err = conn.Glance(t.Context(), names); err != nil {
				t.Fatal(err)
			}
			for i := range whole {
				if o := &whole[i]; o.Active == "active" {
					*o = state.Observation{
						Name: o.Name, Active: o.Active, Sub: o.Sub, ChangedUS: o.ChangedUS, NRestarts: o.NRestarts, StatusText: o.StatusText,
					}
				}
			}
			moment := cmpopts.IgnoreFields(state.Observation{}, "ReceivedUS")
			if diff := cmp.Diff(whole, got, moment); diff != "" {
				t.Errorf("(-observed +glanced):\n%s", diff)
			}
			if len(got) != len(names)-1 {
				t.Errorf("%d units, want all but the one without a file: %d", len(got), len(names)-1)
			}
		})
	}
}
