package unitfile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// spanUnits are the units of a time span, in seconds (systemd.time(7);
// parse_time in time-util.c).
var spanUnits = map[string]float64{
	"": 1, "usec": 1e-6, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "msec": 1e-3, "ms": 1e-3,
	"seconds": 1, "second": 1, "sec": 1, "s": 1, "minutes": 60, "minute": 60, "min": 60, "m": 60,
	"hours": 3600, "hour": 3600, "hr": 3600, "h": 3600, "days": 86400, "day": 86400, "d": 86400,
	"weeks": 604800, "week": 604800, "w": 604800, "months": 2629800, "month": 2629800, "M": 2629800,
	"years": 31557600, "year": 31557600, "y": 31557600,
}

// CheckSpan says what is wrong with a time span as ParseSpan reads it.
func CheckSpan(s string) error {
	_, err := ParseSpan(s)
	return err
}

// ParseSpan reads a time span as systemd does: "30", "1.5h", "2min 200ms" or
// "infinity", which is the longest Duration, as is all that would be longer.
func ParseSpan(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no time span such as 30s or 2min", s)
	if len(s) > 60 {
		bad = fmt.Errorf("%q… is no time span such as 30s or 2min", s[:60])
	}
	rest := strings.Trim(s, whitespace)
	switch rest {
	case "infinity":
		return math.MaxInt64, nil
	case "":
		return 0, bad
	}
	const digits = "0123456789"
	seconds := 0.0
	for rest != "" {
		after := strings.TrimLeft(rest, digits)
		number := len(rest) > len(after)
		if strings.HasPrefix(after, ".") {
			fraction := strings.TrimLeft(after[1:], digits)
			number = number || len(fraction) < len(after)-1
			after = fraction
		}
		if !number {
			return 0, bad
		}
		spaced := strings.TrimLeft(after, whitespace)
		word := spaced
		if i := strings.IndexAny(spaced, digits+"."+whitespace); i >= 0 {
			word = spaced[:i]
		}
		unit, known := spanUnits[word]
		if word == "" && spaced == after && after != "" || !known {
			return 0, bad
		}
		n, _ := strconv.ParseFloat(rest[:len(rest)-len(after)], 64) // only its range can be wrong
		seconds += n * unit
		rest = strings.TrimLeft(spaced[len(word):], whitespace)
	}
	if seconds >= math.MaxInt64/1e9 {
		return math.MaxInt64, nil
	}
	return time.Duration(math.Round(seconds*1e6)) * time.Microsecond, nil
}
