// Package web is the monitor's HTTP: whether it is alive and ready, and its
// metrics. It serves loopback addresses only.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// A Check is one thing that the monitor needs.
type Check struct {
	Name  string
	Ready func() error // nil while it is as it should be
}

// A Server serves until its context ends. An address that cannot be had yet is
// tried again: HTTP is never a reason for the monitor to end.
type Server struct {
	Listen  string // host:port
	Alive   func() error
	Checks  []Check
	Metrics http.Handler
	Log     *slog.Logger
}

// Times that one request and one connection may take.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 60 * time.Second
	closeTimeout  = 2 * time.Second
	maxHeader     = 16 << 10 // bytes

	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// String names the task.
func (s *Server) String() string { return "HTTP server" }

// Run serves until ctx ends, and returns nil then.
func (s *Server) Run(ctx context.Context) error {
	if err := loopback(s.Listen); err != nil {
		s.Log.Error("no HTTP", "error", err)
		<-ctx.Done()
		return nil
	}
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		var conf net.ListenConfig
		l, err := conf.Listen(ctx, "tcp", s.Listen)
		if err == nil {
			s.Log.Info("serving HTTP", "address", l.Addr().String())
			if err = s.Serve(ctx, l); err == nil {
				return nil
			}
			delay = firstRetry
		}
		if ctx.Err() != nil {
			return nil
		}
		s.Log.Warn("no HTTP, trying again", "error", err, "in", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// Serve serves on l until ctx ends, and returns nil then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-done:
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	}()
	err := server.Serve(l)
	close(done)
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler returns what is served.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, []Check{{Name: "loop", Ready: s.Alive}})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, s.Checks)
	})
	mux.Handle("GET /metrics", s.Metrics)
	return mux
}

// answer writes a line for each check, and 503 where one fails.
func answer(w http.ResponseWriter, checks []Check) {
	status, body := http.StatusOK, ""
	for _, c := range checks {
		if err := c.Ready(); err != nil {
			status = http.StatusServiceUnavailable
			body += fmt.Sprintf("%s: %v\n", c.Name, err)
			continue
		}
		body += c.Name + ": ok\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// loopback says why an address cannot be served.
func loopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("[Monitor] Listen=%s: %w; write HOST:PORT", listen, err)
	}
	if host == "localhost" {
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Unmap().IsLoopback() {
		return nil
	}
	return fmt.Errorf("[Monitor] Listen=%s is no loopback address: others need a token and TLS, which are not available yet; write 127.0.0.1:PORT", listen)
}
