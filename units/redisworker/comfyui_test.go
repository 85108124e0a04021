package redisworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/units/redisworker/comfytest"
)

// jobID is a UUID, which is its prompt's ID too.
const jobID = "0b7c3b0e-5d3c-4f0e-9a54-0d7f3a1c2e11"

var loader = flow("CheckpointLoaderSimple", map[string]any{"ckpt_name": "sdxl.safetensors"})

// held takes that many released steps.
func held(steps int) []byte { return flow("TestHold", map[string]any{"steps": steps}) }

func comfyUp(t *testing.T) (*comfytest.Server, *ComfyUI) {
	t.Helper()
	srv := comfytest.New(t)
	srv.Start()
	return srv, comfy(t, srv)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

// running begins an attempt; outcome waits for its end.
type attempt struct {
	cancel  context.CancelCauseFunc
	done    chan Outcome
	mu      sync.Mutex
	percent []string
}

func begin(t *testing.T, e Executor, a Attempt) *attempt {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &attempt{cancel: cancel, done: make(chan Outcome, 1)}
	go func() {
		r.done <- e.Run(ctx, a, func(s string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.percent = append(r.percent, s)
		})
	}()
	return r
}

func (r *attempt) told() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.percent)
}

// post does what a worker does that is killed right after.
func post(t *testing.T, e *ComfyUI, id string, payload []byte) {
	t.Helper()
	p, err := newPrompt(Attempt{ID: id, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.post(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// find says where a job is.
func at(t *testing.T, e *ComfyUI, job string, want place) func() bool {
	t.Helper()
	return func() bool {
		s, err := e.find(t.Context(), promptID(job))
		if err != nil {
			t.Fatal(err)
		}
		return s.place == want
	}
}

func saved(id string) string {
	return fmt.Sprintf(`{"prompt_id":%q,"outputs":{"2":{"images":[{"filename":"fine_00001_.png","subfolder":"","type":"output"}]}}}`, id)
}

func TestComfyUIFailure(t *testing.T) {
	t.Parallel()
	_, e := comfyUp(t)
	fail := flow("TestFail", map[string]any{"type": "torch.OutOfMemoryError", "message": "Allocation on device\n  2.0 GiB"})
	o := e.Run(t.Context(), Attempt{ID: "job-1", Payload: fail}, func(string) {})
	want := Outcome{
		Verdict: Failed, Error: "TestFail (node 1): torch.OutOfMemoryError: Allocation on device   2.0 GiB",
		Stderr: "File \"/opt/ComfyUI/execution.py\", line 524, in execute\n  File \"/opt/ComfyUI/nodes.py\", line 1, in run\ntorch.OutOfMemoryError: Allocation on device\n  2.0 GiB",
	}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

// TestComfyUIAdopts: a worker was killed, and its successor has the same job.
func TestComfyUIAdopts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before  func(t *testing.T, srv *comfytest.Server, e *ComfyUI)
		payload []byte
		during  func(t *testing.T, srv *comfytest.Server, e *ComfyUI)
		posts   int // in all
		runs    int
	}{
		"what runs": {
			before: func(t *testing.T, _ *comfytest.Server, e *ComfyUI) {
				post(t, e, "j", held(1))
				eventually(t, "running", at(t, e, "j", running))
			},
			payload: held(1),
			during:  func(_ *testing.T, srv *comfytest.Server, _ *ComfyUI) { srv.Release(1) },
			posts:   1, runs: 1,
		},
		"what waits": {
			before: func(t *testing.T, _ *comfytest.Server, e *ComfyUI) {
				post(t, e, "stranger", held(2))
				post(t, e, "j", held(1))
			},
			payload: held(1),
			during:  func(_ *testing.T, srv *comfytest.Server, _ *ComfyUI) { srv.Release(3) },
			posts:   2, runs: 2,
		},
		"what has finished": {
			before: func(t *testing.T, _ *comfytest.Server, e *ComfyUI) {
				post(t, e, "j", loader)
				eventually(t, "finished", at(t, e, "j", ended))
			},
			payload: loader, posts: 1, runs: 1,
		},
		"not what failed": {
			before: func(t *testing.T, srv *comfytest.Server, e *ComfyUI) {
				post(t, e, "j", held(1))
				eventually(t, "running", at(t, e, "j", running))
				e.end(t.Context(), promptID("j"))
				eventually(t, "ended", at(t, e, "j", ended))
				srv.Release(1)
			},
			payload: held(1), posts: 2, runs: 2,
		},
		"not what its predecessor interrupts": {
			before: func(t *testing.T, _ *comfytest.Server, e *ComfyUI) {
				post(t, e, "j", held(1))
				eventually(t, "running", at(t, e, "j", running))
			},
			payload: held(1),
			during: func(t *testing.T, srv *comfytest.Server, e *ComfyUI) {
				// Not before it was adopted.
				eventually(t, "adopted", func() bool { return srv.Requests("GET /history/"+promptID("j")) > 0 || srv.Requests("GET /queue") > 5 })
				if err := e.call(t.Context(), "POST", "interrupt", map[string]any{"prompt_id": promptID("j")}, nil); err != nil {
					t.Error(err)
				}
				eventually(t, "again", func() bool { return len(srv.Executed()) == 2 })
				srv.Release(1)
			},
			posts: 2, runs: 2,
		},
		"not another payload that has finished": {
			before: func(t *testing.T, _ *comfytest.Server, e *ComfyUI) {
				post(t, e, "j", flow("CheckpointLoaderSimple", map[string]any{"ckpt_name": "sd15.safetensors"}))
				eventually(t, "finished", at(t, e, "j", ended))
			},
			payload: loader, posts: 2, runs: 2,
		},
		"not another payload that runs": {
			before: func(t *testing.T, _ *comfytest.Server, e *ComfyUI) {
				post(t, e, "j", held(9))
				eventually(t, "running", at(t, e, "j", running))
			},
			payload: loader, posts: 2, runs: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, e := comfyUp(t)
			tt.before(t, srv, e)
			r := begin(t, e, Attempt{ID: "j", Number: 2, Payload: tt.payload})
			if tt.during != nil {
				tt.during(t, srv, e)
			}
			if diff := cmp.Diff(Outcome{Result: []byte(saved(promptID("j")))}, <-r.done); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if posts, runs := srv.Requests("POST /prompt"), len(srv.Executed()); posts != tt.posts || runs != tt.runs {
				t.Errorf("posted %d times, want %d; executed %d prompts, want %d", posts, tt.posts, runs, tt.runs)
			}
		})
	}
}

func TestComfyUIAnswerToPostIsLost(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	srv.Swallow("POST /prompt")
	o := e.Run(t.Context(), Attempt{ID: jobID, Payload: loader}, func(string) {})
	if diff := cmp.Diff(Outcome{Result: []byte(saved(jobID))}, o); diff != "" || srv.Requests("POST /prompt") != 1 {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

// TestComfyUIEndsWhatItBegan: running or waiting, and nothing else.
func TestComfyUIEndsWhatItBegan(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	r := begin(t, e, Attempt{ID: "running", Payload: held(1)})
	eventually(t, "running", at(t, e, "running", running))
	w := begin(t, e, Attempt{ID: "waiting", Payload: held(2)})
	eventually(t, "waiting", at(t, e, "waiting", waiting))
	post(t, e, "stranger", held(3))

	w.cancel(nil)
	if o := <-w.done; o.Verdict != Stopped || o.Leftover {
		t.Errorf("waiting: %+v", o)
	}
	if !at(t, e, "waiting", nowhere)() || !at(t, e, "running", running)() {
		t.Error("the waiting one is there, or the running one is not")
	}
	r.cancel(ErrNow)
	if o := <-r.done; o.Verdict != Stopped || o.Leftover {
		t.Errorf("running: %+v", o)
	}
	srv.Release(3)
	eventually(t, "the stranger's success", func() bool {
		s, err := e.find(t.Context(), promptID("stranger"))
		return err == nil && s.place == ended && s.entry.succeeded()
	})
	if s, err := e.find(t.Context(), promptID("running")); err != nil || s.place != ended || !s.entry.interrupted() {
		t.Errorf("running: %+v, %v", s, err)
	}
}

func TestComfyUINodeThatCannotBeInterrupted(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	stuck := flow("TestStuck", nil)
	r := begin(t, e, Attempt{ID: "j", Payload: stuck})
	eventually(t, "running", at(t, e, "j", running))
	r.cancel(nil)
	if o := <-r.done; o.Verdict != Stopped || !o.Leftover {
		t.Errorf("outcome %+v", o)
	}
	// The next attempt here takes it on, and one of another payload does not.
	if o := e.Run(t.Context(), Attempt{ID: "j", Payload: loader}, func(string) {}); o.Verdict != Failed || o.Error != errStuck.Error() {
		t.Errorf("outcome %+v", o)
	}
	r = begin(t, e, Attempt{ID: "j", Payload: stuck})
	srv.Release(1)
	// It was interrupted, but nobody looked until it had finished.
	if o := <-r.done; o.Verdict != Succeeded {
		t.Errorf("outcome %+v", o)
	}
}

func TestComfyUILosesThePrompt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		how  func(*comfytest.Server, *ComfyUI)
		want []string
	}{
		"killed":    {func(srv *comfytest.Server, _ *ComfyUI) { srv.Kill() }, []string{"ComfyUI has ended"}},
		"restarted": {func(srv *comfytest.Server, _ *ComfyUI) { srv.Kill(); srv.Start() }, []string{"ComfyUI has ended", "does not know the prompt any more"}},
		"silent":    {func(srv *comfytest.Server, _ *ComfyUI) { srv.Freeze() }, []string{"ComfyUI has not answered for"}},
		"interrupted by a person": {func(_ *comfytest.Server, e *ComfyUI) {
			_ = e.call(context.Background(), "POST", "interrupt", nil, nil)
		}, []string{"interrupted in ComfyUI"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, e := comfyUp(t)
			if name == "silent" {
				e.patience = 200 * time.Millisecond
			}
			r := begin(t, e, Attempt{ID: "j", Payload: held(1)})
			eventually(t, "running", at(t, e, "j", running))
			tt.how(srv, e)
			o := <-r.done
			if o.Verdict != Failed || !slices.ContainsFunc(tt.want, func(s string) bool { return strings.Contains(o.Error, s) }) {
				t.Errorf("outcome %+v, want one of %q", o, tt.want)
			}
			srv.Kill()
			if o := e.Run(t.Context(), Attempt{ID: "j", Payload: held(1)}, func(string) {}); o.Verdict != Unready {
				t.Errorf("without a server: %+v", o)
			}
		})
	}
}

func TestComfyUIQueueIsCleared(t *testing.T) {
	t.Parallel()
	_, e := comfyUp(t)
	post(t, e, "stranger", held(1))
	r := begin(t, e, Attempt{ID: "j", Payload: held(1)})
	eventually(t, "waiting", at(t, e, "j", waiting))
	if err := e.call(t.Context(), "POST", "queue", map[string]any{"clear": true}, nil); err != nil {
		t.Fatal(err)
	}
	if o := <-r.done; o.Verdict != Failed || !strings.Contains(o.Error, "does not know the prompt any more") {
		t.Errorf("outcome %+v", o)
	}
}

func TestComfyUIIsSilentForAWhile(t *testing.T) {
	t.Parallel()
	srv, e := comfyUp(t)
	r := begin(t, e, Attempt{ID: "j", Payload: held(1)})
	eventually(t, "running", at(t, e, "j", running))
	srv.Freeze()
	srv.Release(1)
	asked := srv.Requests("GET /queue")
	eventually(t, "a question", func() bool { return srv.Requests("GET /queue") > asked })
	srv.Thaw()
	if o := <-r.done; o.Verdict != Succeeded {
		t.Errorf("outcome %+v", o)
	}
}

func TestComfyUIVersions(t *testing.T) {
	t.Parallel()
	for ids, want := range map[comfytest.PromptIDs]Verdict{comfytest.UUIDs: Succeeded, comfytest.Any: Succeeded, comfytest.Own: Unable} {
		srv, e := comfytest.New(t), (*ComfyUI)(nil)
		srv.IDs = ids
		srv.Start()
		e = comfy(t, srv)
		o := e.Run(t.Context(), Attempt{ID: "job-1", Payload: held(0)}, func(string) {})
		if o.Verdict != want {
			t.Errorf("%v: outcome %+v", ids, o)
		}
	}
}

func TestComfyUICheck(t *testing.T) {
	t.Parallel()
	srv := comfytest.New(t)
	e := comfy(t, srv)
	if err := e.Check(t.Context()); !errors.Is(err, ErrNotReady) || !strings.HasPrefix(err.Error(), srv.URL()+" is not ready: ") {
		t.Errorf("before it starts: %v", err)
	}
	srv.Start()
	if err := e.Check(t.Context()); err != nil {
		t.Error(err)
	}
	srv.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Check(ctx); !errors.Is(err, ErrNotReady) {
		t.Errorf("while it is deaf: %v", err)
	}
	// Something else listens there.
	for _, body := range []string{`{}`, `[]`, `<html>`} {
		o, err := otherServer(t, body)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Check(t.Context()); !errors.Is(err, ErrNotReady) {
			t.Errorf("%s: %v", body, err)
		}
		if o := o.Run(t.Context(), Attempt{ID: "j", Payload: loader}, func(string) {}); o.Verdict == Succeeded || o.Verdict == Permanent {
			t.Errorf("%s: outcome %+v", body, o)
		}
	}
}

func FuzzComfyUIAnswers(f *testing.F) {
	for _, s := range []string{
		`{"queue_running":[[0,"j",{},{"gpuherd":{"job":"j","payload":"x"}},["2"]]],"queue_pending":[]}`,
		`{"j":{"prompt":[0,"j",{},{},["2"]],"outputs":{},"status":{"status_str":"error","completed":false,"messages":[["execution_error",{"node_id":"1"}]]}}}`,
		`{"j":{"status":{"status_str":"error","messages":[[],null,7,["execution_interrupted",null]]}}}`,
		`{"type":"progress_state","data":{"prompt_id":"j","nodes":{"1":{"max":1e308,"value":-1}}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &prompt{id: "j", nodes: []string{"1"}}
		var history map[string]*historyEntry
		if json.Unmarshal(data, &history) == nil {
			for _, e := range history {
				if e == nil {
					continue
				}
				if o := e.outcome(p); (o.Verdict == Succeeded) != (o.Error == "") || strings.ContainsAny(o.Error, "\x1b\n\x00") {
					t.Errorf("outcome %+v", o)
				}
			}
		}
		var items []queueItem
		_ = json.Unmarshal(data, &items)
		if percent, _ := newTracker(p).message(data); percent < 0 || percent > 99 {
			t.Errorf("%d %%", percent)
		}
	})
}

// otherServer is one that answers everything with body.
func otherServer(t *testing.T, body string) (*ComfyUI, error) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return NewComfyUI(srv.URL)
}
