package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMonitorURL(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:9720": "http://127.0.0.1:9720/readyz",
		"0.0.0.0:80":     "https://127.0.0.1:80/readyz",
		":80":            "https://127.0.0.1:80/readyz",
		"[::]:80":        "https://[::1]:80/readyz",
		"host:80":        "https://host:80/readyz",
	} {
		if got, err := monitorURL(listen, "/readyz"); err != nil || got != want {
			t.Errorf("monitorURL(%q) = %q, %v; want %q", listen, got, err, want)
		}
	}
	if _, err := monitorURL("nonsense", "/readyz"); err == nil {
		t.Error("an address without a port was taken")
	}
}

func TestPingConfiguration(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, conf string
		want       check
	}{
		{"fine", "[GPU]\nCount=0\n", check{Name: "configuration", OK: true, Detail: "configuration is fine"}},
		{"one", "[GPU]\nCount=many\n", check{Name: "configuration", Detail: "/etc/gpuherd/gpuherd.conf:2: Count=: …; gpuherd verify"}},
		{"two", "[GPU]\nCount=many\nSimulate=perhaps\n", check{Name: "configuration", Detail: "/etc/gpuherd/gpuherd.conf:2: Count=: …; 1 more problem; gpuherd verify"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			if err := os.MkdirAll(filepath.Join(root, "etc/gpuherd"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "etc/gpuherd/gpuherd.conf"), []byte(tc.conf), 0o600); err != nil {
				t.Fatal(err)
			}
			got := pingConfiguration(root)
			begin, end, _ := strings.Cut(tc.want.Detail, "…")
			if got.OK != tc.want.OK || got.Name != tc.want.Name || got.Skipped || !strings.HasPrefix(got.Detail, begin) || !strings.HasSuffix(got.Detail, end) {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
	// A machine whose PID 1 is another's.
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "proc/1/environ"), 0o755); err != nil {
		t.Fatal(err)
	}
	if c := pingConfiguration(root); !c.OK || !c.Skipped || !strings.HasPrefix(c.Detail, "configuration is not checked: cannot read PID 1's environment") {
		t.Errorf("not root: %+v", c)
	}
}

func TestAskMonitor(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/well", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ill", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "loop: ok\nredis: no answer\nbus: ok\ndisk: full", http.StatusServiceUnavailable)
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
	if c := askMonitor(t.Context(), server.URL+"/ill"); c.OK || c.Detail != "the monitor is not ready: 503 Service Unavailable, redis: no answer; disk: full" {
		t.Errorf("ill: %+v", c)
	}
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	if c := askMonitor(t.Context(), secure.URL+"/ill"); c.OK || c.Detail != "the monitor is not ready: 503 Service Unavailable, redis: no answer; disk: full" {
		t.Errorf("over TLS: %+v", c)
	}
	if c := askMonitor(t.Context(), "http://127.0.0.1:1/"); c.OK {
		t.Errorf("nobody: %+v", c)
	}
}
