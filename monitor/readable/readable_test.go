package readable

import (
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]string{
		-time.Second:                            "0ms",
		812 * time.Millisecond:                  "812ms",
		7*time.Second + 900*time.Millisecond:    "7s",
		5*time.Minute + 7*time.Second:           "5m7s",
		5 * time.Minute:                         "5m",
		4*time.Hour + 59*time.Second:            "4h",
		76*time.Hour + 3*time.Minute:            "3d4h",
		400 * 24 * time.Hour:                    "400d",
		24*time.Hour - time.Nanosecond:          "23h59m",
		time.Hour + time.Minute - 1*time.Second: "1h",
	} {
		if got := Span(in); got != want {
			t.Errorf("Span(%v) = %q, want %q", in, got, want)
		}
	}
}

func TestSizeAndPercent(t *testing.T) {
	t.Parallel()
	for in, want := range map[uint64]string{0: "0B", 1023: "1023B", 1 << 10: "1K", 312<<20 + 512<<10: "312.5M", 2 << 30: "2G", 1<<64 - 1: "16E"} {
		if got := Size(in); got != want {
			t.Errorf("Size(%d) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[float64]string{0: "0%", 0.04: "0%", 0.25: "0.2%", 9.96: "10%", 55.5: "56%", 799.6: "800%"} {
		if got := Percent(in); got != want {
			t.Errorf("Percent(%v) = %q, want %q", in, got, want)
		}
	}
}
