package unitfile

import (
	"fmt"
	"strings"
)

// A Problem is one thing wrong in one place of a file that an operator wrote.
// It never stands for an I/O failure of gpuherd itself.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 where no line applies
	Key  string `json:"key,omitempty"`  // the key, or empty
	Msg  string `json:"message"`        // what is wrong
	Fix  string `json:"fix,omitempty"`  // what to write instead, if known
	// Warning marks a problem that costs nothing: the value is used or
	// ignored harmlessly. It does not make `gpuherd verify` fail.
	Warning bool `json:"warning,omitempty"`
}

// Error returns "file:line: Key=: message; fix".
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key)
		b.WriteString("=: ")
	}
	b.WriteString(p.Msg)
	if p.Fix != "" {
		b.WriteString("; ")
		b.WriteString(p.Fix)
	}
	return b.String()
}

// Problems is every problem found in one reading, in the order of discovery.
// A nil or empty Problems is success; it is deliberately no error, so that
// callers go on with what was readable.
type Problems []*Problem

// Failed reports whether any problem is more than a warning.
func (ps Problems) Failed() bool {
	for _, p := range ps {
		if !p.Warning {
			return true
		}
	}
	return false
}

// Unique returns the problems without those that say of the same place what
// another one says already: a file may be read for more than one unit.
func (ps Problems) Unique() Problems {
	type place struct {
		file, key, msg string
		line           int
	}
	seen := make(map[place]*Problem, len(ps))
	var unique Problems
	for _, p := range ps {
		at := place{p.File, p.Key, p.Msg, p.Line}
		first, ok := seen[at]
		if !ok {
			seen[at] = p
			unique = append(unique, p)
			continue
		}
		first.Warning = first.Warning && p.Warning
	}
	return unique
}
