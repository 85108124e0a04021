package unitfile

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

const (
	// maxLine is systemd's LONG_LINE_MAX: a line, and a line with all its
	// continuations, is shorter than this many bytes.
	maxLine = 1 << 20
	// maxFile bounds what one file may cost. systemd has no such bound; its
	// largest unit is some kilobytes.
	maxFile = 16 << 20
	// maxProblems keeps a binary put in a unit's place from flooding the log.
	maxProblems = 100

	whitespace = " \t\n\r"
)

var byteOrderMark = []byte("\xef\xbb\xbf")

// Parse reads a unit file as systemd's conf-parser.c does (systemd.syntax(7)).
// It always returns what was readable. Whatever the data, the file it returns
// can be written by Bytes and reads back the same.
//
// Where systemd would give up on the whole file (a broken section header, a
// line of 1 MiB or more) or use something that cannot be meant (control characters), Parse
// reports it and leaves out the line. Messages quote nothing but
// section names and keys, for a value may be a secret.
func Parse(name string, data []byte) (*File, Problems) {
	p := parser{file: &File{Name: name}}
	if len(data) > maxFile {
		p.problem(0, fmt.Sprintf("larger than %d MiB, the rest is not read", maxFile>>20), "")
		data = data[:maxFile]
	}
	p.rest = bytes.TrimPrefix(data, byteOrderMark)
	p.run()
	for _, r := range p.repeats {
		r.tell()
	}
	return p.file, p.problems
}

type parser struct {
	file     *File
	problems Problems

	rest []byte // what is still to be read
	line int    // the number of the line read last

	section *Section // nil before any section and after a broken header
	lost    bool     // a problem already says why there is no section

	repeats map[string]*repeat // by message
}

// A repeat is a problem that many lines may have, as where a program's binary
// was put in a unit's place: it is told once.
type repeat struct {
	problem *Problem
	lines   []int // some of the further ones
	more    int   // how many more there are
}

func (r *repeat) tell() {
	if len(r.lines) == 0 {
		return
	}
	lines := make([]string, len(r.lines))
	for i, n := range r.lines {
		lines[i] = strconv.Itoa(n)
	}
	r.problem.Msg += "; the same in line " + strings.Join(lines, ", ")
	if r.more > 0 {
		r.problem.Msg += fmt.Sprintf(" and %d more", r.more)
	}
}

// common reports a problem that other lines may have too.
func (p *parser) common(line int, msg, fix string) {
	const listed = 5
	switch r := p.repeats[msg]; {
	case r == nil:
		n := len(p.problems)
		if p.problem(line, msg, fix); n < maxProblems {
			if p.repeats == nil {
				p.repeats = map[string]*repeat{}
			}
			p.repeats[msg] = &repeat{problem: p.problems[n]}
		}
	case len(r.lines) < listed:
		r.lines = append(r.lines, line)
	default:
		r.more++
	}
}

func (p *parser) problem(line int, msg, fix string) {
	switch {
	case len(p.problems) < maxProblems:
		p.problems = append(p.problems, &Problem{File: p.file.Name, Line: line, Msg: msg, Fix: fix})
	case len(p.problems) == maxProblems:
		p.problems = append(p.problems, &Problem{File: p.file.Name, Line: line, Msg: "more problems follow that are not listed"})
	}
}

func (p *parser) warn(line int, msg string) {
	if n := len(p.problems); n < maxProblems {
		p.problems = append(p.problems, &Problem{File: p.file.Name, Line: line, Msg: msg, Warning: true})
	}
}

// readLine cuts the next line off p.rest, without its end. A line ends in
// systemd at LF, CR or NUL, or at a run of those in which none is repeated
// (read_line_full in fileio.c), so that CRLF ends one line and not two.
func (p *parser) readLine() (line []byte, nul, ok bool) {
	if len(p.rest) == 0 {
		return nil, false, false
	}
	p.line++
	end := bytes.IndexAny(p.rest, "\n\r\x00")
	if end < 0 {
		line, p.rest = p.rest, nil
		return line, false, true
	}
	line = p.rest[:end]
	var seen [256]bool
	for ; end < len(p.rest); end++ {
		c := p.rest[end]
		if (c != '\n' && c != '\r' && c != 0) || seen[c] || nul {
			break
		}
		seen[c] = true
		nul = c == 0
	}
	p.rest = p.rest[end:]
	return line, nul, true
}

