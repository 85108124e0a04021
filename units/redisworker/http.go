package redisworker

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"gpuherd/units/queue"
)

// streamType is a body whose lines are JSON.
const streamType = "application/x-ndjson"

// HTTP sends each job to a server, as the body of a POST:
//
//	Job-Id, Idempotency-Key   the job's ID, the same for each attempt
//	Job-Attempt               from 1, of Job-Max-Attempts
//	Job-Trace                 the job's trace; as Traceparent too where it has that form
//	Content-Type              application/json, or application/octet-stream where the payload is none
//
// ID and trace are percent-encoded like a segment of a path. The answer is the outcome:
//
//	2xx                  succeeded, the body is the result; 202 is refused, since nothing has been done yet
//	408, 425, 429, 5xx   failed; Retry-After says when to try again
//	other 4xx, 3xx       permanent
//	no connection        the job is handed back, and the worker waits for the server
//	a broken one         failed
//
// A body of type application/x-ndjson has lines {"progress": …}, a number
// being a percentage, and ends with {"result": …} or with {"error": "why",
// "permanent": false}. When the job is to end before that the connection is
// closed: it is for the server to end the job then.
type HTTP struct{ server *server }

// NewHTTP returns the executor of a URL.
func NewHTTP(where string) (*HTTP, error) {
	s, err := newServer(where)
	if err != nil {
		return nil, err
	}
	return &HTTP{server: s}, nil
}

// Check says whether the server can be connected to.
func (h *HTTP) Check(ctx context.Context) error {
	conn, err := h.server.connect(ctx)
	if err != nil {
		return fmt.Errorf("%s is %w: %w", h.server.name, ErrNotReady, err)
	}
	_ = conn.Close()
	return nil
}

// Run implements Executor.
func (h *HTTP) Run(ctx context.Context, a Attempt, progress func(string)) Outcome {
	ctx, cancel := limited(ctx, a)
	defer cancel()
	o, err := h.post(ctx, a, progress)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		o.cut(ctx, a)
	case never(err):
		o.Verdict, o.Error = Unready, err.Error()
	default:
		o.Verdict, o.Error = Failed, "no whole answer: "+err.Error()
	}
	return o
}

// post sends the job, and returns what the answer says.
func (h *HTTP) post(ctx context.Context, a Attempt, progress func(string)) (Outcome, error) {
	r, err := h.server.do(ctx, http.MethodPost, h.server.url, jobHeader(a), a.Payload)
	if err != nil {
		return Outcome{}, err
	}
	defer func() { _ = r.Body.Close() }()
	var o Outcome
	switch code := r.StatusCode; {
	case code == http.StatusAccepted:
		o.Verdict, o.Error = Permanent, "202 Accepted is no result: the answer has to come when the job is done"
	case code/100 == 2:
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == streamType {
			return readStream(r.Body, progress)
		}
		body := capture{most: queue.MaxPayload}
		if _, err := io.Copy(&body, io.LimitReader(r.Body, queue.MaxPayload+1)); err != nil {
			return Outcome{}, err
		}
		if o.Result = body.buf; body.over {
			o = Outcome{Verdict: Permanent, Error: tooBig}
		}
	default:
		o.Verdict = Permanent
		if retried(code) {
			o.Verdict, o.Delay = Failed, retryAfter(r.Header, time.Now())
		}
		o.Error, o.Stderr = refusal(r)
	}
	return o, nil
}

// retried says whether another attempt may get another status.
func retried(code int) bool {
	return code/100 == 5 || code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests
}

func jobHeader(a Attempt) http.Header {
	id := url.PathEscape(a.ID)
	h := http.Header{
		"Accept":           {streamType + ", */*"},
		"Content-Type":     {"application/octet-stream"},
		"Idempotency-Key":  {id},
		"Job-Id":           {id},
		"Job-Attempt":      {strconv.Itoa(a.Number)},
		"Job-Max-Attempts": {strconv.Itoa(a.MaxAttempts)},
	}
	if utf8.Valid(a.Payload) && json.Valid(a.Payload) {
		h.Set("Content-Type", "application/json")
	}
	if a.Trace != "" {
		h.Set("Job-Trace", url.PathEscape(a.Trace))
	}
	if inHex(a.Trace, 2, 32, 16, 2) { // W3C's Trace Context
		h.Set("Traceparent", a.Trace)
	}
	return h
}

// readStream reads an answer in lines up to the one that ends it.
func readStream(body io.Reader, progress func(string)) (Outcome, error) {
	const room = 64 // for what stands round a result in its line
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, queue.MaxPayload+room)
	for lines.Scan() {
		if o, ended, err := streamLine(lines.Bytes(), progress); ended || err != nil {
			return o, err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return Outcome{Verdict: Permanent, Error: tooBig}, nil
	case err != nil:
		return Outcome{}, err
	}
	return Outcome{}, errors.New("it ends without result or error")
}

// streamLine takes one line; ended says that it is the last.
func streamLine(line []byte, progress func(string)) (o Outcome, ended bool, err error) {
	if len(bytes.TrimSpace(line)) == 0 {
		return o, false, nil // which keeps the connection alive
	}
	var l struct {
		Progress  json.RawMessage `json:"progress"`
		Result    json.RawMessage `json:"result"`
		Error     *string         `json:"error"`
		Permanent bool            `json:"permanent"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return o, false, fmt.Errorf("a line is no JSON object: %w", err)
	}
	switch {
	case l.Error != nil:
		o.Verdict, o.Error = Failed, cmp.Or(inert(*l.Error), "the server says error, and no more")
		if l.Permanent {
			o.Verdict = Permanent
		}
		return o, true, nil
	case l.Result != nil:
		if len(l.Result) > queue.MaxPayload {
			return Outcome{Verdict: Permanent, Error: tooBig}, true, nil
		}
		return Outcome{Result: l.Result}, true, nil
	case l.Progress != nil:
		text := string(l.Progress)
		var s string
		if json.Unmarshal(l.Progress, &s) == nil {
			text = inert(s)
		}
		if len(text) <= maxProgress && text != "" {
			progress(text)
		}
	}
	return o, false, nil
}
