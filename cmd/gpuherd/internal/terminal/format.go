package terminal

import (
	"time"

	"gpuherd/monitor/readable"
)

// None stands where there is nothing to say.
const None = readable.None

// Size returns bytes as systemd writes them: "312.5M", "2G", base 1024.
func Size(bytes uint64) string { return readable.Size(bytes) }

// Span returns a duration in its two largest units: "3d4h", "5m7s", "812ms".
func Span(d time.Duration) string { return readable.Span(d) }

// Percent returns a share of one core.
func Percent(p float64) string { return readable.Percent(p) }
