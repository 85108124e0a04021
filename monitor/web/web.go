// Package web is the monitor's HTTP: whether it is alive and ready, its
// metrics, the herd as JSON and as server-sent events, the fleet, and pages of
// both.
//
// A loopback address is open to the machine. Any other is served with TLS and
// to those with a token, or not at all. Nothing here asks D-Bus or the kernel:
// answers come from what the monitor knows. Only the fleet and the queue are
// read out of Redis, when somebody asks, once for all who ask.
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"gpuherd/monitor/resources"
)

// A Server serves until its context ends. An address that cannot be had yet is
// tried again: HTTP is never a reason for the monitor to end.
type Server struct {
	Listen      string // host:port
	Credentials string // folder of the service's credentials; "": none

	Alive   func() error
	Checks  []Check
	Metrics http.Handler
	Feed    *Feed
	About   func() About
	Samples func() map[string]resources.Sample
	Fleet   *Fleet
	Machine Machine // nil: no answers in the form of the PM2 machine
	Log     *slog.Logger

	limits limits // zero: defaultLimits
}

const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// String names the task.
func (s *Server) String() string { return "HTTP server" }

// Run serves until ctx ends, and returns nil then.
func (s *Server) Run(ctx context.Context) error {
	a, err := newAccess(s.Listen, s.Credentials)
	if err != nil {
		s.Log.Error("no HTTP", "error", err)
		<-ctx.Done()
		return nil
	}
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		l, err := a.listen(ctx, s.Listen)
		if err == nil {
			s.Log.Info("serving HTTP", "address", l.Addr().String(), "tls", a.tls != nil)
			if err = s.serve(ctx, l, a); err == nil {
				return nil
			}
			delay = firstRetry
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to end, it may not even have listened
		}
		s.Log.Warn("no HTTP, trying again", "error", err, "in", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// listen opens the address. Without TLS it has to be a loopback one, also where
// localhost has been made another.
func (a access) listen(ctx context.Context, address string) (net.Listener, error) {
	var conf net.ListenConfig
	l, err := conf.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if at, ok := l.Addr().(*net.TCPAddr); a.tls == nil && (!ok || !at.IP.IsLoopback()) {
		_ = l.Close()
		return nil, fmt.Errorf("%s is %s here, which others can reach", address, l.Addr())
	}
	return l, nil
}

// serve serves on l until ctx ends, and returns nil then.
func (s *Server) serve(ctx context.Context, l net.Listener, a access) error {
	bounds := s.bounds()
	l = limit(l, bounds.connections)
	if a.tls != nil {
		l = tls.NewListener(l, a.tls)
	}
	server := &http.Server{
		Handler:           s.handler(a),
		ReadHeaderTimeout: bounds.header, ReadTimeout: bounds.read,
		WriteTimeout: bounds.write, IdleTimeout: bounds.idle, MaxHeaderBytes: bounds.headerBytes,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // any port scan would fill the journal
		// The requests of a stream end with ctx; one connection is one request
		// at a time, so that the limits hold.
		BaseContext: func(net.Listener) context.Context { return ctx },
		Protocols:   new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	stopped := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-done:
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bounds.close)
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

// handler returns what is served.
func (s *Server) handler(a access) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", probe(a, Check{Name: "loop", Ready: s.Alive}))
	mux.HandleFunc("GET /readyz", probe(a, s.Checks...))
	mux.HandleFunc("GET /metrics", a.guard(s.Metrics.ServeHTTP))
	s.api(mux, a)
	s.pages(mux, a)
	if s.Machine != nil {
		s.machine(mux, a)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "there is nothing here; see gpuherd-api(7)")
	})
	if a.tls == nil {
		return readsOnly(localNames(mux))
	}
	return readsOnly(a.briefly(mux))
}

func (s *Server) bounds() limits {
	if s.limits == (limits{}) {
		return defaultLimits()
	}
	return s.limits
}
