package machinestatus

import "maps"

// health is the answer of /health.
type health struct {
	Healthy  bool                     `json:"healthy"`
	Services map[string]serviceHealth `json:"services,omitempty"` // by PM2's name
	Uptime   int64                    `json:"uptime"`             // ms
}

type serviceHealth struct {
	Healthy  bool   `json:"healthy"`
	Status   string `json:"status,omitempty"` // in PM2's words
	PID      uint32 `json:"pid,omitempty"`
	Restarts uint64 `json:"restarts,omitempty"`
	Error    string `json:"error,omitempty"`
}

// redisHealth is the name of the entry that tells whether Redis is told.
const redisHealth = "status-aggregator"

// Health returns what /health answers: the machine is healthy while all of it
// runs and Redis is told. brief leaves out the units.
func (p *Publisher) Health() (healthy bool, brief, full any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := health{Healthy: p.machine.phase != "", Services: p.services(), Uptime: p.cfg.Uptime().Milliseconds()}
	redis := serviceHealth{Healthy: p.problem == nil}
	if p.problem != nil {
		redis.Error = p.problem.Error()
	}
	h.Services[redisHealth] = redis
	for s := range maps.Values(h.Services) {
		h.Healthy = h.Healthy && s.Healthy
	}
	return h.Healthy, health{Healthy: h.Healthy, Uptime: h.Uptime}, h
}

func (p *Publisher) services() map[string]serviceHealth {
	all := map[string]serviceHealth{}
	for _, e := range p.machine.units {
		u := e.unit
		all[pm2Name(u)] = serviceHealth{Healthy: running(u), Status: pm2Status(u), PID: u.PID, Restarts: u.Restarts}
	}
	return all
}

// Ready returns what /ready answers: whether the machine has started.
func (p *Publisher) Ready() (ready bool, body any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ready = p.machine.phase == phaseReady
	return ready, struct {
		Ready bool `json:"ready"`
	}{ready}
}

// Status returns what /status answers.
func (p *Publisher) Status() any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return struct {
		MachineID string                   `json:"machine_id"`
		Version   string                   `json:"version"`
		Phase     string                   `json:"phase"`
		Uptime    int64                    `json:"uptime"` // ms
		Services  map[string]serviceHealth `json:"services"`
	}{p.cfg.ID, p.cfg.Version, p.machine.phase, p.cfg.Uptime().Milliseconds(), p.services()}
}
