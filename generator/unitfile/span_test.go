package unitfile

import (
	"math"
	"testing"
	"time"
)

func TestCheckSpan(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"0", "30", "30s", "5min 20s", "5min20s", "1.5h", ".5s", "2 h", "1y 12month", "300ms", "1us", "5µs", "infinity", " 30s ", "1M", "2 3"} {
		if err := CheckSpan(good); err != nil {
			t.Errorf("%v", err)
		}
	}
	for _, bad := range []string{"", "soon", "30x", "s", "-1", "1.2.3", "30 s x", "infinity s", ".", "30secs", "1,5s"} {
		if CheckSpan(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseSpan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"30": 30 * time.Second, "5min 20s": 320 * time.Second, "1.5h": 90 * time.Minute, ".5s": 500 * time.Millisecond,
		"2 3": 5 * time.Second, "300ms": 300 * time.Millisecond, "1us": time.Microsecond, "0.1us": 0, "1M": 2629800 * time.Second,
		"infinity": math.MaxInt64, "1000y": math.MaxInt64, "0": 0,
	} {
		if got, err := ParseSpan(text); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
}
