package unitfile

import (
	"fmt"
	"slices"
	"strings"
)

// spanUnits are the units of a time span (systemd.time(7); parse_time in
// time-util.c).
var spanUnits = []string{
	"usec", "us", "µs", "μs", "msec", "ms", "seconds", "second", "sec", "s", "minutes", "minute", "min", "m",
	"hours", "hour", "hr", "h", "days", "day", "d", "weeks", "week", "w", "months", "month", "M", "years", "year", "y",
}

// CheckSpan says what is wrong with a time span as systemd reads it: "30",
// "1.5h", "2min 200ms" or "infinity". How long it is it does not say.
func CheckSpan(s string) error {
	bad := fmt.Errorf("%q is no time span such as 30s or 2min", s)
	if len(s) > 60 {
		bad = fmt.Errorf("%q… is no time span such as 30s or 2min", s[:60])
	}
	rest := strings.Trim(s, whitespace)
	switch rest {
	case "infinity":
		return nil
	case "":
		return bad
	}
	const digits = "0123456789"
	for rest != "" {
		after := strings.TrimLeft(rest, digits)
		number := len(rest) > len(after)
		if strings.HasPrefix(after, ".") {
			fraction := strings.TrimLeft(after[1:], digits)
			number = number || len(fraction) < len(after)-1
			after = fraction
		}
		if !number {
			return bad
		}
		spaced := strings.TrimLeft(after, whitespace)
		word := spaced
		if i := strings.IndexAny(spaced, digits+"."+whitespace); i >= 0 {
			word = spaced[:i]
		}
		if word == "" && spaced == after && after != "" || word != "" && !slices.Contains(spanUnits, word) {
			return bad
		}
		rest = strings.TrimLeft(spaced[len(word):], whitespace)
	}
	return nil
}
