// Package readable writes sizes, times and shares in few characters, for
// people.
package readable

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// None stands where there is nothing to say.
const None = "-"

// Size returns bytes as systemd writes them: "312.5M", "2G", base 1024.
func Size(bytes uint64) string {
	return units.CustomSize("%.4g%s", float64(bytes), 1024, []string{"B", "K", "M", "G", "T", "P", "E"})
}

// Span returns a duration in its two largest units: "3d4h", "5m7s", "812ms".
func Span(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	s := int64(d / time.Second)
	parts := []struct {
		unit string
		n    int64
	}{{"d", s / 86400}, {"h", s / 3600 % 24}, {"m", s / 60 % 60}, {"s", s % 60}}
	for i, p := range parts {
		if p.n == 0 {
			continue
		}
		out := fmt.Sprintf("%d%s", p.n, p.unit)
		if i+1 < len(parts) && parts[i+1].n > 0 {
			out += fmt.Sprintf("%d%s", parts[i+1].n, parts[i+1].unit)
		}
		return out
	}
	return "0s"
}

// Percent returns a share of one core.
func Percent(p float64) string {
	if p < 10 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", p), ".0") + "%"
	}
	return fmt.Sprintf("%.0f%%", p)
}
