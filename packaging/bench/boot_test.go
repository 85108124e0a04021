package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadBoot(t *testing.T) {
	t.Parallel()
	const told = `Version=257.7
UserspaceTimestampMonotonic=2000000
UserspaceTimestamp=Sun 2026-11-29 19:00:00 UTC
FinishTimestampMonotonic=2480000
GeneratorsStartTimestampMonotonic=2020000
GeneratorsFinishTimestampMonotonic=2027500
UnitsLoadStartTimestampMonotonic=2027500
UnitsLoadFinishTimestampMonotonic=2046500
WatchdogLastPingTimestampMonotonic=18446744073709551615
ActiveEnterTimestampMonotonic=2273000
`
	want := booted{
		generators: 7500 * time.Microsecond, loading: 19 * time.Millisecond,
		target: 273 * time.Millisecond, jobs: 480 * time.Millisecond,
	}
	got, err := readBoot(told)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(booted{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, text := range map[string]string{
		"a target that was never reached": strings.Replace(told, "ActiveEnterTimestampMonotonic=2273000", "ActiveEnterTimestampMonotonic=0", 1),
		"a boot that is not over":         strings.Replace(told, "FinishTimestampMonotonic=2480000\n", "", 1),
		"no number":                       strings.Replace(told, "=2020000", "=soon", 1),
	} {
		if got, err := readBoot(text); err == nil {
			t.Errorf("%s is read as %v", name, got)
		}
	}
}

func TestInChain(t *testing.T) {
	t.Parallel()
	const chain = `The time when unit became active or started is printed after the "@" character.
The time the unit took to start is printed after the "+" character.

multi-user.target @277ms
└─redis-server.service @156ms +119ms
  └─basic.target @150ms
`
	for _, c := range []struct {
		name, chain string
		want        []string
	}{
		{"others alone", chain, nil},
		{"the target and a worker", chain + "    └─gpuherd.target @140ms\n      └─redis-worker@0.service @100ms +40ms\n", []string{"gpuherd.target", "redis-worker@0.service"}},
		{"setup", chain + "    └─shared-setup.service @100ms +40ms\n", []string{"shared-setup.service"}},
	} {
		if diff := cmp.Diff(c.want, inChain(c.chain)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
