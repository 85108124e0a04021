package web

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func get(t *testing.T, s *Server, method, path string, body io.Reader) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	s.handler(access{}).ServeHTTP(w, r)
	return w
}

func TestAPI(t *testing.T) {
	t.Parallel()
	s := server()
	s.Checks = []Check{{"bus", func() error { return nil }}, {"redis", func() error { return errors.New("away") }}}
	for path, want := range map[string]string{
		"/api/v1/host": `{"host":"box","version":"1.2.3","boot_id":"boot","epoch":5,"uptime":7.5,"seq":0,"ready":false,` +
			`"checks":[{"name":"bus","ok":true},{"name":"redis","ok":false,"reason":"away"}],"units":{"total":3,"active":1,"failed":1},"gpus":1}`,
		"/api/v1/gpus": `{"seq":0,"gpus":[{"index":0,"uuid":"GPU-1","name":"","pci":"","minor":0,"numa":0,"memory":0,"health":"unknown"}]}`,
		"/api/v1/units": `{"seq":0,"units":[` +
			`{"unit":"hello-world.service","service":"hello-world","active":"failed","sub":"","result":"","pid":0,"restarts":0,"invocation_id":"","since_ms":0,"exit_status":0,"seq":0,` +
			`"resources":{"cgroup":"none","reason":"resource figures are not available: gone"}},` +
			`{"unit":"new.service","service":"new","active":"inactive","sub":"","result":"","pid":0,"restarts":0,"invocation_id":"","since_ms":0,"exit_status":0,"seq":0,` +
			`"resources":{"cgroup":"none","reason":"not looked at yet"}},` +
			`{"unit":"redis-worker@0.service","service":"redis-worker","instance":"0","gpu":0,"active":"active","sub":"","result":"","pid":0,"restarts":3,"invocation_id":"","since_ms":0,"exit_status":0,` +
			`"memory_bytes":1048576,"memory_peak_bytes":1048576,"memory_max_bytes":1048576,"cpu_ns":2500000000,"seq":0,` +
			`"resources":{"cgroup":"v2","tasks":7,"oom_kills":1,"memory_limit_hits":17,"pressure":{"memory":{"some":{"avg10":1.5,"total_us":2500000},"full":{"avg10":0,"total_us":500000}}}}}]}`,
	} {
		w := get(t, s, http.MethodGet, path, nil)
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, w.Code, w.Header())
		}
		if diff := cmp.Diff(want+"\n", w.Body.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, path string
		body         io.Reader
		status       int
		text         string
	}{
		{http.MethodGet, "/api/v1/nothing", nil, 404, `{"error":"there is nothing here; see gpuherd-api(7)"}`},
		{http.MethodGet, "/health", nil, 404, `{"error":"there is nothing here; see gpuherd-api(7)"}`},
		{http.MethodGet, "/assets/", nil, 404, `{"error":"there is nothing here; see gpuherd-api(7)"}`},
		{http.MethodPost, "/", nil, 405, `{"error":"only GET and HEAD are answered"}`},
		{http.MethodPost, "/api/v1/units", nil, 405, `{"error":"only GET and HEAD are answered"}`},
		{http.MethodDelete, "/healthz", nil, 405, `{"error":"only GET and HEAD are answered"}`},
		{http.MethodGet, "/api/v1/units", strings.NewReader("{}"), 413, `{"error":"a request has no body here"}`},
		{http.MethodGet, "/api/v1/units", io.MultiReader(strings.NewReader("{}")), 413, `{"error":"a request has no body here"}`}, // of unknown length
	} {
		w := get(t, server(), tt.method, tt.path, tt.body)
		if got := strings.TrimSpace(w.Body.String()); w.Code != tt.status || got != tt.text {
			t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, w.Code, got, tt.status, tt.text)
		}
		if w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %s", tt.method, tt.path, w.Header())
		}
	}
}

// A connection more than there are places waits until one is free; one that
// sends no request loses its place.
func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	s := server()
	s.limits = defaultLimits()
	s.limits.connections, s.limits.header = 2, 200*time.Millisecond
	address := serve(t, s, access{})
	for range s.limits.connections {
		var d net.Dialer
		silent, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("status %d", answer.StatusCode)
	}
}

// A header that does not end is cut off.
func TestHeaderIsLimited(t *testing.T) {
	t.Parallel()
	address := serve(t, server(), access{})
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 1<<20)) }()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err == nil && string(head) != "HTTP/1.1 431" {
		t.Errorf("answered %q", head)
	}
}
