package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/fleet"
	"gpuherd/monitor/state"
)

// server returns a Server of the herd of sources().
func server() *Server {
	src := sources()
	s := &Server{
		Listen: "127.0.0.1:0", Alive: func() error { return nil }, Metrics: NewMetrics(src).Handler(), Log: quiet,
		Feed: NewFeed(), Samples: src.Samples,
		About: func() About { return About{Host: "box", Version: "1.2.3", BootID: "boot", Epoch: 5, Uptime: 7.5} },
		Fleet: &Fleet{
			hosts: fleet.NewShared(func(context.Context) (fleet.Fleet, error) { return someFleet(), nil }),
			queue: fleet.NewShared(func(context.Context) (fleet.Queue, error) { return fleet.Queue{Name: "gpu", AtMS: 9, Waiting: 4}, nil }),
		},
	}
	s.Feed.Push(state.Delta{Reset: true, Units: src.Units(), GPUs: []state.GPU{{Index: 0, UUID: "GPU-1", Health: state.HealthUnknown}}})
	return s
}

// serve serves with the test and returns the address.
func serve(t *testing.T, s *Server, a access) string {
	t.Helper()
	l, err := access{}.listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, l, a) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// A follower is a client of /api/v1/events.
type follower struct {
	t      *testing.T
	body   io.ReadCloser
	lines  *bufio.Scanner
	status int
	last   string // id of the last event with one
}

func follow(t *testing.T, address, last string) *follower {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	f := &follower{t: t, body: answer.Body, lines: bufio.NewScanner(answer.Body), status: answer.StatusCode, last: last}
	f.lines.Buffer(nil, 1<<20)
	return f
}

// next returns the next event; ok is false at the end of the stream. A comment
// is the kind ":".
func (f *follower) next() (kind, data string, ok bool) {
	f.t.Helper()
	for f.lines.Scan() {
		line := f.lines.Text()
		if line == "" {
			if kind != "" {
				return kind, data, true
			}
			continue
		}
		if line == ":" {
			kind = ":"
		}
		switch field, value, _ := strings.Cut(line, ": "); field {
		case "id":
			f.last = value
		case "event":
			kind = value
		case "data":
			data = value
		}
	}
	return "", "", false
}

