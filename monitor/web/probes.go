package web

import (
	"net/http"
)

// A Check is one thing that the monitor needs.
type Check struct {
	Name  string
	Ready func() error // nil while it is as it should be
}

// probe answers a line for each check, and 503 where one fails. Why it fails is
// for those who are trusted.
func probe(a access, checks ...Check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, body := http.StatusOK, ""
		for _, c := range checks {
			line := "ok"
			if err := c.Ready(); err != nil {
				status, line = http.StatusServiceUnavailable, "failing"
				if a.trusts(r) {
					line = err.Error()
				}
			}
			body += c.Name + ": " + line + "\n"
		}
		headers(w, "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// A Machine answers in the form of the PM2 machine: a machinestatus.Publisher.
type Machine interface {
	// Health returns what /health answers. brief is for those who are not
	// trusted.
	Health() (healthy bool, brief, full any)
	// Ready returns what /ready answers.
	Ready() (ready bool, body any)
	// Status returns what /status answers.
	Status() any
}

func (s *Server) machine(mux *http.ServeMux, a access) {
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		healthy, brief, full := s.Machine.Health()
		if !a.trusts(r) {
			full = brief
		}
		answer(w, ok(healthy), full)
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		ready, body := s.Machine.Ready()
		answer(w, ok(ready), body)
	})
	mux.HandleFunc("GET /status", a.guard(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.Machine.Status())
	}))
}

func ok(well bool) int {
	if well {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}
