package redisworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	callTimeout = 10 * time.Second
	maxAnswer   = 64 << 20 // bytes of JSON; /queue has all workflows that wait
)

// A statusError is an answer that is not 200.
type statusError struct {
	retry        bool
	reason, more string
	delay        time.Duration
}

func (e *statusError) Error() string { return e.reason }

func (e *statusError) outcome() Outcome {
	o := Outcome{Verdict: Permanent, Error: e.reason, Stderr: e.more}
	if e.retry {
		o.Verdict, o.Delay = Failed, e.delay
	}
	return o
}

// call sends body as JSON, and reads the answer into answer unless that is nil.
func (c *ComfyUI) call(ctx context.Context, method, path string, body, answer any) error {
	var data []byte
	var header http.Header
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
		header = http.Header{"Content-Type": {"application/json"}}
	}
	ctx, cancel := context.WithTimeout(ctx, min(callTimeout, c.patience))
	defer cancel()
	return c.send(ctx, method, path, header, data, answer)
}

func (c *ComfyUI) send(ctx context.Context, method, path string, header http.Header, body []byte, answer any) error {
	r, err := c.server.do(ctx, method, c.server.url.JoinPath(path), header, body)
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		e := &statusError{retry: retried(r.StatusCode), delay: retryAfter(r.Header, time.Now())}
		e.reason, e.more = refusal(r)
		return e
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("cannot read /%s: %w", path, err)
	}
	return nil
}

var errTooOld = errors.New("this ComfyUI is too old: it names prompts itself, where a newer one takes prompt_id")

// post sends the prompt.
func (c *ComfyUI) post(ctx context.Context, p *prompt) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience) // validation may take long
	defer cancel()
	p.there = true
	var answer struct {
		ID string `json:"prompt_id"`
	}
	header := http.Header{"Content-Type": {"application/json"}}
	err := c.send(ctx, http.MethodPost, "prompt", header, p.body, &answer)
	var status *statusError
	switch {
	case errors.As(err, &status):
		status.reason = invalid(status)
	case err == nil && answer.ID != p.id:
		if answer.ID != "" {
			c.end(context.WithoutCancel(ctx), answer.ID)
		}
		return errTooOld
	}
	return err
}

// invalid is what ComfyUI finds wrong with a prompt, in one line.
func invalid(e *statusError) string {
	var answer struct {
		Error struct {
			Message string `json:"message"`
			Details string `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal([]byte(e.more), &answer) != nil || answer.Error.Message == "" {
		return e.reason
	}
	s := answer.Error.Message
	if d := strings.TrimSpace(answer.Error.Details); d != "" {
		s += ": " + d
	}
	return inert(s)
}

// place says where ComfyUI has a prompt.
type place int

const (
	nowhere place = iota
	waiting
	running
	ended
)

// A sighting is what ComfyUI knows of a prompt.
type sighting struct {
	place place
	mark  mark
	entry *historyEntry // where it has ended
}

// find looks for a prompt. One that is at work is in /queue and then, in the
// same moment, in /history: so history is asked last.
func (c *ComfyUI) find(ctx context.Context, id string) (sighting, error) {
	var q struct {
		Running []queueItem `json:"queue_running"`
		Pending []queueItem `json:"queue_pending"`
	}
	if err := c.call(ctx, http.MethodGet, "queue", nil, &q); err != nil {
		return sighting{}, err
	}
	for where, items := range map[place][]queueItem{running: q.Running, waiting: q.Pending} {
		for _, item := range items {
			if item.id == id {
				return sighting{place: where, mark: item.mark}, nil
			}
		}
	}
	var history map[string]*historyEntry
	if err := c.call(ctx, http.MethodGet, "history/"+id, nil, &history); err != nil {
		return sighting{}, err
	}
	if e := history[id]; e != nil {
		return sighting{place: ended, mark: e.Prompt.mark, entry: e}, nil
	}
	return sighting{}, nil
}

// A queueItem is [number, prompt_id, prompt, extra_data, outputs_to_execute, …].
type queueItem struct {
	id   string
	mark mark
}

// UnmarshalJSON takes what it knows: the rest may be of any shape.
func (i *queueItem) UnmarshalJSON(data []byte) error {
	var item []json.RawMessage
	if err := json.Unmarshal(data, &item); err != nil {
		return err
	}
	if len(item) > 1 {
		_ = json.Unmarshal(item[1], &i.id)
	}
	var extra struct {
		Mark mark `json:"gpuherd"`
	}
	if len(item) > 3 && json.Unmarshal(item[3], &extra) == nil {
		i.mark = extra.Mark
	}
	return nil
}

// A historyEntry is a prompt that has ended.
type historyEntry struct {
	Prompt  queueItem       `json:"prompt"`
	Outputs json.RawMessage `json:"outputs"`
	Status  *struct {
		Str      string    `json:"status_str"` // success or error
		Messages []message `json:"messages"`
	} `json:"status"`
}

// A message is [event, data]: what the websocket told.
type message struct {
	event string
	data  json.RawMessage
}

// UnmarshalJSON leaves a message empty that has another shape.
func (m *message) UnmarshalJSON(data []byte) error {
	var pair []json.RawMessage
	if json.Unmarshal(data, &pair) == nil && len(pair) == 2 && json.Unmarshal(pair[0], &m.event) == nil {
		m.data = pair[1]
	}
	return nil
}

// succeeded follows ComfyUI's own reading, in comfy_execution/jobs.py: what
// has no status is whole.
func (e *historyEntry) succeeded() bool {
	return e.Status == nil || e.Status.Str != "error"
}

func (e *historyEntry) interrupted() bool {
	return !e.succeeded() && e.message("execution_interrupted") != nil
}

func (e *historyEntry) message(event string) json.RawMessage {
	for _, m := range e.Status.Messages {
		if m.event == event {
			return m.data
		}
	}
	return nil
}

// failure is what went wrong, and the end of the traceback.
func (e *historyEntry) failure() (reason, more string) {
	if e.interrupted() {
		return "interrupted in ComfyUI", ""
	}
	var x struct {
		Node      string   `json:"node_id"`
		Class     string   `json:"node_type"`
		Type      string   `json:"exception_type"`
		Message   string   `json:"exception_message"`
		Traceback []string `json:"traceback"`
	}
	data := e.message("execution_error")
	if data == nil || json.Unmarshal(data, &x) != nil {
		return "ComfyUI says error, and no more", ""
	}
	reason = inert(fmt.Sprintf("%s (node %s): %s: %s", x.Class, x.Node, x.Type, strings.TrimSpace(x.Message)))
	tail := capture{most: stderrTail, tail: true}
	tail.add([]byte(strings.Join(x.Traceback, "") + x.Type + ": " + x.Message))
	return reason, strings.TrimSpace(string(tail.buf))
}
