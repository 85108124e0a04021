package redisworker

import (
	"slices"
	"strconv"
	"testing"
)

// TestComfyUIWithoutWebsocket: it is dead, or breaks again and again.
func TestComfyUIWithoutWebsocket(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	r := begin(t, e, Attempt{ID: "j", Payload: held(2)})
	eventually(t, "running", at(t, e, "j", running))
	srv.DropSockets()
	eventually(t, "a new websocket", func() bool { return srv.Requests("GET /ws") > 1 && srv.Sockets() == 1 })
	srv.Release(1)
	eventually(t, "progress", func() bool { return len(r.told()) > 0 })
	srv.Mute(true)
	srv.Release(1)
	if o := <-r.done; o.Verdict != Succeeded {
		t.Errorf("outcome %+v", o)
	}
	if o := e.Run(t.Context(), Attempt{ID: "k", Payload: loader}, func(s string) { t.Errorf("progress %s", s) }); o.Verdict != Succeeded {
		t.Errorf("outcome %+v", o)
	}
}

func TestComfyUIProgress(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	r := begin(t, e, Attempt{ID: "j", Payload: held(20)})
	eventually(t, "running", at(t, e, "j", running))
	srv.Release(10)
	eventually(t, "half of one of two nodes", func() bool { return slices.Contains(r.told(), "25") })
	srv.Release(10)
	if o := <-r.done; o.Verdict != Succeeded {
		t.Fatalf("outcome %+v", o)
	}
	last := 0
	for _, s := range r.told() {
		n, err := strconv.Atoi(s)
		if err != nil || n <= last || n > 99 {
			t.Errorf("%q after %d", s, last)
		}
		last = n
	}
}

func TestTracker(t *testing.T) {
	t.Parallel()
	track := newTracker(&prompt{id: "p", nodes: []string{"1", "2", "3", "4"}})
	for _, tt := range []struct {
		message string
		percent int
		over    bool
	}{
		{`{"type":"status","data":{"status":{"exec_info":{"queue_remaining":1}},"sid":"p"}}`, 0, false},
		{`{"type":"execution_start","data":{"prompt_id":"p","timestamp":1}}`, 0, false},
		{`{"type":"execution_cached","data":{"nodes":["1","9"],"prompt_id":"p"}}`, 25, false},
		{`{"type":"execution_cached","data":{"nodes":["2","3"],"prompt_id":"other"}}`, 0, false},
		{`{"type":"executing","data":{"node":"2","display_node":"2","prompt_id":"p"}}`, 0, false},
		{`{"type":"progress","data":{"value":5,"max":10,"prompt_id":"p","node":"2"}}`, 37, false},
		{`{"type":"progress","data":{"value":4,"max":10,"prompt_id":"p","node":"2"}}`, 0, false}, // a second pass
		{`{"type":"progress","data":{"value":99,"max":0,"prompt_id":"p","node":"2"}}`, 0, false},
		{`{"type":"progress_state","data":{"prompt_id":"p","nodes":{"2":{"value":8,"max":10,"state":"running"},"2.0.1":{"value":1,"max":1,"state":"finished"}}}}`, 45, false},
		{`{"type":"executing","data":{"node":"3","prompt_id":"p"}}`, 50, false},
		{`{"type":"executing","data":{"node":"3"}}`, 75, false}, // after a new connection
		{`{"type":"executed","data":{"node":"3","output":{"images":[]},"prompt_id":"p"}}`, 0, false},
		{`{"type":"progress_state","data":{"prompt_id":"p","nodes":{"4":{"value":1,"max":1,"state":"finished"}}}}`, 99, false},
		{`{"type":"execution_success","data":{"prompt_id":"p"}}`, 0, true},
		{`{"type":"executing","data":{"node":null,"prompt_id":"p"}}`, 0, true},
		{`{"type":"execution_error","data":{"prompt_id":"other"}}`, 0, false},
		{`{"type":"execution_interrupted","data":{"prompt_id":"p"}}`, 0, true},
		{`{"type":7}`, 0, false},
		{`no JSON`, 0, false},
	} {
		if percent, over := track.message([]byte(tt.message)); percent != tt.percent || over != tt.over {
			t.Errorf("%s: %d, %v, want %d, %v", tt.message, percent, over, tt.percent, tt.over)
		}
	}
}
