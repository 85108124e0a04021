// Package comfytest is a ComfyUI for tests: a server with the part of the API
// by which prompts are run, as ComfyUI 0.38 has it (server.py, execution.py,
// comfy_execution/progress.py and main.py there), with nodes of its own. It
// can be slow to start, deaf, killed and started again with nothing in memory.
package comfytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// PromptIDs says what becomes of the prompt_id in POST /prompt.
type PromptIDs int

// What versions do with it.
const (
	UUIDs PromptIDs = iota // refused unless it is a UUID in lower case
	Any                    // taken as it is, by older versions
	Own                    // not looked at, by the oldest
)

// A Server is one ComfyUI at one address, through all its restarts.
type Server struct {
	IDs PromptIDs // before Start

	t       testing.TB
	address string

	mu       sync.Mutex
	now      *process // nil: it does not run
	deaf     chan struct{}
	mute     bool
	swallow  string // the request whose next answer is cut off
	release  int    // steps that held nodes may still take
	released chan struct{}
	counts   map[string]int // requests, by method and path
	executed []string       // prompt IDs as their execution began
}

// New returns a server that does not run yet, at an address that is free. It
// ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	// A socket that is bound and does not listen refuses connections, and
	// keeps the port from all others but Start.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	err1 := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	err2 := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	name, err3 := unix.Getsockname(fd)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	s := &Server{t: t, address: address, released: make(chan struct{}), counts: map[string]int{}}
	t.Cleanup(s.Kill)
	return s
}

// URL returns its address.
func (s *Server) URL() string { return "http://" + s.address }

// Start begins to listen, as ComfyUI does once its nodes are loaded.
func (s *Server) Start() {
	s.t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(s.t.Context(), "tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	p := newProcess(s)
	s.mu.Lock()
	s.now = p
	s.mu.Unlock()
	p.start(l)
}

// Kill ends it like SIGKILL: all connections break, and queue, history and
// cache are gone. It is no error where nothing runs.
func (s *Server) Kill() {
	s.mu.Lock()
	p := s.now
	s.now = nil
	s.mu.Unlock()
	if p != nil {
		p.stop()
	}
	s.Thaw()
}

// Freeze makes it deaf: connections are accepted and nothing is answered, as
// while a node keeps Python's lock.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf == nil {
		s.deaf = make(chan struct{})
	}
}

// Thaw undoes Freeze.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf != nil {
		close(s.deaf)
		s.deaf = nil
	}
}

// Mute makes websockets silent without closing them, or ends that.
func (s *Server) Mute(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = on
}

// Swallow has the next answer to "METHOD /path" cut off, after the request was
// carried out.
func (s *Server) Swallow(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swallow = what
}

// DropSockets breaks all websockets.
func (s *Server) DropSockets() {
	if p := s.process(); p != nil {
		for _, c := range p.clients() {
			_ = c.CloseNow()
		}
	}
}

// Sockets returns how many websockets are open.
func (s *Server) Sockets() int {
	if p := s.process(); p != nil {
		return len(p.clients())
	}
	return 0
}

// Release lets held nodes go n steps on.
func (s *Server) Release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release += n
	close(s.released)
	s.released = make(chan struct{})
}

// Requests returns how often "METHOD /path" was asked for.
func (s *Server) Requests(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// Executed returns the IDs of the prompts whose execution began, in order.
func (s *Server) Executed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.executed)
}

func (s *Server) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// step waits for a released step; an error is that of ctx.
func (s *Server) step(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.release > 0 {
			s.release--
			s.mu.Unlock()
			return nil
		}
		more := s.released
		s.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
