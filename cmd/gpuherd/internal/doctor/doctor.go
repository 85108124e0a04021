// Package doctor examines a machine for what keeps workers from running well,
// and says how each trouble is mended. It reads files below a root and asks
// Redis; what systemd has to say it gets from its caller.
package doctor

import (
	"fmt"
	"time"
)

// Verdicts of a finding.
const (
	OK      = "ok"
	Warning = "warning" // works, and may not go on to
	Problem = "problem" // something does not work
	Skipped = "skipped" // could not be looked at here
)

// A Finding is one thing that was looked at.
type Finding struct {
	Check   string `json:"check"` // such as "redis policy"
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`         // what was found
	Mend    string `json:"mend,omitempty"` // what to do about it
}

func found(check, verdict, mend, format string, args ...any) Finding {
	return Finding{check, verdict, fmt.Sprintf(format, args...), mend}
}

// ago writes how long ago t was.
func ago(now, t time.Time) string { return Span(now.Sub(t)) + " ago" }

// Span writes a time in its largest unit.
func Span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", max(0, d/time.Second))
}
