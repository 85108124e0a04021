package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestReadyz(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:9720": "http://127.0.0.1:9720/readyz",
		"0.0.0.0:80":     "http://127.0.0.1:80/readyz",
		":80":            "http://127.0.0.1:80/readyz",
		"[::]:80":        "http://[::1]:80/readyz",
		"host:80":        "http://host:80/readyz",
	} {
		if got, err := readyz(listen); err != nil || got != want {
			t.Errorf("readyz(%q) = %q, %v; want %q", listen, got, err, want)
		}
	}
	if _, err := readyz("nonsense"); err == nil {
		t.Error("an address without a port was taken")
	}
}

func TestAskMonitor(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/well", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ill", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "redis: no answer", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/hangs", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	defer close(release)

	ctx, cancel := context.WithTimeout(t.Context(), 50e6)
	defer cancel()
	if c := askMonitor(ctx, server.URL+"/hangs"); c.OK || c.Detail != "the monitor does not answer at "+server.URL+"/hangs in time" {
		t.Errorf("hangs: %+v", c)
	}
	if c := askMonitor(t.Context(), server.URL+"/well"); !c.OK || c.Detail != "the monitor is ready" {
		t.Errorf("well: %+v", c)
	}
	if c := askMonitor(t.Context(), server.URL+"/ill"); c.OK || c.Detail != "the monitor is not ready: 503 Service Unavailable redis: no answer" {
		t.Errorf("ill: %+v", c)
	}
	if c := askMonitor(t.Context(), "http://127.0.0.1:1/"); c.OK {
		t.Errorf("nobody: %+v", c)
	}
}
