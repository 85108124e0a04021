package redisworker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/units/queue"
)

// answers runs one attempt against a handler.
func answers(t *testing.T, a Attempt, handler http.HandlerFunc) (Outcome, []string) {
	t.Helper()
	srv := httptest.NewServer(handler)
	defer srv.Close()
	e, err := NewHTTP(srv.URL + "/run?token=hunter2")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	o := e.Run(t.Context(), a, func(s string) { told = append(told, s) })
	return o, told
}

func TestHTTPStatuses(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]Verdict{
		200: Succeeded, 201: Succeeded, 204: Succeeded, 206: Succeeded, 202: Permanent,
		300: Permanent, 301: Permanent, 307: Permanent,
		400: Permanent, 401: Permanent, 404: Permanent, 409: Permanent, 413: Permanent, 422: Permanent, 499: Permanent,
		408: Failed, 425: Failed, 429: Failed, 500: Failed, 501: Failed, 502: Failed, 503: Failed, 504: Failed, 599: Failed,
	} {
		var asked atomic.Int32
		o, _ := answers(t, Attempt{ID: "j"}, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
		})
		if o.Verdict != want || asked.Load() != 1 || o.Result != nil {
			t.Errorf("%d: asked %d times, outcome %+v", code, asked.Load(), o)
		}
		if want != Succeeded && !strings.HasPrefix(o.Error, fmt.Sprint(code)) {
			t.Errorf("%d: error %q", code, o.Error)
		}
	}
}

func TestHTTPErrorIsTheBodysFirstLine(t *testing.T) {
	t.Parallel()
	o, _ := answers(t, Attempt{ID: "j"}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, " bad\x1b[2J thing \r\nline two\n"+strings.Repeat("x", 10000))
	})
	if want := "500 Internal Server Error: bad\uFFFD[2J thing"; o.Error != want || len(o.Stderr) > stderrTail || !strings.Contains(o.Stderr, "line two") {
		t.Errorf("error %q, want %q; %d bytes of more", o.Error, want, len(o.Stderr))
	}
}

func TestHTTPRequest(t *testing.T) {
	t.Parallel()
	const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, tt := range []struct {
		a    Attempt
		want map[string]string
	}{
		{
			Attempt{ID: "job-1", Payload: []byte(`{"a":1}`), Number: 2, MaxAttempts: 3, Trace: traceparent},
			map[string]string{"Job-Id": "job-1", "Idempotency-Key": "job-1", "Job-Attempt": "2", "Job-Max-Attempts": "3", "Job-Trace": traceparent, "Traceparent": traceparent, "Content-Type": "application/json"},
		},
		{
			Attempt{ID: " é/%:", Payload: []byte{0, 0xff}, Number: 1, MaxAttempts: 1, Trace: "x\ny"},
			map[string]string{"Job-Id": "%20%C3%A9%2F%25:", "Idempotency-Key": "%20%C3%A9%2F%25:", "Job-Attempt": "1", "Job-Max-Attempts": "1", "Job-Trace": "x%0Ay", "Content-Type": "application/octet-stream"},
		},
		{
			Attempt{ID: "empty", Number: 1, MaxAttempts: 1},
			map[string]string{"Job-Id": "empty", "Idempotency-Key": "empty", "Job-Attempt": "1", "Job-Max-Attempts": "1", "Content-Type": "application/octet-stream"},
		},
		{
			Attempt{ID: "large", Payload: []byte(`"` + strings.Repeat("x", queue.MaxPayload-2) + `"`), Number: 1, MaxAttempts: 1},
			map[string]string{"Job-Id": "large", "Idempotency-Key": "large", "Job-Attempt": "1", "Job-Max-Attempts": "1", "Content-Type": "application/json"},
		},
	} {
		o, _ := answers(t, tt.a, func(w http.ResponseWriter, r *http.Request) {
			got := map[string]string{}
			for name := range r.Header {
				switch name {
				case "Accept", "Accept-Encoding", "Connection", "Content-Length", "User-Agent":
				default:
					got[name] = r.Header.Get(name)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || r.Method != http.MethodPost || r.URL.String() != "/run?token=hunter2" {
				t.Errorf("%s %s (-want +got):\n%s", r.Method, r.URL, diff)
			}
			_, _ = io.Copy(w, r.Body)
		})
		if o.Verdict != Succeeded || string(o.Result) != string(tt.a.Payload) {
			t.Errorf("%s: verdict %d, %d bytes", tt.a.ID, o.Verdict, len(o.Result))
		}
	}
}

func TestHTTPStream(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", queue.MaxPayload-1)
	for name, tt := range map[string]struct {
		body string
		want Outcome
		told []string
	}{
		"result":           {`{"result":{"a":[1, 2]}}`, Outcome{Result: []byte(`{"a":[1, 2]}`)}, nil},
		"progress":         {"{\"progress\":1}\n\n  \n{\"progress\":\"step\\t3\\u001b\"}\n{\"progress\":{\"step\":3}}\n{\"result\":null}\nrest", Outcome{Result: []byte("null")}, []string{"1", "step 3\uFFFD", `{"step":3}`}},
		"both in one line": {`{"progress":99,"result":"r"}`, Outcome{Result: []byte(`"r"`)}, nil},
		"unknown":          {"{\"eta\":3}\n{\"result\":1}\n", Outcome{Result: []byte("1")}, nil},
		"error":            {`{"error":"oops\nmore"}`, Outcome{Verdict: Failed, Error: "oops more"}, nil},
		"permanent":        {`{"error":"oops","permanent":true}`, Outcome{Verdict: Permanent, Error: "oops"}, nil},
		"no reason":        {`{"error":""}`, Outcome{Verdict: Failed, Error: "the server says error, and no more"}, nil},
		"no end":           {"{\"progress\":1}\n", Outcome{Verdict: Failed, Error: "no whole answer: it ends without result or error"}, []string{"1"}},
		"empty":            {"", Outcome{Verdict: Failed, Error: "no whole answer: it ends without result or error"}, nil},
		"no JSON":          {"<html>\n", Outcome{Verdict: Failed, Error: "no whole answer: a line is no JSON object: invalid character '<' looking for beginning of value"}, nil},
		"half a line":      {`{"result":1`, Outcome{Verdict: Failed, Error: "no whole answer: a line is no JSON object: unexpected end of JSON input"}, nil},
		"largest":          {`{"result":"` + big[1:] + `"}`, Outcome{Result: []byte(`"` + big[1:] + `"`)}, nil},
		"too big":          {`{"result":"` + big + `"}`, Outcome{Verdict: Permanent, Error: tooBig}, nil},
		"line too long":    {big + big, Outcome{Verdict: Permanent, Error: tooBig}, nil},
		"long progress":    {`{"progress":"` + strings.Repeat("y", 1000) + "\"}\n{\"progress\":[" + strings.Repeat("1,", 3000) + "1]}\n{\"result\":1}", Outcome{Result: []byte("1")}, []string{strings.Repeat("y", maxText)}},
	} {
		o, told := answers(t, Attempt{ID: "j"}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "Application/X-NDJSON; charset=utf-8")
			fmt.Fprint(w, tt.body)
		})
		if diff := cmp.Diff(tt.want, o, cmp.Comparer(bytes.Equal)); diff != "" {
			t.Errorf("%s: outcome (-want +got):\n%.2000s", name, diff)
		}
		if diff := cmp.Diff(tt.told, told); diff != "" {
			t.Errorf("%s: progress (-want +got):\n%s", name, diff)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "1.5": 0, "soon": 0, "99999999999999999999": 0, "2000000000": maxRetryAfter,
		"Thu, 01 Jan 2026 00:00:30 GMT": 30 * time.Second,
		"Thu, 01 Jan 2025 00:00:30 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	// The server's clock is an hour ahead.
	h := http.Header{"Retry-After": {"Thu, 01 Jan 2026 01:00:30 GMT"}, "Date": {"Thu, 01 Jan 2026 01:00:00 GMT"}}
	if got := retryAfter(h, now); got != 30*time.Second {
		t.Errorf("with a date: %v", got)
	}
	o, _ := answers(t, Attempt{ID: "j"}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	if o.Verdict != Failed || o.Delay != 7*time.Second {
		t.Errorf("outcome %+v", o)
	}
	o, _ = answers(t, Attempt{ID: "j"}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusBadRequest)
	})
	if o.Verdict != Permanent || o.Delay != 0 {
		t.Errorf("outcome %+v", o)
	}
}

// TestHTTPIsNotSentTwice: the server ends while it has the job, on the first
// connection and on a later one.
func TestHTTPIsNotSentTwice(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Job-Id") != "first" {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "r")
	}))
	defer srv.Close()
	e, err := NewHTTP(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if o := e.Run(t.Context(), Attempt{ID: "first"}, nil); o.Verdict != Succeeded {
		t.Errorf("outcome %+v", o)
	}
	if o := e.Run(t.Context(), Attempt{ID: "second"}, nil); o.Verdict != Failed || asked.Load() != 2 {
		t.Errorf("asked %d times, outcome %+v", asked.Load(), o)
	}
}

