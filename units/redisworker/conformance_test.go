package redisworker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/redisworker/comfytest"
)

// A driver makes an executor, and a payload that has it do something.
type driver func(t *testing.T, kind string) (e Executor, payload []byte, begun func())

var drivers = map[string]driver{"exec": execDriver, "http": httpDriver, "comfyui": comfyDriver}

func execDriver(_ *testing.T, kind string) (Executor, []byte, func()) {
	script := map[string]string{
		"succeed":  `echo fine`,
		"progress": `echo 50 >&4; echo fine`,
		"fail":     `echo oops >&2; exit 1`,
		"refuse":   `echo oops >&2; exit 65`,
		"big":      `head -c 262145 /dev/zero >&3`,
		"hang":     `echo 1 >&4; exec sleep 600`,
		"die":      `echo 1 >&4; kill -KILL $$`,
	}[kind]
	if kind == "absent" {
		return &Exec{Argv: []string{"/nonexistent/job"}, Output: &lines{}}, []byte("{}"), func() {}
	}
	e, _ := shell(script)
	return e, []byte("{}"), func() {}
}

func httpDriver(t *testing.T, kind string) (Executor, []byte, func()) {
	// A stream is held until the test ends, or the client is gone.
	stream := func(lines string, then func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", streamType)
			fmt.Fprint(w, lines)
			w.(http.Flusher).Flush()
			then(w, r)
		}
	}
	handler := map[string]http.HandlerFunc{
		"succeed":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") },
		"progress": stream(`{"progress":50}`+"\n", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"result":"fine"}`) }),
		"fail":     func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", http.StatusInternalServerError) },
		"refuse":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", http.StatusUnprocessableEntity) },
		"big":      func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, queue.MaxPayload+1)) },
		"hang":     stream(`{"progress":1}`+"\n", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		"die":      stream(`{"progress":1}`+"\n", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		"absent":   nil,
	}[kind]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The server notices that a client is gone once it has its request.
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		if err := json.NewDecoder(r.Body).Decode(new(any)); err != nil {
			t.Errorf("payload: %v", err)
		}
		handler(w, r)
	}))
	t.Cleanup(srv.Close)
	if kind == "absent" {
		srv.Close()
	}
	e, err := NewHTTP(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return e, []byte("{}"), func() {}
}

// flow writes a workflow of one node, its image saved.
func flow(class string, inputs map[string]any) []byte {
	data, err := json.Marshal(map[string]any{
		"1": map[string]any{"class_type": class, "inputs": inputs},
		"2": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{"1", 0}, "filename_prefix": "fine"}},
	})
	if err != nil {
		panic(err)
	}
	return data
}

func comfy(t *testing.T, srv *comfytest.Server) *ComfyUI {
	t.Helper()
	e, err := NewComfyUI(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func comfyDriver(t *testing.T, kind string) (Executor, []byte, func()) {
	srv := comfytest.New(t)
	if kind != "absent" {
		srv.Start()
	}
	begun := func() {}
	payload := map[string][]byte{
		"succeed":  flow("CheckpointLoaderSimple", map[string]any{"ckpt_name": "sdxl.safetensors"}),
		"absent":   flow("CheckpointLoaderSimple", map[string]any{"ckpt_name": "sdxl.safetensors"}),
		"progress": flow("KSampler", map[string]any{"model": "m", "seed": 1, "steps": 4}),
		"fail":     flow("TestFail", map[string]any{"type": "RuntimeError", "message": "oops"}),
		"refuse":   flow("CheckpointLoaderSimple", map[string]any{"ckpt_name": "oops"}),
		"big":      flow("TestText", map[string]any{"bytes": queue.MaxPayload}),
		"hang":     flow("TestHold", map[string]any{"steps": 2}),
		"die":      flow("TestHold", map[string]any{"steps": 2}),
	}[kind]
	if kind == "hang" || kind == "die" {
		srv.Release(1)
	}
	if kind == "die" {
		begun = srv.Kill
	}
	return comfy(t, srv), payload, begun
}

// TestExecutorConformance runs the same table over all executors.
func TestExecutorConformance(t *testing.T) {
	t.Parallel()
	const most = queue.MaxPayload
	tests := map[string]struct {
		kind    string
		id      string
		timeout time.Duration
		cause   error // to stop it with, once it is at work
		want    []Verdict
		says    string // the error, or the result
		stderr  string
	}{
		"succeeds":            {kind: "succeed", want: []Verdict{Succeeded}, says: "fine"},
		"odd id":              {kind: "succeed", id: "a/../é: %2F 'x' " + strings.Repeat("y", 200), want: []Verdict{Succeeded}, says: "fine"},
		"within its time-out": {kind: "succeed", timeout: time.Minute, want: []Verdict{Succeeded}, says: "fine"},
		"progress":            {kind: "progress", want: []Verdict{Succeeded}, says: "fine"},
		"fails":               {kind: "fail", want: []Verdict{Failed}, says: "oops", stderr: "oops"},
		"permanent":           {kind: "refuse", want: []Verdict{Permanent}, says: "oops", stderr: "oops"},
		"result too big":      {kind: "big", want: []Verdict{Permanent}, says: fmt.Sprintf("result is above %d bytes", most)},
		"times out":           {kind: "hang", timeout: 700 * time.Millisecond, want: []Verdict{Failed}, says: "timed out after 700ms"},
		"stopped":             {kind: "hang", cause: context.Canceled, want: []Verdict{Stopped}, says: "stopped"},
		"stopped at once":     {kind: "hang", cause: ErrNow, want: []Verdict{Stopped}, says: "stopped"},
		"dies with its job":   {kind: "die", want: []Verdict{Failed}, says: " "},
		"is not there":        {kind: "absent", want: []Verdict{Unable, Unready}, says: " "},
	}
	for name, start := range drivers {
		for what, tt := range tests {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				e, payload, begun := start(t, tt.kind)
				if err := e.Check(t.Context()); (err != nil) != (tt.kind == "absent") {
					t.Errorf("Check: %v", err)
				}
				a := Attempt{ID: tt.id, Payload: payload, Number: 1, MaxAttempts: 3, Timeout: tt.timeout, Trace: "t"}
				if a.ID == "" {
					a.ID = "job-1"
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var mu sync.Mutex
				var told []string
				o := e.Run(ctx, a, func(s string) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, s)
					if len(told) == 1 {
						begun()
						if tt.cause != nil {
							cancel(tt.cause)
						}
					}
				})
				mu.Lock() // nothing may come any more
				defer mu.Unlock()
				if !slices.Contains(tt.want, o.Verdict) || o.Leftover || o.Delay != 0 {
					t.Errorf("outcome %+v, want verdict of %v", o, tt.want)
				}
				got := o.Error
				if o.Verdict == Succeeded {
					got = string(o.Result)
				}
				if !strings.Contains(got, tt.says) || o.Verdict != Succeeded && o.Result != nil || o.Verdict == Succeeded && o.Error != "" {
					t.Errorf("outcome %+v does not say %q", o, tt.says)
				}
				if !strings.Contains(o.Stderr, tt.stderr) {
					t.Errorf("stderr %q", o.Stderr)
				}
				if tt.kind == "progress" && len(told) == 0 {
					t.Error("no progress")
				}
				for _, s := range told {
					if !json.Valid([]byte(s)) {
						t.Errorf("progress %q is no number", s)
					}
				}
			})
		}
	}
}
