package web

import (
	"github.com/prometheus/client_golang/prometheus"

	"gpuherd/monitor/state"
)

// failures counts how units failed. It counts events, so it also has the unit
// that failed and ran again between two scrapes. Its push is never called
// concurrently: a Herd's sink is not.
type failures struct {
	*prometheus.CounterVec
	known map[string]bool
}

// expected are the results that each unit has a counter of from the beginning:
// Prometheus sees no increase in a counter that was not there before.
var expected = []string{"exit-code", "signal", "oom-kill", "watchdog"}

func newFailures() *failures {
	return &failures{known: map[string]bool{}, CounterVec: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gpuherd_unit_failures_total",
		Help: "Times that the unit failed since the monitor started, by systemd's result: exit-code, signal, oom-kill, watchdog, …",
	}, with(unitLabels, "result"))}
}

// push takes a Delta.
func (f *failures) push(d state.Delta) {
	for _, name := range d.Gone {
		delete(f.known, name)
		f.DeletePartialMatch(prometheus.Labels{"unit": name})
	}
	for _, u := range d.Units {
		if f.known[u.Name] {
			continue
		}
		f.known[u.Name] = true
		for _, result := range expected {
			f.WithLabelValues(with(labels(u), result)...)
		}
	}
	for _, e := range d.Events {
		if u, ok := e.Data.(*state.UnitEvent); ok && e.Type == state.TypeUnit && u.Event == state.Failed {
			f.WithLabelValues(with(labels(u.Unit), u.Result)...).Inc()
		}
	}
}
