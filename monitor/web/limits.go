package web

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// limits bound what clients can take of the monitor, together and each.
type limits struct {
	header      time.Duration // to send a request's header
	read        time.Duration // to send a request
	write       time.Duration // to take an answer
	eventWrite  time.Duration // to take a batch of server-sent events
	idle        time.Duration // without a request, before a connection is closed
	beat        time.Duration // between signs of life in a stream of events
	close       time.Duration // for answers under way at the end
	headerBytes int
	connections int
	streams     int // clients that follow events
}

func defaultLimits() limits {
	return limits{
		header: 5 * time.Second, read: 10 * time.Second, write: 30 * time.Second, eventWrite: 10 * time.Second,
		idle: time.Minute, beat: 15 * time.Second, close: 2 * time.Second,
		headerBytes: 16 << 10, connections: 128, streams: 32,
	}
}

// readsOnly refuses what changes something, and what has a body: there is
// nothing here to send.
func readsOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			w.Header().Set("Connection", "close")
			fail(w, http.StatusMethodNotAllowed, "only GET and HEAD are answered")
		case r.ContentLength != 0:
			w.Header().Set("Connection", "close")
			fail(w, http.StatusRequestEntityTooLarge, "a request has no body here")
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// limit returns a listener with at most n connections. More wait to be
// accepted.
func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: conn, free: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type placed struct {
	net.Conn
	free func()
}

func (c *placed) Close() error {
	defer c.free()
	return c.Conn.Close()
}
