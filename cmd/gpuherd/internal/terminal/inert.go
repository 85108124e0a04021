package terminal

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Inert returns s so that showing it does nothing to a terminal: control
// characters (C0, DEL, C1), line and paragraph separators and the characters
// that turn the direction of writing become visible escapes, as does every
// byte that is no UTF-8. Text of a worker, such as STATUS=, is under the
// worker's control and must never move the cursor of whoever looks at it.
func Inert(s string) string {
	if !strings.ContainsFunc(s, dangerous) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case dangerous(r) && r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case dangerous(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

// dangerous reports whether a terminal might obey r instead of showing it.
func dangerous(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// JSON wraps w, which gets JSON of encoding/json, so that DEL and the C1
// control characters, which that package leaves alone, are escaped too. They
// occur inside strings only, so the result is the same JSON. Each Write must
// end at a character's end, as Encoder.Encode's does.
func JSON(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(p []byte) (int, error) {
	if bytes.ContainsFunc(p, dangerousInJSON) {
		var b bytes.Buffer
		for _, r := range string(p) {
			if dangerousInJSON(r) {
				fmt.Fprintf(&b, `\u%04x`, r)
			} else {
				b.WriteRune(r)
			}
		}
		if _, err := j.w.Write(b.Bytes()); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return j.w.Write(p)
}

func dangerousInJSON(r rune) bool { return r >= 0x20 && dangerous(r) }
