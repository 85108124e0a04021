package queue

import (
	"strings"
	"testing"
	"time"
)

// FuzzParse: whatever an entry holds is refused with one line that can be shown,
// or a job within the limits.
func FuzzParse(f *testing.F) {
	for _, seed := range [][6]string{
		{"job-1", `{"prompt":"a horse"}`, "1.5", "3", "1764000000.25", "t"},
		{"a:b{c}", "", "", "", "", ""},
		{"a\nb", "\x00\xff", "NaN", "-1", "1e300", "\x7f"},
		{"\xff", strings.Repeat("[", 1000), "0x1p-9", "1000", "-0", "é"},
		{"", "", "5m", "1e3", "Inf", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4], seed[5])
	}
	f.Fuzz(func(t *testing.T, id, payload, timeout, attempts, notBefore, trace string) {
		fields := map[string]string{"id": id, "payload": payload, "timeout": timeout, "max_attempts": attempts, "not_before": notBefore, "trace": trace}
		j, err := parse(fields)
		if err != nil {
			if s := err.Error(); len(s) > 300 || strings.ContainsAny(s, "\r\n") {
				t.Errorf("the error is %q", s)
			}
			return
		}
		if err := j.Valid(); err != nil {
			t.Errorf("%+v is taken: %v", j, err)
		}
		if j.ID != id || string(j.Payload) != payload || j.Trace != trace {
			t.Errorf("%q, %q, %q came as %+v", id, payload, trace, j)
		}
		if ms := j.notBefore(); ms < 0 || ms > maxNotBefore*1000 || j.Timeout != 0 && j.Timeout < time.Millisecond {
			t.Errorf("not before %d ms, time-out %v", ms, j.Timeout)
		}
	})
}
