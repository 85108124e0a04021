package unitfile

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// validText reports whether s is UTF-8 as systemd's utf8_is_valid() has it:
// without surrogates and without Unicode's noncharacters.
func validText(s string) bool {
	for len(s) > 0 {
		if s[0] < utf8.RuneSelf {
			s = s[1:]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n <= 1 || !validRune(r) {
			return false
		}
		s = s[n:]
	}
	return true
}

// validRune is unichar_is_valid() of systemd's utf8.c.
func validRune(r rune) bool {
	return utf8.ValidRune(r) && (r < 0xfdd0 || r > 0xfdef) && r&0xfffe != 0xfffe
}

// isControl reports whether c has no place in a unit file. A tab has.
func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

func hasControl(s string) bool {
	for i := range len(s) {
		if isControl(s[i]) {
			return true
		}
	}
	return false
}

// checkSection refuses what systemd's parser refuses in a header
// (string_is_safe), and what would not read back.
func checkSection(name string) error {
	switch {
	case name == "":
		return errors.New("section header without a name")
	case !validText(name):
		return errors.New("section header is not valid UTF-8")
	case hasControl(name) || strings.ContainsAny(name, "\t\"'\\"):
		return errors.New("section header holds a quote, backslash or control character")
	}
	return nil
}
