package redisworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/units/queue"
)

// patience is how long ComfyUI may leave everything unanswered while it has a
// job. It answers late while a node keeps Python's lock.
const patience = 2 * time.Minute

// ComfyUI runs jobs on a ComfyUI server. The payload is a workflow in the API
// format, or an object whose "prompt" is one, as POST /prompt takes it. The
// result is {"prompt_id": …, "outputs": …}, the outputs as /history has them:
// for each node that has any the names of its files, with subfolder and type,
// or text. The files stay where they are.
//
// The prompt's ID is the job's where that is a UUID in lower case, else the
// version 5 UUID of "gpuherd:" and the job's ID in the namespace for URLs:
// newer versions of ComfyUI take nothing else. By that ID a worker that was
// restarted finds what its predecessor posted, waiting, at work or finished,
// and goes on with it. A finished one counts if it succeeded, with the same
// payload; else it is posted anew.
//
// What has become of a prompt is asked of /queue and /history, every second
// and whenever the websocket tells of an end. All else that comes by the
// websocket is progress, a percentage of the workflow's nodes, and may fail.
//
//	400 and other 4xx            permanent, with what each node lacks
//	an exception in a node       failed, the traceback as Stderr
//	no longer in queue, history  failed: ComfyUI was restarted, its queue cleared
//	the process has ended        failed
//	not there before it began    the job is handed back, and the worker waits for /system_stats
//
// A prompt that is to end is deleted from the queue or interrupted, and
// awaited: a node looks for an interrupt only between its steps.
type ComfyUI struct {
	server   *server
	patience time.Duration
}

// NewComfyUI returns the executor of a URL.
func NewComfyUI(where string) (*ComfyUI, error) {
	s, err := newServer(where)
	if err != nil {
		return nil, err
	}
	return &ComfyUI{server: s, patience: patience}, nil
}

// Check says whether the server answers /system_stats, which it does once all
// its nodes are loaded.
func (c *ComfyUI) Check(ctx context.Context) error {
	var stats struct {
		System *struct{} `json:"system"`
	}
	err := c.call(ctx, http.MethodGet, "system_stats", nil, &stats)
	if err == nil && stats.System == nil {
		err = errors.New("its /system_stats are not ComfyUI's")
	}
	if err != nil {
		return fmt.Errorf("%s is %w: %w", c.server.name, ErrNotReady, err)
	}
	return nil
}

// Run implements Executor.
func (c *ComfyUI) Run(ctx context.Context, a Attempt, progress func(string)) Outcome {
	p, err := newPrompt(a)
	if err != nil {
		return Outcome{Verdict: Permanent, Error: err.Error()}
	}
	ctx, cancel := limited(ctx, a)
	defer cancel()
	nudge, silence := c.listen(ctx, p, progress)
	defer silence()

	s, err := c.find(ctx, p.id)
	if err == nil && p.same(s) {
		if s.place != ended {
			p.there = true
			o, known := c.watch(ctx, a, p, nudge)
			if known == nil || !known.interrupted() {
				return o
			}
			// Its end was asked for by a worker that is no more.
		} else if s.entry.succeeded() {
			return s.entry.outcome(p)
		}
	}
	if err == nil {
		err = c.forget(ctx, p, s)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return c.cut(ctx, a, p)
	case errors.Is(err, errStuck):
		return Outcome{Verdict: Failed, Error: err.Error()}
	default:
		return Outcome{Verdict: Unready, Error: err.Error()}
	}

	err = c.post(ctx, p)
	var status *statusError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return c.cut(ctx, a, p)
	case errors.Is(err, errTooOld):
		return Outcome{Verdict: Unable, Error: err.Error()}
	case never(err):
		return Outcome{Verdict: Unready, Error: err.Error()}
	case errors.As(err, &status):
		return status.outcome()
	}
	// It may have been taken even if no answer came.
	o, _ := c.watch(ctx, a, p, nudge)
	return o
}

