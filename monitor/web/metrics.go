package web

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gpuherd/monitor/bus"
	"gpuherd/monitor/gpuhealth"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/resources"
	"gpuherd/monitor/state"
)

// Sources are where the metrics come from. All are counters and states that
// exist anyway: a scrape asks nothing of D-Bus, cgroups or Redis.
type Sources struct {
	Version string
	Units   func() []state.Unit
	GPUs    func() []state.GPU
	XIDs    func() []gpuhealth.XIDErrors
	Bus     func() bus.Stats
	Relay   func() relay.Stats
	Samples func() map[string]resources.Sample
	Feed    func() FeedStats
}

// Metrics holds the monitor's own registry.
type Metrics struct {
	registry *prometheus.Registry
	write    prometheus.Histogram
	failures *failures
}

// NewMetrics returns the metrics of s.
func NewMetrics(s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		write: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gpuherd_redis_write_duration_seconds", Help: "Time that a write of events and states to Redis took.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .25, 1, 5},
		}),
	}
	m.failures = newFailures()
	m.registry.MustRegister(m.write, collector{s}, usage{s}, m.failures,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Push counts what a Delta tells. It is a sink of a state.Herd.
func (m *Metrics) Push(d state.Delta) { m.failures.push(d) }

// ObserveWrite takes how long a write to Redis took.
func (m *Metrics) ObserveWrite(seconds float64) { m.write.Observe(seconds) }

// Handler serves the metrics in Prometheus' format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Gatherer returns the registry.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gpuherd_"+name, help, labels, nil)
}

var (
	// Not instance: Prometheus has its own label of that name.
	unitLabels = []string{"unit", "service", "gpu"}

	buildInfo = describe("build_info", "Always 1; the version is a label.", "version")

	unitActive   = describe("unit_active", "1 while the unit is active, else 0.", unitLabels...)
	unitFailed   = describe("unit_failed", "1 while the unit has failed, else 0.", unitLabels...)
	unitRestarts = describe("unit_restarts_total", "Starts of the unit after the first in this boot.", unitLabels...)
	unitMemory   = describe("unit_memory_bytes", "Memory that the unit's control group uses (memory.current).", unitLabels...)
	unitPeak     = describe("unit_memory_peak_bytes", "Most memory that the unit's control group used (memory.peak).", unitLabels...)
	unitLimit    = describe("unit_memory_limit_bytes", "MemoryMax= of the unit.", unitLabels...)
	unitCPU      = describe("unit_cpu_seconds_total", "CPU time that this invocation of the unit used.", unitLabels...)

	gpuLabels = []string{"gpu", "uuid"}

	gpuHealthy     = describe("gpu_healthy", "1 while the GPU is healthy, 0 while it is unhealthy; absent while that is not known.", gpuLabels...)
	gpuTemperature = describe("gpu_temperature_celsius", "Temperature of the GPU.", gpuLabels...)
	gpuUtilisation = describe("gpu_utilisation_ratio", "Part of the last moments, 0 to 1, in which something ran on the GPU.", gpuLabels...)
	gpuXIDs        = describe("gpu_xid_errors_total", "XID errors of the GPU since the monitor started, those of applications included.", "gpu", "uuid", "xid")

	busSignals     = describe("bus_signals_total", "Signals read from D-Bus.")
	busChanges     = describe("bus_changes_total", "Changes of units read from D-Bus.")
	busDuplicates  = describe("bus_duplicates_total", "Signals that told nothing new.")
	busConnections = describe("bus_connections_total", "Connections made to D-Bus.")
	busResyncs     = describe("bus_resyncs_total", "Readings of the whole herd, by reason.", "reason")

	redisConnected = describe("redis_connected", "1 while Redis takes what is written, else 0.")
	redisFenced    = describe("redis_fenced", "1 if a newer monitor writes for this host, else 0.")
	redisPending   = describe("redis_pending_events", "Events that wait for Redis.")
	redisWritten   = describe("redis_events_written_total", "Events that Redis confirmed.")
	redisDropped   = describe("redis_events_dropped_total", "Events that no reader will see; a gap event tells their number.")
	redisBatches   = describe("redis_batches_total", "Writes that Redis confirmed.")
	redisErrors    = describe("redis_errors_total", "Failed calls of Redis, by reason.", "reason")
	epoch          = describe("monitor_epoch", "Count of the monitor's starts.")
)

// labels returns the values of unitLabels.
func labels(u state.Unit) []string {
	gpu := ""
	if u.GPU != nil {
		gpu = strconv.Itoa(*u.GPU)
	}
	return []string{u.Name, u.Service, gpu}
}

// A collector reads the sources at each scrape.
type collector struct{ Sources }

// Describe sends the metrics that there always are.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, unitActive, unitFailed, unitRestarts, unitMemory, unitPeak, unitLimit, unitCPU,
		gpuHealthy, gpuTemperature, gpuUtilisation, gpuXIDs,
		busSignals, busChanges, busDuplicates, busConnections, busResyncs,
		redisConnected, redisFenced, redisPending, redisWritten, redisDropped, redisBatches, redisErrors, epoch,
	} {
		out <- d
	}
}

// Collect sends the values.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(buildInfo, 1, c.Version)
	for _, u := range c.Units() {
		labels := labels(u)
		gauge(unitActive, number(u.Active == "active"), labels...)
		gauge(unitFailed, number(u.Active == "failed"), labels...)
		counter(unitRestarts, u.Restarts, labels...)
		for d, v := range map[*prometheus.Desc]*uint64{unitMemory: u.MemoryBytes, unitPeak: u.MemoryPeakBytes, unitLimit: u.MemoryMaxBytes} {
			if v != nil {
				gauge(d, float64(*v), labels...)
			}
		}
		if u.CPUNS != nil {
			out <- prometheus.MustNewConstMetric(unitCPU, prometheus.CounterValue, float64(*u.CPUNS)/1e9, labels...)
		}
	}
	for _, g := range c.GPUs() {
		labels := []string{strconv.Itoa(g.Index), g.UUID}
		if g.Health != state.HealthUnknown {
			gauge(gpuHealthy, number(g.Health == state.Healthy), labels...)
		}
		if g.Temperature != nil {
			gauge(gpuTemperature, float64(*g.Temperature), labels...)
		}
		if g.Utilisation != nil {
			gauge(gpuUtilisation, float64(*g.Utilisation)/100, labels...)
		}
	}
	for _, x := range c.XIDs() {
		counter(gpuXIDs, x.Count, strconv.Itoa(x.GPU), x.UUID, strconv.FormatUint(x.XID, 10))
	}
	b := c.Bus()
	counter(busSignals, b.Signals)
	counter(busChanges, b.Changes)
	counter(busDuplicates, b.Duplicates)
	counter(busConnections, b.Connections)
	for reason, n := range b.Resyncs {
		counter(busResyncs, n, reason)
	}
	r := c.Relay()
	gauge(redisConnected, number(r.Connected))
	gauge(redisFenced, number(r.Fenced))
	gauge(redisPending, float64(r.Pending))
	counter(redisWritten, r.Written)
	counter(redisDropped, r.Dropped)
	counter(redisBatches, r.Batches)
	for reason, n := range r.Errors {
		counter(redisErrors, n, reason)
	}
	gauge(epoch, float64(r.Epoch))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
