// Package redistest starts real redis-servers for tests. A server listens on
// a unix socket in a folder of its own, writes its append-only file at every
// command so that a restart loses nothing, and ends with the test, also where
// the test's process is killed.
//
//	srv := redistest.Start(t)
//	client := srv.Client(t)
//	srv.Pause() // SIGSTOP: connections stay, nothing answers
//	srv.Resume()
//	srv.Kill() // SIGKILL: the socket is gone
//	srv.Restart()
package redistest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/units/redisclient"
)

// wait bounds how long a server may take to start or to end.
const wait = 20 * time.Second

// quiet keeps each refused dial of go-redis out of the tests' output.
var quiet = sync.OnceFunc(func() { redisclient.LogTo(slog.New(slog.DiscardHandler)) })

// A Server is one redis-server process after the other, on the same socket
// and the same data.
type Server struct {
	Dir    string // data, log and socket
	Socket string

	tb      testing.TB
	args    []string
	process *os.Process
	ended   chan struct{} // closed once process is reaped
}

// Start runs redis-server and waits until it answers. args come last on its
// command line: "--requirepass", "secret".
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	quiet()
	// t.TempDir is too long for a socket's 107 bytes.
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{Dir: dir, Socket: filepath.Join(dir, "s"), tb: tb, args: args}
	tb.Cleanup(func() {
		s.Kill()
		if tb.Failed() {
			if log, err := os.ReadFile(filepath.Join(dir, "log")); err == nil {
				tb.Logf("redis-server said:\n%s", log)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("cannot clean up: %v", err)
		}
	})
	s.Restart()
	return s
}

// URL is what redisclient.Open takes.
func (s *Server) URL() string { return "unix://" + s.Socket }

// Client opens a client as the programs do; it is closed with the test.
func (s *Server) Client(tb testing.TB, opts ...redisclient.Option) redis.UniversalClient {
	tb.Helper()
	c, err := redisclient.Open(config.Redis{URL: s.URL()}, "", opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Restart starts the server again, after Kill or Stop or while it runs.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		s.tb.Fatalf("no redis-server: apt-get install redis-server: %v", err)
	}
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.CommandContext(context.Background(), path, append([]string{
		"--port", "0", "--unixsocket", s.Socket, "--dir", s.Dir, "--daemonize", "no",
		"--save", "", "--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "local",
	}, s.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The death signal is that of the starting thread, which must live
		// as long as the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it ends by a signal
		}
	}()
	if err := <-started; err != nil {
		s.tb.Fatalf("cannot start redis-server: %v", err)
	}
	s.process, s.ended = cmd.Process, ended
	if err := s.answers(); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) answers() error {
	c, err := redisclient.Open(config.Redis{URL: s.URL()}, "")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for {
		err := c.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("redis-server ended at once")
		case <-ctx.Done():
			return fmt.Errorf("redis-server does not answer: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends the server with SIGKILL. It is no error if it does not run.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server with SIGTERM.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

func (s *Server) end(sig syscall.Signal) {
	s.tb.Helper()
	if s.process == nil {
		return
	}
	_ = s.process.Signal(sig) // it may have ended by itself
	select {
	case <-s.ended:
	case <-time.After(wait):
		s.tb.Errorf("redis-server did not end on %v", sig)
	}
	s.process = nil
	_ = os.Remove(s.Socket) // SIGTERM has removed it
}

// Pause stops the process: connections stay open, and nothing answers.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if s.process == nil {
		s.tb.Fatalf("cannot send %v: redis-server does not run", sig)
	}
	if err := s.process.Signal(sig); err != nil {
		s.tb.Fatalf("cannot send %v to redis-server: %v", sig, err)
	}
}
