package terminal

import (
	"fmt"
	"io"
	"strings"
)

// A Field is one name with its values, one below the other.
type Field struct {
	Name   string
	Values []string
	Style  Style
}

// Fields writes names to the right of one margin and values to the left of
// it, as systemctl show does for people. Fields without a value are left out.
// Nothing is cut: what describes must be whole.
func Fields(w io.Writer, s Screen, fields []Field) error {
	margin := 0
	for _, f := range fields {
		if len(f.Values) > 0 {
			margin = max(margin, Width(f.Name))
		}
	}
	var out strings.Builder
	for _, f := range fields {
		for i, value := range f.Values {
			name := f.Name + ":"
			if i > 0 {
				name = ""
			}
			pad := strings.Repeat(" ", margin+1-Width(name))
			fmt.Fprintf(&out, "%s%s %s\n", pad, name, s.Paint(f.Style, Inert(value)))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}
