package web

import (
	"context"
	"errors"
	"net/http"

	"gpuherd/monitor/fleet"
	"gpuherd/monitor/state"
)

// fleetHosts is the most hosts that are read for /api/v1/hosts: those silent
// for longest are left out.
const fleetHosts = 5000

// A Fleet is what is read out of Redis for those who ask, and shared between
// them.
type Fleet struct {
	hosts *fleet.Shared[fleet.Fleet]
	queue *fleet.Shared[fleet.Queue]
}

// NewFleet returns the Fleet that r reads, with the figures of the queue name.
func NewFleet(r *fleet.Reader, name string) *Fleet {
	return &Fleet{
		hosts: fleet.NewShared(func(ctx context.Context) (fleet.Fleet, error) {
			l, err := r.List(ctx, fleetHosts)
			if err != nil {
				return fleet.Fleet{}, err
			}
			f, err := r.Read(ctx, l)
			if err != nil {
				return fleet.Fleet{}, err
			}
			r.AddQueue(ctx, &f, name)
			return f, nil
		}),
		queue: fleet.NewShared(func(ctx context.Context) (fleet.Queue, error) { return r.Queue(ctx, name) }),
	}
}

// jobs is the answer of /api/v1/jobs.
type jobs struct {
	Seq        uint64       `json:"seq"`
	Jobs       []job        `json:"jobs"` // in hand of this host's units
	Queue      *fleet.Queue `json:"queue,omitempty"`
	QueueError string       `json:"queue_error,omitempty"` // why there is no Queue
}

type job struct {
	ID         string `json:"id"`
	Unit       string `json:"unit"`
	GPU        *int   `json:"gpu,omitempty"`
	StatusText string `json:"status_text"`
}

func jobsOf(units []state.Unit) []job {
	all := []job{}
	for _, u := range units {
		if u.Job != "" {
			all = append(all, job{u.Job, u.Name, u.GPU, u.StatusText})
		}
	}
	return all
}

func (s *Server) jobs(w http.ResponseWriter, r *http.Request) {
	q, err := s.Fleet.queue.Get(r.Context())
	v := s.Feed.View()
	a := jobs{Seq: v.Seq, Jobs: jobsOf(v.Units)}
	if err != nil {
		a.QueueError = err.Error()
	} else {
		a.Queue = &q
	}
	answer(w, http.StatusOK, a)
}

func (s *Server) hosts(w http.ResponseWriter, r *http.Request) {
	f, err := s.Fleet.hosts.Get(r.Context())
	switch {
	case errors.Is(err, context.Canceled): // the client has gone
	case err != nil:
		w.Header().Set("Retry-After", "2")
		fail(w, http.StatusServiceUnavailable, err.Error())
	default:
		answer(w, http.StatusOK, f)
	}
}