// run joins continuation lines and hands each logical line on.
func (p *parser) run() {
	var (
		joined   []byte
		start    int  // line at which the logical line begins
		pending  bool // the line before ended in a backslash
		tooLong  bool
		nulShown bool
	)
	flush := func() {
		if tooLong {
			p.problem(start, fmt.Sprintf("line is longer than %d bytes with its continuations", maxLine), "")
			p.lose(joined)
		} else {
			p.logical(start, joined)
		}
		joined, pending, tooLong = joined[:0], false, false
	}
	for {
		line, nul, ok := p.readLine()
		if !ok {
			break
		}
		if nul && !nulShown {
			nulShown = true
			p.problem(p.line, "NUL byte in the file", "")
		}
		if text := bytes.TrimLeft(line, whitespace); len(text) > 0 && (text[0] == '#' || text[0] == ';') {
			continue // also between continued lines, which it does not end
		}
		if !pending {
			start = p.line
		}
		if tooLong = tooLong || len(joined)+len(line) >= maxLine; tooLong {
			// The beginning alone is kept, to know a section header.
			if len(joined) == 0 {
				joined = append(joined, line[:64]...)
			}
			if pending = continues(line); !pending {
				flush()
			}
			continue
		}
		joined = append(joined, line...)
		if pending = continues(line); pending {
			joined[len(joined)-1] = ' '
			continue
		}
		flush()
	}
	if pending {
		p.warn(p.line, "the file ends in a backslash, which continues the line")
		flush()
	}
}

// continues reports whether a line ends in a backslash that no backslash
// before it escapes.
func continues[T ~string | ~[]byte](line T) bool {
	n := 0
	for n < len(line) && line[len(line)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// lose forgets the current section where an unreadable line may have been the
// header of another one.
func (p *parser) lose(line []byte) {
	if bytes.HasPrefix(bytes.TrimLeft(line, whitespace), []byte("[")) {
		p.section, p.lost = nil, true
	}
}

// logical takes one line, its continuations joined.
func (p *parser) logical(at int, raw []byte) {
	raw = bytes.Trim(raw, whitespace)
	if len(raw) == 0 {
		return
	}
	line := string(raw)
	if !validText(line) {
		p.common(at, "not valid UTF-8, line ignored", "")
		p.lose(raw)
		return
	}
	if line[0] == '[' {
		p.header(at, line)
		return
	}
	key, value, ok := strings.Cut(line, "=")
	key, value = strings.Trim(key, whitespace), strings.Trim(value, whitespace)
	switch {
	case !ok:
		msg := "no '=' in the line"
		if w := leadingWord(line); w != "" {
			msg = fmt.Sprintf("no '=' in the line that begins with %s", w)
		}
		p.common(at, msg, "write Key=Value")
		return
	case key == "":
		p.common(at, "no key before '='", "write Key=Value")
		return
	case hasControl(key):
		p.common(at, "control character in a key, line ignored", "")
		return
	case p.section == nil:
		if !p.lost {
			p.problem(at, fmt.Sprintf("%s= stands before any section", printable(key)), "put it under a [Section] line")
		}
		return
	case hasControl(value):
		p.problem(at, "control character in the value, line ignored", `write it as \n, \t or \xNN inside quotes, where the key takes quotes`)
		p.problems[len(p.problems)-1].Key = printable(key)
		return
	}
	p.section.Entries = append(p.section.Entries, Entry{Key: key, Value: value, File: p.file.Name, Line: at})
}

func (p *parser) header(at int, line string) {
	p.section, p.lost = nil, true
	if len(line) < 2 || line[len(line)-1] != ']' {
		p.problem(at, "section header does not end in ']'", "write [Section] alone on its line")
		return
	}
	name := line[1 : len(line)-1]
	if err := checkSection(name); err != nil {
		p.problem(at, err.Error(), "")
		return
	}
	p.section, p.lost = &Section{Name: name, Line: at}, false
	p.file.Sections = append(p.file.Sections, p.section)
}

// leadingWord returns the beginning of line where it looks like a key, so that
// a message may repeat it; a password or URL never does.
func leadingWord(line string) string {
	w := line[:strings.IndexFunc(line+" ", func(r rune) bool { return !isKeyRune(r) })]
	if len(w) > 32 || !strings.HasPrefix(line[len(w):]+" ", " ") && !strings.HasPrefix(line[len(w):], "\t") {
		return ""
	}
	return w
}

// printable returns key where a message may repeat it, else a word for it.
func printable(key string) string {
	if len(key) > 64 || strings.ContainsFunc(key, func(r rune) bool { return !isKeyRune(r) }) {
		return "an entry"
	}
	return key
}

func isKeyRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' || r == '.'
}
