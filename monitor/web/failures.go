package web

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"gpuherd/monitor/state"
)

// failures counts how units failed. It counts events, so it also has the unit
// that failed and ran again between two scrapes.
type failures struct {
	mu    sync.Mutex
	units map[string]*tally
}

// A tally is the failures of one unit.
type tally struct {
	labels  []string
	results map[string]uint64
}

// expected are the results that each unit has a counter of from the beginning:
// Prometheus sees no increase in a counter that was not there before.
var expected = []string{"exit-code", "signal", "oom-kill", "watchdog"}

var unitFailures = describe("unit_failures_total",
	"Times that the unit failed since the monitor started, by systemd's result: exit-code, signal, oom-kill, watchdog, …", with(unitLabels, "result")...)

func newFailures() *failures { return &failures{units: map[string]*tally{}} }

// push takes a Delta.
func (f *failures) push(d state.Delta) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range d.Gone {
		delete(f.units, name)
	}
	for _, u := range d.Units {
		f.tally(u)
	}
	for _, e := range d.Events {
		if u, ok := e.Data.(*state.UnitEvent); ok && e.Type == state.TypeUnit && u.Event == state.Failed {
			f.tally(u.Unit).results[u.Result]++
		}
	}
}

func (f *failures) tally(u state.Unit) *tally {
	t := f.units[u.Name]
	if t == nil {
		t = &tally{labels: labels(u), results: make(map[string]uint64, len(expected))}
		for _, result := range expected {
			t.results[result] = 0
		}
		f.units[u.Name] = t
	}
	return t
}

// Describe sends the one metric.
func (f *failures) Describe(out chan<- *prometheus.Desc) { out <- unitFailures }

// Collect sends the values. The lock is held for no longer than it takes to
// copy them: push must not wait for a scrape.
func (f *failures) Collect(out chan<- prometheus.Metric) {
	type count struct {
		labels []string
		result string
		n      uint64
	}
	f.mu.Lock()
	counts := make([]count, 0, len(f.units)*len(expected))
	for _, t := range f.units {
		for result, n := range t.results {
			counts = append(counts, count{t.labels, result, n})
		}
	}
	f.mu.Unlock()
	for _, c := range counts {
		out <- prometheus.MustNewConstMetric(unitFailures, prometheus.CounterValue, float64(c.n), with(c.labels, c.result)...)
	}
}