var errStuck = errors.New("an older prompt of this ID does not end in ComfyUI")

// forget makes room for a prompt where its ID stands for another payload, or
// for an attempt that came to nothing.
func (c *ComfyUI) forget(ctx context.Context, p *prompt, s sighting) error {
	if s.place == waiting || s.place == running {
		var gone bool
		if s, gone = c.end(ctx, p.id); !gone {
			return errStuck
		}
	}
	if s.place != ended {
		return nil
	}
	return c.call(ctx, http.MethodPost, "history", map[string]any{"delete": []string{p.id}}, nil)
}

// watch waits for a prompt that ComfyUI has. entry is nil unless it came to an
// end there.
func (c *ComfyUI) watch(ctx context.Context, a Attempt, p *prompt, nudge <-chan struct{}) (o Outcome, entry *historyEntry) {
	const least, most = 20 * time.Millisecond, time.Second
	wait, answered := least, time.Now()
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return c.cut(ctx, a, p), nil
		case <-nudge:
			// The end is told of a moment before /history has it.
			t.Stop()
			wait = least / 4
		case <-t.C:
			wait = min(2*wait, most)
		}
		s, err := c.find(ctx, p.id)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, unix.ECONNREFUSED):
			return Outcome{Verdict: Failed, Error: "ComfyUI has ended while it had the job: " + err.Error()}, nil
		case err != nil:
			if d := time.Since(answered); d > c.patience {
				return Outcome{Verdict: Failed, Error: fmt.Sprintf("ComfyUI has not answered for %v: %v", d.Round(time.Second), err)}, nil
			}
		case s.place == ended:
			return s.entry.outcome(p), s.entry
		case s.place == nowhere:
			return Outcome{Verdict: Failed, Error: "ComfyUI does not know the prompt any more: it was restarted, or its queue cleared"}, nil
		default:
			answered = time.Now()
		}
	}
}

// cut ends the prompt since ctx is done.
func (c *ComfyUI) cut(ctx context.Context, a Attempt, p *prompt) Outcome {
	s, gone := c.end(context.WithoutCancel(ctx), p.id)
	if s.place == ended && p.same(s) && s.entry.succeeded() {
		return s.entry.outcome(p) // just then
	}
	o := Outcome{Leftover: p.there && !gone}
	o.cut(ctx, a)
	return o
}

// end makes a prompt end, whatever it is at, and says whether it is gone.
func (c *ComfyUI) end(ctx context.Context, id string) (s sighting, gone bool) {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	for {
		var err error
		s, err = c.find(ctx, id)
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return sighting{}, true
		case err != nil:
		case s.place == waiting:
			_ = c.call(ctx, http.MethodPost, "queue", map[string]any{"delete": []string{id}}, nil)
		case s.place == running:
			// Again each time: ComfyUI forgets one that came as the prompt
			// began. Old versions interrupt whatever is running.
			_ = c.call(ctx, http.MethodPost, "interrupt", map[string]any{"prompt_id": id}, nil)
		default:
			return s, true
		}
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return s, false
		}
	}
}

// outcome is what a finished prompt comes to.
func (e *historyEntry) outcome(p *prompt) Outcome {
	if !e.succeeded() {
		o := Outcome{Verdict: Failed}
		o.Error, o.Stderr = e.failure()
		return o
	}
	outputs := e.Outputs
	if outputs == nil {
		outputs = json.RawMessage("{}")
	}
	result, err := json.Marshal(struct {
		ID      string          `json:"prompt_id"`
		Outputs json.RawMessage `json:"outputs"`
	}{p.id, outputs})
	if err != nil {
		return Outcome{Verdict: Failed, Error: "cannot write result: " + err.Error()}
	}
	if len(result) > queue.MaxPayload {
		return Outcome{Verdict: Permanent, Error: tooBig}
	}
	return Outcome{Result: result}
}
