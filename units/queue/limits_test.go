package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gpuherd/units/queue"
)

func TestMalformedEntriesGoToDead(t *testing.T) {
	t.Parallel()
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
				f := setup(t, short)
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

func TestMalformedTwinLeavesTheJobAlone(t *testing.T) {
	t.Parallel()
	f := setup(t, short)
	f.add("id", "j", "timeout", "never")
	if _, err := f.Enqueue(f.ctx, queue.Job{ID: "j"}); err != nil {
		t.Fatal(err)
	}
	c := f.claim(f.Consumer("a"))
	f.must(c.Finish(f.ctx, []byte("ok")))
	f.want("j", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "ok"})
}

func TestPayloadAtTheLimit(t *testing.T) {
	t.Parallel()
	f := setup(t, short)
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
