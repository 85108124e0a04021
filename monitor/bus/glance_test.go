package bus_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/state"
)

// A glance tells what Observe does of those units that are active, but for what
// has no column; of more units than dbus-daemon allows calls to be due on one
// connection, by way of the bus and without.
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

	conn, err := bus.Dial(t.Context(), bus.WithAddress(u.Address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var whole []state.Observation
	until(t, "all is at rest", func() bool {
		if whole, err = conn.Observe(t.Context(), names); err != nil {
			t.Fatal(err)
		}
		return whole[0].StatusText == "up" && whole[1].Active == "failed" && whole[4].Sub == "running" && whole[4].NRestarts == 1
	})
	var want []state.Observation
	for _, o := range whole {
		if o.Active == "active" {
			want = append(want, state.Observation{
				Name: o.Name, Active: o.Active, Sub: o.Sub, ChangedUS: o.ChangedUS, NRestarts: o.NRestarts, StatusText: o.StatusText,
			})
		}
	}
	herd, err := conn.Herd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, private := range map[string]string{"bus": "", "private": u.Private, "bus instead": "/nowhere"} {
		t.Run(name, func(t *testing.T) {
			view, err := bus.OpenView(t.Context(), private, bus.WithAddress(u.Address))
			if err != nil {
				t.Fatal(err)
			}
			defer view.Close()
			members, err := view.Herd()
			if diff := cmp.Diff(herd, members); err != nil || diff != "" {
				t.Errorf("its members: %v (-want +got):\n%s", err, diff)
			}
			got, err := view.Glance(names)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(state.Observation{}, "ReceivedUS")); diff != "" {
				t.Errorf("(-observed +glanced):\n%s", diff)
			}
			if none, err := view.Glance(nil); len(none) > 0 || err != nil {
				t.Errorf("of no unit: %v %v", none, err)
			}
		})
	}
	t.Run("over", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		view, err := bus.OpenView(ctx, "", bus.WithAddress(u.Address))
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		cancel()
		until(t, "no question is answered", func() bool {
			_, err := view.Herd()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("it is not told that the caller's time is over: %v", err)
			}
			return err != nil
		})
	})
	t.Run("cut", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "private")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() { // systemd goes away after the first question
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "OK 00\r\n")
			_, _ = io.CopyN(io.Discard, conn, 200)
		}()
		view, err := bus.OpenView(t.Context(), socket)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		if _, err := view.Herd(); !errors.Is(err, bus.ErrCut) {
			t.Errorf("it says %v, want ErrCut", err)
		}
	})
	for name, address := range map[string]string{"nothing there": "unix:path=/nowhere", "no socket": "tcp:host=127.0.0.1,port=1"} {
		if _, err := bus.OpenView(t.Context(), "", bus.WithAddress(address)); err == nil || errors.Is(err, errors.ErrUnsupported) != (name == "no socket") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
