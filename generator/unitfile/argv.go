package unitfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// SplitArgv splits a value into words as systemd does for ExecStart=
// (systemd.service(5), COMMAND LINES; extract-word.c): words are separated by
// white space; '…' and "…" may stand anywhere in a word; inside and outside of
// both, C escapes are replaced: \a \b \f \n \r \t \v \\ \" \' \s (a space)
// \xNN \NNN \uNNNN \UNNNNNNNN. An escape that systemd does not know stays as it is
// written; the word \; is a semicolon.
//
// Specifiers (%) and variables ($) are left alone. Errors are an open quote,
// and a ';' that stands alone, since to systemd that begins another command.
func SplitArgv(value string) ([]string, error) {
	commands, separated, err := splitCommands(value)
	switch {
	case err != nil:
		return nil, err
	case separated:
		return nil, errors.New(`';' alone separates commands; write \; for a semicolon`)
	case len(commands) == 0:
		return nil, nil
	}
	return commands[0], nil
}

// SplitCommands splits a value of ExecStart= and its like into its commands,
// which a ';' that stands alone separates, and each into words as SplitArgv
// does. The error is an open quote.
func SplitCommands(value string) ([][]string, error) {
	commands, _, err := splitCommands(value)
	return commands, err
}

// splitCommands does the work of both. separated: there was a separator, be it
// that nothing follows it.
func splitCommands(value string) (commands [][]string, separated bool, err error) {
	var argv []string
	rest := strings.TrimLeft(value, whitespace)
	for rest != "" {
		first, after := rest, ""
		if i := strings.IndexAny(rest, whitespace); i >= 0 {
			first, after = rest[:i], rest[i:]
		}
		switch {
		case first == ";" && len(argv) > 0:
			commands, argv, separated, rest = append(commands, argv), nil, true, after
		case first == `\;` && len(argv) > 0:
			argv, rest = append(argv, ";"), after
		default:
			word, left, err := cutWord(rest)
			if err != nil {
				return nil, false, err
			}
			argv, rest = append(argv, word), left
		}
		rest = strings.TrimLeft(rest, whitespace)
	}
	if len(argv) > 0 {
		commands = append(commands, argv)
	}
	return commands, separated, nil
}

// cutWord cuts the first word off s, which begins with no white space.
func cutWord(s string) (word, rest string, err error) {
	var b []byte
	var quote byte
	i := 0
	for i < len(s) {
		c := s[i]
		switch {
		case c == '\\':
			n := 0
			if b, n = appendEscape(b, s[i+1:]); n == 0 {
				// Unknown to systemd, which then keeps the
				// backslash and what follows it.
				b = append(b, '\\')
				if i+1 < len(s) {
					b = append(b, s[i+1])
					n = 1
				}
			}
			i += 1 + n
			continue
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				b = append(b, c)
			}
		case c == '\'' || c == '"':
			quote = c
		case strings.IndexByte(whitespace, c) >= 0:
			return string(b), s[i:], nil
		default:
			b = append(b, c)
		}
		i++
	}
	if quote != 0 {
		return "", "", fmt.Errorf("quote %c is not closed", quote)
	}
	return string(b), "", nil
}

// simpleEscapes are the escapes of one letter (cunescape_one in escape.c).
var simpleEscapes = map[byte]byte{
	'a': '\a', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v',
	'\\': '\\', '"': '"', '\'': '\'', 's': ' ',
}

// appendEscape appends what the escape at the beginning of s (behind its
// backslash) stands for and returns the bytes it took, or 0 where it is none.
func appendEscape(b []byte, s string) ([]byte, int) {
	if s == "" {
		return b, 0
	}
	if c, ok := simpleEscapes[s[0]]; ok {
		return append(b, c), 1
	}
	switch c := s[0]; {
	case c == 'x':
		if v, ok := digits(s[1:], 2, 16); ok && v != 0 {
			return append(b, byte(v)), 3
		}
	case '0' <= c && c <= '7':
		if v, ok := digits(s, 3, 8); ok && v != 0 && v <= 0xff {
			return append(b, byte(v)), 3
		}
	case c == 'u':
		if v, ok := digits(s[1:], 4, 16); ok && v != 0 {
			return appendRune(b, v), 5
		}
	case c == 'U':
		if v, ok := digits(s[1:], 8, 16); ok && v != 0 && v <= utf8.MaxRune && validRune(rune(v)) {
			return appendRune(b, v), 9
		}
	}
	return b, 0
}

// appendRune encodes like systemd's utf8_encode_unichar, which lets \uD800 pass.
func appendRune(b []byte, v uint32) []byte {
	if 0xd800 <= v && v <= 0xdfff {
		return append(b, 0xe0|byte(v>>12), 0x80|byte(v>>6)&0x3f, 0x80|byte(v)&0x3f)
	}
	return utf8.AppendRune(b, rune(v))
}

// digits reads exactly n digits.
func digits(s string, n int, base uint32) (uint32, bool) {
	if len(s) < n {
		return 0, false
	}
	var v uint32
	for i := range n {
		d := uint32(255)
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			d = uint32(c - '0')
		case 'a' <= c && c <= 'f':
			d = uint32(c-'a') + 10
		case 'A' <= c && c <= 'F':
			d = uint32(c-'A') + 10
		}
		if d >= base {
			return 0, false
		}
		v = v*base + d
	}
	return v, true
}

// QuoteArgv writes argv as a value of ExecStart= and its like: every word comes
// back as it is, % and $ doubled so that systemd expands nothing in it. It
// fails on a NUL byte, which no argument can hold.
//
// The first word is the program. systemd takes @ - : + ! in front of it for
// prefixes, quoted or not, so a program's name must not begin with one.
func QuoteArgv(argv []string) (string, error) {
	words := make([]string, len(argv))
	for i, arg := range argv {
		word, err := QuoteWord(strings.ReplaceAll(arg, "$", "$$"))
		if err != nil {
			return "", fmt.Errorf("cannot quote argument %d: %w", i, err)
		}
		words[i] = word
	}
	return strings.Join(words, " "), nil
}

// QuoteWord writes s as one word of a value that systemd splits and unquotes,
// such as Environment=: in quotes where it needs them, with escapes, % doubled.
// It fails on a NUL byte.
func QuoteWord(s string) (string, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return "", errors.New("NUL byte")
	}
	s = EscapeSpecifiers(s)
	if !needsQuotes(s) {
		return s, nil
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n <= 1 || !validRune(r) {
				for _, c := range []byte(s[i : i+n]) {
					fmt.Fprintf(&b, `\x%02x`, c)
				}
			} else {
				b.WriteString(s[i : i+n])
			}
			i += n
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case isControl(c):
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
		i++
	}
	b.WriteByte('"')
	return b.String(), nil
}

// needsQuotes reports whether s is anything but a plain word. A lone ';' would
// separate commands, and '#' or ';' in front could be read as a comment.
func needsQuotes(s string) bool {
	if s == "" || s[0] == '#' || s[0] == ';' || !validText(s) {
		return true
	}
	return strings.ContainsAny(s, " \t\"'\\") || hasControl(s)
}

// EscapeSpecifiers doubles every %, so that systemd takes none for a specifier
// (systemd.unit(5), SPECIFIERS).
func EscapeSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }
