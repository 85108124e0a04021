package machinestatus

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gpuherd/monitor/state"
)

// quiet is how long nothing may happen, and nothing be starting, before units
// that nobody started count as not meant to be.
const quiet = 10 * time.Second

// timeFormat is that of JavaScript's toISOString.
const timeFormat = "2006-01-02T15:04:05.000Z"

// maxWaiting bounds the startup events that wait for Redis.
const maxWaiting = 1024

// A machine is the herd in the form of the PM2 machine: Deltas go in, and
// startup events and the status come out. It does no I/O and asks no clock.
type machine struct {
	cfg Config

	units map[string]*member
	gpus  []state.GPU

	phase   string // "": nothing is known yet
	began   time.Time
	changed time.Time // when a unit last changed
	steps   int
	failed  bool // startup_failed was told

	waiting []startupEvent // to be published
	taken   int            // startup events that do not wait any more
	ready   bool           // updateReady is to be published
}

// A member is a unit of the herd, without the monitor's own.
type member struct {
	unit         state.Unit
	lastActivity int64           // unix ms; 0: never started
	told         map[string]bool // steps told of it
}

func newMachine(cfg Config) *machine { return &machine{cfg: cfg, units: map[string]*member{}} }

// apply takes a Delta. It reports whether the status is another now.
func (m *machine) apply(d state.Delta, now time.Time) bool {
	changed := false
	if d.Reset || d.GPUsChanged {
		changed = !slices.EqualFunc(m.gpus, d.GPUs, func(a, b state.GPU) bool { return a.UUID == b.UUID && a.Name == b.Name && a.Index == b.Index })
		m.gpus = d.GPUs
	}
	gone := d.Gone
	if d.Reset {
		present := map[string]bool{}
		for _, u := range d.Units {
			present[u.Name] = true
		}
		for name := range m.units {
			if !present[name] {
				gone = append(gone, name)
			}
		}
	}
	for _, name := range gone {
		if m.units[name] != nil {
			delete(m.units, name)
			changed = true
		}
	}
	for _, u := range d.Units {
		changed = m.unit(u, now) || changed
	}
	if m.phase == "" && len(d.Units) > 0 {
		m.begin(now)
		return true
	}
	if changed {
		m.changed = now
	}
	m.progress(now)
	return changed
}

// unit takes one unit as it is now, and reports whether that shows.
func (m *machine) unit(u state.Unit, now time.Time) bool {
	if u.Name == m.cfg.Self {
		return false
	}
	e := m.units[u.Name]
	if e == nil {
		e = &member{unit: u, told: map[string]bool{}}
		if u.InvocationID != "" {
			e.lastActivity = u.SinceMS
		}
		m.units[u.Name] = e
		return true
	}
	before := e.unit
	e.unit = u
	if u.InvocationID == before.InvocationID && u.Active == before.Active && u.Sub == before.Sub && u.PID == before.PID &&
		u.Job == before.Job {
		return false // figures, or the progress of a job
	}
	e.lastActivity = now.UnixMilli()
	return true
}

// long is how long a unit has been up that did not come up just now, with the
// monitor.
const long = time.Minute

// begin decides, from the first that is known, whether the machine starts. If
// it is up already, only the monitor has been started.
func (m *machine) begin(now time.Time) {
	m.began, m.changed = now, now
	up := m.settled(now)
	for name, e := range m.units {
		up = up || name != setupUnit && running(e.unit) && now.Sub(time.UnixMilli(e.unit.SinceMS)) > long
	}
	if up && m.useful() {
		m.phase, m.ready = phaseReady, true
		return
	}
	m.phase = phaseStarting
	e := m.event(startupBegin, now)
	e.StartupTime = now.UnixMilli()
	m.send(e)
	m.progress(now)
}

// progress tells what the start has come to. Once the machine is ready there
// is nothing more to tell.
func (m *machine) progress(now time.Time) {
	if m.phase != phaseStarting {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(m.units)) {
		switch e := m.units[name]; {
		case running(e.unit):
			m.step(e, "service_started_", now)
		case failed(e.unit):
			m.step(e, "service_failed_", now)
		}
	}
	if !m.settled(now) {
		return
	}
	if m.useful() {
		m.phase, m.ready = phaseReady, true
		m.end(startupComplete, "", now)
		return
	}
	if m.failed {
		return
	}
	m.failed = true
	var down []string
	for _, name := range slices.Sorted(maps.Keys(m.units)) {
		if u := m.units[name].unit; !running(u) {
			down = append(down, fmt.Sprintf("%s is %s (%s)", pm2Name(u), pm2Status(u), u.Result))
		}
	}
	m.end(startupFailed, strings.Join(down, ", "), now)
}

func (m *machine) step(e *member, kind string, now time.Time) {
	if e.told[kind] {
		return
	}
	e.told[kind] = true
	m.steps++
	s := m.event(startupStep, now)
	s.StepName = kind + pm2Name(e.unit)
	s.ElapsedMS = now.Sub(m.began).Milliseconds()
	s.StepData = map[string]string{"service": pm2Name(e.unit), "unit": e.unit.Name}
	if failed(e.unit) {
		s.StepData["error"] = e.unit.Result
	}
	m.send(s)
}

func (m *machine) end(kind, why string, now time.Time) {
	e := m.event(kind, now)
	e.TotalStartupMS = now.Sub(m.began).Milliseconds()
	e.StepCount, e.Error = m.steps, why
	m.send(e)
}

// settled reports whether each unit has come up or failed to. Units that
// nobody started are waited for only as long as others come up.
func (m *machine) settled(now time.Time) bool {
	still := now.Sub(m.changed) < quiet
	for _, e := range m.units {
		if starting(e.unit) || e.unit.Active == "deactivating" || still && untouched(e.unit) {
			return false
		}
	}
	return true
}

// useful reports whether any unit runs but the setup, or there is no other.
func (m *machine) useful() bool {
	others := 0
	for name, e := range m.units {
		if name == setupUnit {
			continue
		}
		others++
		if running(e.unit) {
			return true
		}
	}
	return others == 0 && (m.units[setupUnit] == nil || running(m.units[setupUnit].unit))
}

// down reports whether nothing of the herd is up any more but the setup, which
// remains after its exit: then the monitor does not end alone.
func (m *machine) down() bool {
	for name, e := range m.units {
		if name != setupUnit && (running(e.unit) || starting(e.unit)) {
			return false
		}
	}
	return true
}

// shutdown tells that the machine goes.
func (m *machine) shutdown(now time.Time) {
	m.phase = phaseShutdown
	e := m.event(startupShutdown, now)
	e.Reason, e.UptimeMS = "gpuherd.target was stopped", m.cfg.Uptime().Milliseconds()
	m.send(e)
}

func (m *machine) send(e startupEvent) {
	if len(m.waiting) >= maxWaiting {
		m.take(m.taken)
	}
	m.waiting = append(m.waiting, e)
}

// take removes the startup event with a number, counted from 0, where it waits
// and is the first.
func (m *machine) take(number int) {
	if number == m.taken && len(m.waiting) > 0 {
		m.waiting = m.waiting[1:]
		m.taken++
	}
}

func (m *machine) event(kind string, now time.Time) startupEvent {
	c := machineConfig{MachineID: m.cfg.ID, Hostname: m.cfg.Hostname, GPUCount: len(m.gpus), Services: []string{}}
	if len(m.gpus) > 0 {
		c.GPUModel, c.GPUMemory = m.gpus[0].Name, (m.gpus[0].Memory+1<<29)>>30
	}
	for _, name := range slices.Sorted(maps.Keys(m.units)) {
		if s := m.units[name].unit.Service; !slices.Contains(c.Services, s) {
			c.Services = append(c.Services, s)
		}
	}
	return startupEvent{WorkerID: m.cfg.ID, MachineID: m.cfg.ID, EventType: kind, Timestamp: now.UTC().Format(timeFormat), MachineConfig: c}
}

// status returns the machine's status.
func (m *machine) status(update string, now time.Time) statusMessage {
	s := statusMessage{
		MachineID: m.cfg.ID, Timestamp: now.UnixMilli(), UpdateType: update,
		Structure: structure{GPUCount: len(m.gpus), Workers: map[string]workerPlace{}, Services: map[string]servicePlace{}},
		Status: status{
			Machine: machineStatus{Phase: m.phase, UptimeMS: m.cfg.Uptime().Milliseconds()},
			Workers: map[string]workerStatus{}, Services: map[string]serviceStatus{},
		},
	}
	beside := map[string][]string{} // services by WORKER_ID
	for _, name := range slices.Sorted(maps.Keys(m.units)) {
		u := m.units[name].unit
		if u.Service == workerService {
			continue
		}
		key, place := u.Service, servicePlace{ServiceType: u.Service, PM2Name: pm2Name(u)}
		if u.Instance != "" {
			place.WorkerID = m.workerID(u)
			key = place.WorkerID + "." + u.Service
			beside[place.WorkerID] = append(beside[place.WorkerID], u.Service)
		}
		s.Structure.Services[key] = place
		s.Status.Services[key] = service(u, place)
	}
	for _, e := range m.units {
		if e.unit.Service != workerService {
			continue
		}
		id := m.workerID(e.unit)
		s.Structure.Workers[id] = workerPlace{WorkerID: id, PM2Name: pm2Name(e.unit), GPUID: e.unit.GPU, Services: append([]string{}, beside[id]...)}
		s.Status.Workers[id] = worker(e.unit, e.lastActivity)
	}
	return s
}

// workerID is WORKER_ID of what runs in the unit.
func (m *machine) workerID(u state.Unit) string { return m.cfg.WorkerPrefix + "-gpu" + u.Instance }
