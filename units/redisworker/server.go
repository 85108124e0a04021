package redisworker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gpuherd/generator/version"
)

const (
	connectTimeout = 5 * time.Second
	maxRetryAfter  = 24 * time.Hour
)

// A server is what an executor sends its jobs to, over HTTP/1.1. Each request
// has a connection of its own: net/http may send a request again that went out
// on a connection which was used before, and a job is not to run twice.
type server struct {
	url    *url.URL
	name   string // for messages: no query, which may hold a token
	client *http.Client
}

func newServer(where string) (*server, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, fmt.Errorf("cannot read URL: %w", errors.Unwrap(err)) // url.Error repeats it
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("cannot read URL: want http://HOST:PORT/PATH or https://HOST:PORT/PATH")
	}
	if u.User != nil {
		return nil, errors.New("cannot read URL: a user and a password have no place in it")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("cannot read URL: port %s is no number from 1 to 65535", p)
		}
	}
	s := &server{url: u, name: u.Scheme + "://" + u.Host + u.EscapedPath()}
	s.client = &http.Client{
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.connect(ctx) },
			DialTLSContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return s.connect(ctx) },
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

// A noConnectionError is why a request never left this machine.
type noConnectionError struct{ error }

func (e noConnectionError) Unwrap() error { return e.error }

// connect makes a connection. Its error is a noConnectionError.
func (s *server) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	port := s.url.Port()
	if port == "" {
		port = s.url.Scheme // net knows both by name
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(s.url.Hostname(), port))
	if err != nil {
		return nil, noConnectionError{err}
	}
	if s.url.Scheme == "http" {
		return conn, nil
	}
	secure := tls.Client(conn, &tls.Config{ServerName: s.url.Hostname()})
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, noConnectionError{err}
	}
	return secure, nil
}

// do sends a request, and returns the answer whatever its status. The body has
// to be closed.
func (s *server) do(ctx context.Context, method string, u *url.URL, header http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, plainError(err)
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("User-Agent", "gpuherd-redis-worker/"+version.String())
	r, err := s.client.Do(req)
	if err != nil {
		return nil, plainError(err)
	}
	return r, nil
}

// plainError is err without the URL, which may hold a token.
func plainError(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// never says whether the request of err was never sent.
func never(err error) bool {
	var e noConnectionError
	return errors.As(err, &e)
}

// refusal is "500 Internal Server Error: what the body begins with", and more
// of the body.
func refusal(r *http.Response) (reason, more string) {
	text := capture{most: stderrTail}
	_, _ = io.Copy(&text, io.LimitReader(r.Body, stderrTail)) // half of it is better than none
	more = strings.TrimSpace(string(text.buf))
	line, _, _ := strings.Cut(more, "\n")
	reason = strconv.Itoa(r.StatusCode)
	if name := http.StatusText(r.StatusCode); name != "" {
		reason += " " + name
	}
	if line = inert(line); line != "" {
		reason += ": " + line
	}
	return reason, more
}

// retryAfter reads the field of that name: seconds, or a date of the server's
// own clock (RFC 9110, 10.2.3). What is no such thing is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		if theirs, err := http.ParseTime(h.Get("Date")); err == nil {
			now = theirs
		}
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
