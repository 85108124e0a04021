package run

import (
	"fmt"
	"regexp"
	"strings"
)

// A Syntax is one of environment files.
type Syntax int

const (
	// Systemd is that of EnvironmentFile= (systemd.exec(5)): a # within a
	// line is part of the value, a backslash at its end goes on.
	Systemd Syntax = iota
	// Dotenv is that of .env files as node's dotenv reads them: export may
	// stand in front, a # after white space begins a comment, \n in double
	// quotes is a new line, ` is a quote too.
	Dotenv
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ParseEnv reads an environment file and returns NAME=VALUE in its order. An
// error says NAME:LINE and what is wrong, and quotes no value: it may be a
// secret.
func ParseEnv(name string, data []byte, syntax Syntax) ([]string, error) {
	text := strings.TrimPrefix(strings.ReplaceAll(string(data), "\r\n", "\n"), "\ufeff")
	p := envParser{name: name, text: text, line: 1, syntax: syntax}
	var env []string
	for {
		assignment, err := p.assignment()
		if err != nil {
			return nil, err
		}
		if assignment == "" {
			return env, nil
		}
		env = append(env, assignment)
	}
}

type envParser struct {
	name   string
	text   string // what is left
	line   int
	syntax Syntax
}

func (p *envParser) failed(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.name, line, fmt.Sprintf(format, args...))
}

// take cuts n bytes off the text.
func (p *envParser) take(n int) string {
	s := p.text[:n]
	p.text = p.text[n:]
	p.line += strings.Count(s, "\n")
	return s
}

const blanks = " \t\v\f"

// assignment returns the next one, "" at the end.
func (p *envParser) assignment() (string, error) {
	for {
		p.take(len(p.text) - len(strings.TrimLeft(p.text, blanks+"\n")))
		if p.text == "" {
			return "", nil
		}
		if c := p.text[0]; c != '#' && (c != ';' || p.syntax == Dotenv) {
			break
		}
		p.take(p.lineEnd())
	}
	line := p.line
	head := p.text[:p.lineEnd()]
	key, _, ok := strings.Cut(head, "=")
	if !ok {
		return "", p.failed(line, "is no assignment; write NAME=VALUE")
	}
	p.take(len(key) + 1)
	key = strings.Trim(key, blanks)
	if p.syntax == Dotenv {
		if rest, ok := strings.CutPrefix(key, "export"); ok && strings.Trim(rest, blanks) != rest {
			key = strings.Trim(rest, blanks)
		}
	}
	if !variableName.MatchString(key) {
		return "", p.failed(line, "%q is no name of a variable; letters, digits and _ may stand in one", key)
	}
	read := p.systemdValue
	if p.syntax == Dotenv {
		read = p.dotenvValue
	}
	value, err := read(line, key)
	if err != nil {
		return "", err
	}
	if strings.Contains(value, "\x00") {
		return "", p.failed(line, "the value of %s has a NUL byte", key)
	}
	return key + "=" + value, nil
}

func (p *envParser) lineEnd() int {
	if i := strings.IndexByte(p.text, '\n'); i >= 0 {
		return i
	}
	return len(p.text)
}

// quoted takes what stands in quotes, which the text begins with; unescape
// gets what follows a backslash, nil where it means nothing.
func (p *envParser) quoted(line int, key string, unescape func(byte) string) (string, error) {
	quote := p.text[0]
	var b strings.Builder
	for i := 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == quote:
			p.take(i + 1)
			return b.String(), nil
		case c == '\\' && unescape != nil && i+1 < len(p.text):
			i++
			b.WriteString(unescape(p.text[i]))
		default:
			b.WriteByte(c)
		}
	}
	return "", p.failed(line, "the value of %s has an open quote %c", key, quote)
}

// systemdValue reads a value as parse_env_file_internal in env-file.c does:
// quotes count where a value or a part of it begins.
func (p *envParser) systemdValue(line int, key string) (string, error) {
	var value strings.Builder
	for {
		p.take(len(p.text) - len(strings.TrimLeft(p.text, blanks)))
		if p.text == "" {
			return value.String(), nil
		}
		var part string
		var err error
		switch p.text[0] {
		case '\n':
			return value.String(), nil
		case '\'':
			part, err = p.quoted(line, key, nil)
		case '"':
			part, err = p.quoted(line, key, func(c byte) string {
				switch {
				case strings.IndexByte("\"\\`$", c) >= 0:
					return string(c)
				case c == '\n':
					return ""
				}
				return `\` + string(c)
			})
		default:
			value.WriteString(p.bare())
			return value.String(), nil
		}
		if err != nil {
			return "", err
		}
		value.WriteString(part)
	}
}

// bare takes the rest of the line, and of those it goes on in.
func (p *envParser) bare() string {
	var b strings.Builder
	kept := 0 // white space behind it is none of the value
	i := 0
	for ; i < len(p.text) && p.text[i] != '\n'; i++ {
		c := p.text[i]
		if c == '\\' && i+1 < len(p.text) {
			if i++; p.text[i] != '\n' {
				b.WriteByte(p.text[i])
				kept = b.Len()
			}
			continue
		}
		b.WriteByte(c)
		if strings.IndexByte(blanks, c) < 0 {
			kept = b.Len()
		}
	}
	p.take(i)
	return b.String()[:kept]
}

// dotenvValue reads a value as dotenv does.
func (p *envParser) dotenvValue(line int, key string) (string, error) {
	p.take(len(p.text) - len(strings.TrimLeft(p.text, blanks)))
	if p.text != "" && strings.IndexByte("\"'`", p.text[0]) >= 0 {
		// A quote that is never closed is one of the value.
		if i := strings.IndexByte(p.text[1:], p.text[0]); i >= 0 {
			var unescape func(byte) string
			if p.text[0] == '"' {
				unescape = func(c byte) string {
					switch c {
					case 'n':
						return "\n"
					case 'r':
						return "\r"
					case '"':
						return `"`
					}
					return `\` + string(c)
				}
			}
			value, err := p.quoted(line, key, unescape)
			if err != nil {
				return "", err
			}
			rest := strings.Trim(p.take(p.lineEnd()), blanks)
			if rest != "" && rest[0] != '#' {
				return "", p.failed(line, "something stands behind the quoted value of %s", key)
			}
			return value, nil
		}
	}
	value := p.take(p.lineEnd())
	for i := range len(value) {
		if value[i] == '#' && (i == 0 || strings.IndexByte(blanks, value[i-1]) >= 0) {
			value = value[:i]
			break
		}
	}
	return strings.Trim(value, blanks), nil
}