// want reads the next event and compares its data, of which numbers of no
// interest may be left out in want.
func (f *follower) want(kind, data string) {
	f.t.Helper()
	gotKind, got, _ := f.next()
	if gotKind != kind {
		f.t.Fatalf("event %s %s, want %s", gotKind, got, kind)
	}
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		f.t.Fatalf("%q: %v", got, err)
	}
	if err := json.Unmarshal([]byte(data), &w); err != nil {
		f.t.Fatalf("%q: %v", data, err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		f.t.Errorf("data (-want +got):\n%s", diff)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := server()
	s.Feed = NewFeed()
	address := serve(t, s, access{})
	const unit = `{"unit":"w@0.service","service":"","active":"active","sub":"","result":"","pid":0,"restarts":0,"invocation_id":"","since_ms":0,"exit_status":0,"seq":%d}`
	event := func(seq int) string {
		data := strings.TrimSuffix(fmt.Sprintf(unit, seq), "}") + `,"event":"running"}`
		return fmt.Sprintf(`{"boot_id":"boot","epoch":5,"seq":%d,"at_us":0,"type":"unit","data":%s}`, seq, data)
	}
	snapshot := func(reason string, seq int, units string) string {
		return fmt.Sprintf(`{"boot_id":"boot","epoch":5,"seq":%d,"reason":%q,"units":[%s],"gpus":[]}`, seq, reason, units)
	}
	at := func(seq int) string { return fmt.Sprintf(unit, seq) }

	first := follow(t, address, "")
	first.want("snapshot", snapshot("new", 0, ""))
	s.Feed.Push(change(1, "w@0.service", "active"))
	first.want("event", event(1))
	first.want("update", `{"units":[`+at(1)+`]}`)

	// It goes, misses two, and comes back.
	_ = first.body.Close()
	s.Feed.Push(change(2, "w@0.service", "active"))
	s.Feed.Push(change(3, "w@0.service", "active"))
	second := follow(t, address, first.last)
	second.want("event", event(2))
	second.want("event", event(3))
	second.want("snapshot", snapshot("resumed", 3, at(3)))
	if second.last != s.Feed.id(3) {
		t.Errorf("the last id is %s", second.last)
	}

	// The monitor was started again meanwhile: the id tells nothing any more.
	third := follow(t, address, "0123456789abcdef:3")
	third.want("snapshot", snapshot("lost", 3, at(3)))

	s.Feed.Push(state.Delta{Gone: []string{"w@0.service"}, GPUsChanged: true})
	for _, f := range []*follower{second, third} {
		f.want("update", `{"gone":["w@0.service"],"gpus":[]}`)
	}
}

// A stream outlives the times that bound other answers, and shows that it is
// alive.
func TestEventsLast(t *testing.T) {
	t.Parallel()
	s := server()
	s.limits = defaultLimits()
	s.limits.read, s.limits.write, s.limits.beat = 50*time.Millisecond, 50*time.Millisecond, 20*time.Millisecond
	f := follow(t, serve(t, s, access{}), "")
	began, beats := time.Now(), 0
	for time.Since(began) < 4*s.limits.write {
		kind, _, ok := f.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if kind == ":" {
			beats++
		}
	}
	if beats == 0 {
		t.Error("no sign of life")
	}
	s.Feed.Push(change(1, "a", "active"))
	for {
		kind, _, ok := f.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if kind == sseEvent {
			return
		}
	}
}

// Clients that do not read cost the others nothing, and are sent away.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	s := server()
	s.limits = defaultLimits()
	s.limits.eventWrite = 3 * time.Second // long enough for one that reads on a busy machine
	address := serve(t, s, access{})
	var d net.Dialer
	slow, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.(*net.TCPConn).SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(slow, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	fast := follow(t, address, "")
	if kind, _, _ := fast.next(); kind != sseSnapshot {
		t.Fatalf("first comes %s", kind)
	}
	eventually(t, "two clients", func() bool { return s.Feed.Stats().Clients == 2 })
	last := uint64(0)
	for seq := uint64(1); s.Feed.Stats().Evicted == 0; seq++ {
		d := change(seq, "a", strings.Repeat("long ", 4000))
		s.Feed.Push(d)
		for last < seq { // in step with the fast one, which so is never behind
			kind, data, ok := fast.next()
			if !ok {
				t.Fatal("the client that reads was sent away")
			}
			if kind == sseEvent {
				var e struct{ Seq uint64 }
				if err := json.Unmarshal([]byte(data), &e); err != nil || e.Seq != last+1 {
					t.Fatalf("event %d follows %d: %v", e.Seq, last, err)
				}
				last = e.Seq
			}
		}
		if seq > 1_000_000 {
			t.Fatal("the client that does not read is never sent away")
		}
	}
	eventually(t, "the slow client is gone", func() bool { return s.Feed.Stats().Clients == 1 })
}

func TestTooManyFollow(t *testing.T) {
	t.Parallel()
	s := server()
	s.limits = defaultLimits()
	s.limits.streams = 1
	address := serve(t, s, access{})
	first := follow(t, address, "")
	if kind, _, _ := first.next(); kind != sseSnapshot {
		t.Fatalf("first comes %s", kind)
	}
	if second := follow(t, address, ""); second.status != http.StatusServiceUnavailable {
		t.Errorf("the second got %d", second.status)
	}
	_ = first.body.Close()
	eventually(t, "the place is free", func() bool { return s.Feed.Stats().Clients == 0 })
	if third := follow(t, address, ""); third.status != http.StatusOK {
		t.Errorf("the third got %d", third.status)
	}
}

// A HEAD is told the kind of the answer, and ends.
func TestEventsHead(t *testing.T) {
	t.Parallel()
	address := serve(t, server(), access{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+address+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		t.Errorf("%d %s", answer.StatusCode, answer.Header)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about: %s", what)
		}
	}
}
