// Package redistest starts real redis-servers for tests: one, or in every form
// that the programs can be pointed at (Forms). A server listens on a unix
// socket in a folder of its own, writes its append-only file at every command
// so that a restart loses nothing, and ends with the test, also where the
// test's process is killed.
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
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// A Server is one redis-server process after the other, on the same addresses
// and the same data.
type Server struct {
	Dir    string // data, log and socket
	Socket string
	Port   int // on 127.0.0.1; 0: the socket alone

	tb      testing.TB
	file    string // configuration, of a Sentinel; "": none
	args    []string
	process *process
}

// Start runs redis-server and waits until it answers. args come last on its
// command line: "--requirepass", "secret".
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s := prepare(tb, args...)
	s.Restart()
	return s
}

// startPort is Start with a port besides the socket, which option, "--port" or
// "--tls-port", sets.
func startPort(tb testing.TB, option string, args ...string) *Server {
	tb.Helper()
	s := prepare(tb, args...)
	s.Port = freePort(tb)
	s.args = append(s.args, "--bind", "127.0.0.1", option, strconv.Itoa(s.Port))
	s.Restart()
	return s
}

// prepare makes a server that does not run yet.
func prepare(tb testing.TB, args ...string) *Server {
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
			if log, err := os.ReadFile(s.log()); err == nil {
				tb.Logf("redis-server %s said:\n%s", s.Addr(), log)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("cannot clean up: %v", err)
		}
	})
	return s
}

func (s *Server) log() string { return filepath.Join(s.Dir, "log") }

// URL is what redisclient.Open takes to reach the socket.
func (s *Server) URL() string { return "unix://" + s.Socket }

// Addr is the address with the port, or the socket's where there is none.
func (s *Server) Addr() string {
	if s.Port == 0 {
		return s.Socket
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
}

// Client opens a client of the socket as the programs do; it is closed with
// the test.
func (s *Server) Client(tb testing.TB, opts ...redisclient.Option) redis.UniversalClient {
	tb.Helper()
	return open(tb, s.URL(), "", opts...)
}

func open(tb testing.TB, url, credentials string, opts ...redisclient.Option) redis.UniversalClient {
	tb.Helper()
	c, err := redisclient.Open(config.Redis{URL: url}, credentials, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Restart starts the server again, after Kill or Stop or while it runs.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Launch()
	if err := s.answers(); err != nil {
		s.tb.Fatal(err)
	}
}

// Launch is Restart that does not wait for an answer. more comes last on the
// command line, this time.
func (s *Server) Launch(more ...string) {
	s.tb.Helper()
	s.Kill()
	found, err := program()
	if err != nil {
		s.tb.Fatal(err)
	}
	var args []string
	if s.file != "" {
		args = append(args, s.file, "--sentinel")
	} else {
		args = []string{
			"--port", "0", "--unixsocket", s.Socket, "--dir", s.Dir, "--daemonize", "no",
			"--save", "", "--appendonly", "yes", "--appendfsync", "always",
		}
		if found.major >= 7 { // before, there is no need and no such option
			args = append(args, "--enable-debug-command", "local")
		}
	}
	if s.process, err = launch(s.log(), slices.Concat(args, s.args, more)...); err != nil {
		s.tb.Fatal(err)
	}
}

// answers waits until the server answers: an error that it sends is an answer,
// too, unless it still reads its data.
func (s *Server) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for {
		err := s.ping(ctx)
		var told redis.Error
		if err == nil || errors.As(err, &told) && !redis.IsLoadingError(err) {
			return nil
		}
		select {
		case <-s.process.ended:
			return errors.New("redis-server ended at once")
		case <-ctx.Done():
			return fmt.Errorf("redis-server does not answer: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ping asks by a client of its own: after some refused dials one waits for a
// second before it tries again.
func (s *Server) ping(ctx context.Context) error {
	c, err := redisclient.Open(config.Redis{URL: s.URL()}, "")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.Ping(ctx).Err()
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
	if err := s.process.end(sig); err != nil {
		s.tb.Error(err)
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
	if err := s.process.os.Signal(sig); err != nil {
		s.tb.Fatalf("cannot send %v to redis-server: %v", sig, err)
	}
}
