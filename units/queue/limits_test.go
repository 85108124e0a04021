package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

func TestMalformedEntriesGoToDead(t *testing.T) {
	t.Parallel()
	d := redistest.Unix(t)
	big := strings.Repeat("x", queue.MaxPayload+1)
	many := []any{"id", "many"}
	for i := range 100 {
		many = append(many, fmt.Sprint(i), "v")
	}
	tests := []struct {
		name   string
		fields []any
		want   string // in error
		state  string // of the hash of id "j"
	}{
		{"no id", []any{"payload", "p"}, "no id", ""},
		{"empty id", []any{"id", "", "payload", "p"}, "no id", ""},
		{"newline", []any{"id", "a\nb"}, "control character U+000A", ""},
		{"not UTF-8", []any{"id", "\xff"}, "not UTF-8", ""},
		{"long id", []any{"id", strings.Repeat("i", 10<<10)}, "id of 10240 bytes", ""},
		{"huge id", []any{"id", big + big}, "id of", ""},
		{"payload", []any{"id", "j", "payload", big}, "payload of 262145 bytes", queue.Dead},
		{"huge payload", []any{"id", "j", "payload", strings.Repeat(big, 40)}, "entry of 10485", queue.Dead},
		{"many fields", many, "too many fields", ""},
		{"timeout", []any{"id", "j", "timeout", "5m"}, `timeout "5m"`, queue.Dead},
		{"NaN", []any{"id", "j", "timeout", "NaN"}, "timeout", queue.Dead},
		{"attempts", []any{"id", "j", "max_attempts", "0"}, "max_attempts", queue.Dead},
	}
	for _, blocking := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/blocking=%v", tt.name, blocking), func(t *testing.T) {
				t.Parallel()
				f := on(t, d, short)
				w := f.Consumer("a")
				if blocking {
					f.none(w) // so that the next claim begins with the blocking read
				}
				f.add(tt.fields...)
				f.add("id", "good", "payload", "p")
				if c := f.claim(w); c.ID != "good" {
					t.Errorf("claimed %.50q", c.ID)
				} else {
					f.must(c.Finish(f.ctx, nil))
				}
				f.none(w)
				f.empty()
				d := f.dead()
				if len(d) != 1 || !strings.Contains(d[0].Values["error"].(string), tt.want) {
					t.Fatalf("dead %.300v, want one with %q", d, tt.want)
				}
				if s := fmt.Sprint(d[0].Values); len(s) > queue.MaxPayload+1000 {
					t.Errorf("dead entry of %d bytes", len(s))
				}
				r, ok, err := f.Get(f.ctx, "j")
				if err != nil || ok != (tt.state != "") || r.State != tt.state {
					t.Errorf("record %+v, %v, %v; want state %q", r, ok, err, tt.state)
				}
			})
		}
	}
}

func malformedTwinLeavesTheJobAlone(f *fixture) {
	t := f.t
	f.add("id", "j", "timeout", "never")
	if _, err := f.Enqueue(f.ctx, queue.Job{ID: "j"}); err != nil {
		t.Fatal(err)
	}
	c := f.claim(f.Consumer("a"))
	f.must(c.Finish(f.ctx, []byte("ok")))
	f.want("j", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "ok"})
}

func payloadAtTheLimit(f *fixture) {
	t := f.t
	payload := bytes.Repeat([]byte{0, 1, 254, 255}, queue.MaxPayload/4)
	f.add("id", "j", "payload", payload)
	c := f.claim(f.Consumer("a"))
	if !bytes.Equal(c.Payload, payload) {
		t.Errorf("payload of %d bytes differs", len(c.Payload))
	}
	if err := c.Finish(f.ctx, make([]byte, queue.MaxPayload+1)); err == nil || errors.Is(err, queue.ErrLost) {
		t.Errorf("result above the limit: %v", err)
	}
	f.must(c.Finish(f.ctx, payload))
	if r := f.record("j"); r.Result != string(payload) {
		t.Errorf("result of %d bytes differs", len(r.Result))
	}
}

// oddIDsAndPayloads come out as they went in, and none holds up the next.
func oddIDsAndPayloads(f *fixture) {
	w := f.Consumer("a")
	nested := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	jobs := []queue.Job{
		{ID: "empty"},
		{ID: "binary", Payload: []byte{0, 1, '\r', '\n', 0xff, 0xfe}},
		{ID: "nested", Payload: []byte(nested)},
		{ID: "largest", Payload: bytes.Repeat([]byte("x"), queue.MaxPayload)},
		{ID: "a:b:{c}:job", Payload: []byte("colons and braces")},
		{ID: "-"}, {ID: "+"}, {ID: "$"}, {ID: ">"}, {ID: "0"}, {ID: "*"}, {ID: "%s%n"}, {ID: "../../etc"},
		{ID: "with space", Payload: []byte(" ")},
		{ID: "\u00e9\u00fc\u4e2d\U0001f980"},
		{ID: strings.Repeat("i", queue.MaxID)},
		{ID: strings.Repeat("\u4e2d", queue.MaxID/3)},
		{ID: "trace", Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
	for i, want := range jobs {
		if i%2 == 0 {
			f.enqueue(want)
		} else {
			f.add("id", want.ID, "payload", want.Payload, "trace", want.Trace)
		}
		c := f.claim(w)
		if c.ID != want.ID || !bytes.Equal(c.Payload, want.Payload) || c.Trace != want.Trace {
			f.t.Errorf("%.50q came as %.50q with %d bytes", want.ID, c.ID, len(c.Payload))
		}
		// Its way through the hash, and through Q:dead.
		if _, err := c.Fail(f.ctx, queue.Failure{Error: "e", Delay: time.Hour}); err != nil {
			f.t.Fatal(err)
		}
		f.must(f.Retry(f.ctx, want.ID))
		if _, err := f.claim(w).Fail(f.ctx, queue.Failure{Error: "e", Permanent: true}); err != nil {
			f.t.Fatal(err)
		}
		f.must(f.Retry(f.ctx, want.ID))
		if c = f.claim(w); c.ID != want.ID || !bytes.Equal(c.Payload, want.Payload) || c.Trace != want.Trace {
			f.t.Errorf("%.50q came back as %.50q with %d bytes", want.ID, c.ID, len(c.Payload))
		}
		f.must(c.Finish(f.ctx, c.Payload))
		if _, r, err := f.Find(f.ctx, want.ID); err != nil || r.Result != string(want.Payload) {
			f.t.Errorf("%.50q: result of %d bytes, %v", want.ID, len(r.Result), err)
		}
	}
	f.empty()
	if n := len(f.dead()); n != 0 {
		f.t.Errorf("%d entries in dead", n)
	}
}
