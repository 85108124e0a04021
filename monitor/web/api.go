package web

import (
	"net/http"

	"gpuherd/monitor/state"
)

// About says who answers.
type About struct {
	Host    string  `json:"host"` // as in Redis
	Version string  `json:"version"`
	BootID  string  `json:"boot_id"`
	Epoch   uint64  `json:"epoch"`  // count of the monitor's starts
	Uptime  float64 `json:"uptime"` // of the host, seconds
}

// host is the answer of /api/v1/host.
type host struct {
	About
	Seq    uint64    `json:"seq"`
	Ready  bool      `json:"ready"`
	Checks []checked `json:"checks"`
	Units  struct {
		Total  int `json:"total"`
		Active int `json:"active"`
		Failed int `json:"failed"`
	} `json:"units"`
	GPUs int `json:"gpus"`
}

type checked struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// units is the answer of /api/v1/units.
type units struct {
	Seq   uint64 `json:"seq"`
	Units []unit `json:"units"`
}

type unit struct {
	state.Unit
	Resources any `json:"resources"` // a resources.Usage or unavailable
}

// unavailable says that there are no figures of a unit.
type unavailable struct {
	Cgroup string `json:"cgroup"` // "none"
	Reason string `json:"reason"`
}

// gpus is the answer of /api/v1/gpus.
type gpus struct {
	Seq  uint64      `json:"seq"`
	GPUs []state.GPU `json:"gpus"`
}

func (s *Server) api(mux *http.ServeMux, a access) {
	mux.HandleFunc("GET /api/v1/host", a.guard(s.host))
	mux.HandleFunc("GET /api/v1/units", a.guard(s.units))
	mux.HandleFunc("GET /api/v1/gpus", a.guard(func(w http.ResponseWriter, _ *http.Request) {
		v := s.Feed.View()
		answer(w, http.StatusOK, gpus{v.Seq, list(v.GPUs)})
	}))
	mux.HandleFunc("GET /api/v1/events", a.guard(s.events))
	mux.HandleFunc("GET /api/v1/jobs", a.guard(s.jobs))
	mux.HandleFunc("GET /api/v1/hosts", a.guard(s.hosts))
}

func (s *Server) host(w http.ResponseWriter, _ *http.Request) {
	v := s.Feed.View()
	h := host{About: s.About(), Seq: v.Seq, Ready: true, GPUs: len(v.GPUs)}
	for _, c := range s.Checks {
		one := checked{Name: c.Name, OK: true}
		if err := c.Ready(); err != nil {
			one.OK, one.Reason, h.Ready = false, err.Error(), false
		}
		h.Checks = append(h.Checks, one)
	}
	h.Units.Total = len(v.Units)
	for _, u := range v.Units {
		switch u.Active {
		case "active":
			h.Units.Active++
		case "failed":
			h.Units.Failed++
		}
	}
	answer(w, http.StatusOK, h)
}

func (s *Server) units(w http.ResponseWriter, _ *http.Request) {
	v, samples := s.Feed.View(), s.Samples()
	all := units{Seq: v.Seq, Units: make([]unit, 0, len(v.Units))}
	for _, u := range v.Units {
		one := unit{Unit: u}
		switch sample, ok := samples[u.Name]; {
		case !ok:
			one.Resources = unavailable{"none", "not looked at yet"}
		case sample.Err != nil:
			one.Resources = unavailable{"none", sample.Err.Error()}
		default:
			one.Resources = sample.Usage
		}
		all.Units = append(all.Units, one)
	}
	answer(w, http.StatusOK, all)
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	body := encode(v)
	headers(w, "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// fail answers an error as JSON.
func fail(w http.ResponseWriter, status int, text string) {
	answer(w, status, struct {
		Error string `json:"error"`
	}{text})
}

// headers are those of every answer: it holds only for the moment.
func headers(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
