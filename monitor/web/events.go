package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"gpuherd/monitor/state"
)

// The kinds of server-sent events, see gpuherd-api(7).
const (
	sseSnapshot = "snapshot" // all units and GPUs; once in each connection
	sseEvent    = "event"    // one event, as Redis has it
	sseUpdate   = "update"   // units and GPUs that are not as they were told
)

// retryMS is how long a client waits before it comes back.
const retryMS = 1000

// A snapshot is the data of the kind sseSnapshot.
type snapshot struct {
	BootID string       `json:"boot_id"`
	Epoch  uint64       `json:"epoch"`
	Seq    uint64       `json:"seq"`
	Reason string       `json:"reason"` // "new", "resumed", "lost"
	Units  []state.Unit `json:"units"`
	GPUs   []state.GPU  `json:"gpus"`
}

// An event is the data of the kind sseEvent: what the channel in Redis has.
type event struct {
	BootID string `json:"boot_id"`
	Epoch  uint64 `json:"epoch"`
	Seq    uint64 `json:"seq"`
	AtUS   int64  `json:"at_us"`
	Type   string `json:"type"`
	Data   any    `json:"data"`
}

// An update is the data of the kind sseUpdate. GPUs are all of them, where one
// changed.
type update struct {
	Units []state.Unit `json:"units,omitempty"`
	Gone  []string     `json:"gone,omitempty"`
	GPUs  *[]state.GPU `json:"gpus,omitempty"`
}

// events serves the Feed as server-sent events. A client that does not keep up
// is sent away: it comes back with the id of the last event that it has.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	bounds := s.bounds()
	reader := s.Feed.join(r.Header.Get("Last-Event-ID"), bounds.streams)
	if reader == nil {
		w.Header().Set("Retry-After", "10")
		fail(w, http.StatusServiceUnavailable, "too many clients follow the events")
		return
	}
	defer reader.close()
	control := http.NewResponseController(w)
	// The server's own time limits are meant for an answer that ends.
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		fail(w, http.StatusInternalServerError, "no server-sent events over this connection")
		return
	}
	headers(w, "text/event-stream; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect them
	if r.Method == http.MethodHead {
		return
	}
	send := func(data []byte) error {
		err := control.SetWriteDeadline(time.Now().Add(bounds.eventWrite))
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = control.Flush()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			reader.evict()
		}
		return err
	}
	beat := time.NewTicker(bounds.beat)
	defer beat.Stop()
	if send(fmt.Appendf(nil, "retry: %d\n\n", retryMS)) != nil {
		return
	}
	var buf bytes.Buffer
	for {
		b, err := reader.take()
		if err != nil {
			s.Log.Debug("a client of /api/v1/events is sent away", "client", r.RemoteAddr, "reason", err)
			return
		}
		if !b.empty() {
			buf.Reset()
			s.write(&buf, b)
			if send(buf.Bytes()) != nil {
				return
			}
			continue
		}
		select {
		case <-r.Context().Done():
			return
		case <-reader.wake:
		case <-beat.C:
			// Tells proxies that the connection is used, and us whether it is.
			if send([]byte(":\n\n")) != nil {
				return
			}
		}
	}
}

// write appends a batch as server-sent events.
func (s *Server) write(buf *bytes.Buffer, b batch) {
	about := s.About()
	for _, e := range b.events {
		sse(buf, sseEvent, s.Feed.id(e.Seq), event{about.BootID, about.Epoch, e.Seq, e.AtUS, e.Type, e.Data})
	}
	switch {
	case b.snapshot != "":
		sse(buf, sseSnapshot, s.Feed.id(b.seq), snapshot{about.BootID, about.Epoch, b.seq, b.snapshot, list(b.units), list(b.gpus)})
	case len(b.units)+len(b.gone) > 0 || b.gpusSet:
		u := update{Units: b.units, Gone: b.gone}
		if b.gpusSet {
			all := list(b.gpus)
			u.GPUs = &all
		}
		sse(buf, sseUpdate, "", u)
	}
}

// sse appends one server-sent event. JSON has no line breaks of its own.
func sse(buf *bytes.Buffer, kind, id string, data any) {
	if id != "" {
		buf.WriteString("id: " + id + "\n")
	}
	buf.WriteString("event: " + kind + "\ndata: ")
	buf.Write(encode(data))
	buf.WriteString("\n\n")
}

// encode returns the JSON of one of our own types, which always have one.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("web: no JSON of %T: %v", v, err))
	}
	return data
}

// list returns l with an empty list for nil, so that JSON has [] and not null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
