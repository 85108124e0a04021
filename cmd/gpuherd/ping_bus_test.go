package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/systemdtest"
)

// The bus comes by the environment, so this test runs alone.
func TestPingHerd(t *testing.T) {
	up := func(name string) systemdtest.Unit {
		return systemdtest.Unit{Name: name, Props: map[string]any{"LoadState": "loaded", "ActiveState": "active", "SubState": "running"}}
	}
	answers := check{Name: "systemd", OK: true, Detail: "systemd answers on D-Bus"}
	target := check{Name: "target", OK: true, Detail: "gpuherd.target is active"}
	for _, tc := range []struct {
		name  string
		units []systemdtest.Unit
		want  []check
	}{
		{"well", []systemdtest.Unit{up("a.service"), up("b@0.service")}, []check{answers, target, {Name: "units", OK: true, Detail: "2 units of the herd are active"}}},
		{
			"a program of setup.d failed",
			[]systemdtest.Unit{up("a.service"), {Name: "shared-setup.service", Props: map[string]any{
				"LoadState": "loaded", "ActiveState": "active", "SubState": "exited", "StatusText": "1 GPU; FAILED in setup.d: 10-first (exit status 3)",
			}}},
			[]check{answers, target, {
				Name:   "unit shared-setup.service",
				Detail: "shared-setup says: 1 GPU; FAILED in setup.d: 10-first (exit status 3); gpuherd logs shared-setup",
			}},
		},
		{
			"wanted without a file",
			[]systemdtest.Unit{up("a.service"), {Name: "gone.service", Props: map[string]any{"LoadState": "not-found"}}},
			[]check{answers, target, {Name: "unit gone.service", Detail: "gone is wanted and has no unit file"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", systemdtest.Start(t, tc.units...).Address)
			a := newApp()
			defer a.disconnect()
			if diff := cmp.Diff(tc.want, a.pingHerd(t.Context())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
