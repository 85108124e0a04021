package web

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"gpuherd/monitor/resources"
)

var (
	unitMeasured  = describe("unit_resources_available", "1 if the unit's control group could be read when it was looked at last, else 0.", unitLabels...)
	unitTasks     = describe("unit_tasks", "Processes and threads in the unit's control group (pids.current).", unitLabels...)
	unitOOMKills  = describe("unit_oom_kills_total", "Processes of this invocation of the unit that the kernel killed for want of memory.", unitLabels...)
	unitLimitHits = describe("unit_memory_limit_hits_total", "Times that this invocation of the unit was held at its memory limit.", unitLabels...)
	unitStalled   = describe("unit_pressure_stalled_seconds_total",
		"Time that tasks of this invocation of the unit waited for a resource: some, or full where all did.", with(unitLabels, "resource", "level")...)

	eventClients = describe("http_event_clients", "Clients that follow /api/v1/events.")
	eventEvicted = describe("http_event_clients_evicted_total", "Clients of /api/v1/events that were sent away since they did not keep up.")
)

// usage collects what the Sampler read last, and the clients of the Feed.
type usage struct{ Sources }

// Describe sends the metrics that there always are.
func (c usage) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{unitMeasured, unitTasks, unitOOMKills, unitLimitHits, unitStalled, eventClients, eventEvicted} {
		out <- d
	}
}

// Collect sends the values.
func (c usage) Collect(out chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	f := c.Feed()
	send(eventClients, prometheus.GaugeValue, float64(f.Clients))
	send(eventEvicted, prometheus.CounterValue, float64(f.Evicted))
	samples := c.Samples()
	for _, u := range c.Units() {
		sample, ok := samples[u.Name]
		if !ok {
			continue
		}
		labels := labels(u)
		send(unitMeasured, prometheus.GaugeValue, number(sample.Err == nil), labels...)
		if sample.Tasks != nil {
			send(unitTasks, prometheus.GaugeValue, float64(*sample.Tasks), labels...)
		}
		if sample.OOMKills != nil {
			send(unitOOMKills, prometheus.CounterValue, float64(*sample.OOMKills), labels...)
		}
		if sample.LimitHits != nil {
			send(unitLimitHits, prometheus.CounterValue, float64(*sample.LimitHits), labels...)
		}
		for _, p := range []struct {
			resource string
			stalls   *resources.Stalls
		}{{"memory", sample.Pressure.Memory}, {"cpu", sample.Pressure.CPU}, {"io", sample.Pressure.IO}} {
			if p.stalls == nil {
				continue
			}
			send(unitStalled, prometheus.CounterValue, seconds(p.stalls.Some), with(labels, p.resource, "some")...)
			send(unitStalled, prometheus.CounterValue, seconds(p.stalls.Full), with(labels, p.resource, "full")...)
		}
	}
}

func seconds(s resources.Stall) float64 { return float64(s.TotalUS) / 1e6 }

// with returns labels and more of them.
func with(labels []string, more ...string) []string {
	return slices.Concat(labels, more)
}