// TestHTTPCancellationReachesTheServer: it sees the connection go.
func TestHTTPCancellationReachesTheServer(t *testing.T) {
	t.Parallel()
	began, gone := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(began)
		<-r.Context().Done()
		close(gone)
	}))
	defer srv.Close()
	e, err := NewHTTP(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if o := e.Run(ctx, Attempt{ID: "j", Payload: []byte("{}")}, nil); o.Verdict != Stopped || o.Leftover {
		t.Errorf("outcome %+v", o)
	}
	<-gone
}

func TestHTTPCheck(t *testing.T) {
	t.Parallel()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	// It accepts and says nothing.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for where, ready := range map[string]bool{
		"http://" + l.Addr().String():       true,
		"http://127.0.0.1:1/?token=hunter2": false,
		"http://no.such.host.invalid/":      false,
		secure.URL:                          false, // nobody vouches for its certificate
	} {
		e, err := NewHTTP(where)
		if err != nil {
			t.Fatal(err)
		}
		err = e.Check(t.Context())
		if (err == nil) != ready || err != nil && (!errors.Is(err, ErrNotReady) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", where, err)
		}
		if !ready {
			if o := e.Run(t.Context(), Attempt{ID: "j"}, nil); o.Verdict != Unready || strings.Contains(o.Error, "hunter2") {
				t.Errorf("%s: outcome %+v", where, o)
			}
		}
	}
	for _, bad := range []string{"", "127.0.0.1:80", "ftp://h/", "http://", "http://u:hunter2@h/", "http://h:81810/", "http://h:x/", "http://h/%zz", "http://hun\x01ter2/"} {
		if _, err := NewHTTP(bad); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzStreamLine(f *testing.F) {
	for _, s := range []string{`{"progress":1}`, `{"result":null}`, `{"error":"x","permanent":true}`, `[]`, ``, `{"progress":"\u001b"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		o, ended, err := streamLine(line, func(s string) {
			if s == "" || len(s) > maxProgress {
				t.Errorf("progress %q", s)
			}
		})
		if err != nil && ended || !ended && (o.Result != nil || o.Error != "") {
			t.Errorf("%v, %v, %+v", err, ended, o)
		}
		if strings.ContainsAny(o.Error, "\x1b\n\x00") {
			t.Errorf("error %q", o.Error)
		}
	})
}
