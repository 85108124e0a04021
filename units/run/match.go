package run

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"sync"
)

// maxMatch is how much of a line is looked at.
const maxMatch = 32 << 10

// A match looks for a line in what is copied.
type match struct {
	pattern *regexp.Regexp
	once    sync.Once
	found   chan struct{} // closed once a line matched
}

// newMatch returns nil where there is nothing to look for.
func newMatch(pattern *regexp.Regexp) *match {
	if pattern == nil {
		return nil
	}
	return &match{pattern: pattern, found: make(chan struct{})}
}

// copy passes everything on as it is, to the end of from. It never waits for
// the end of a line, and goes on reading where nobody takes what it writes:
// the program must not hang.
func (m *match) copy(to, from *os.File) {
	buf := make([]byte, maxMatch)
	var line []byte // the beginning of the one that has not ended
	lost := false
	for {
		select {
		case <-m.found:
			if !lost {
				if _, err := io.Copy(to, from); err == nil {
					return
				}
			}
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		n, err := from.Read(buf)
		if n > 0 && !lost {
			_, werr := to.Write(buf[:n])
			lost = werr != nil
		}
		line = m.look(line, buf[:n])
		if err != nil {
			return
		}
	}
}

// look matches each line that ends in text, the first of which begins with
// line, and returns the beginning of the one that has not ended.
func (m *match) look(line, text []byte) []byte {
	for {
		part, rest, ended := bytes.Cut(text, []byte{'\n'})
		line = append(line, part[:min(maxMatch-len(line), len(part))]...)
		if !ended {
			return line
		}
		if m.pattern.Match(bytes.TrimSuffix(line, []byte{'\r'})) {
			m.once.Do(func() { close(m.found) })
			return nil
		}
		line, text = line[:0], rest
	}
}
