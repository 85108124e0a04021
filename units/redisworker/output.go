package redisworker

import (
	"bufio"
	"errors"
	"io"

	"gpuherd/units/journal"
	"gpuherd/units/queue"
)

// maxLine is how much of a line is handed on at once. journald itself splits
// at LineMax=48K, see journald.conf(5).
const maxLine = 32 << 10

// readLines hands on each line without its end, and a longer one in parts; end
// is true for the last part of a line. It returns when r can be read no more.
func readLines(r io.Reader, handle func(part []byte, end bool)) {
	b := bufio.NewReaderSize(r, maxLine)
	open := false // a part was handed on, and its line has not ended
	for {
		part, err := b.ReadSlice('\n')
		if err == nil {
			handle(part[:len(part)-1], true)
			open = false
			continue
		}
		if len(part) > 0 {
			handle(part, false)
			open = true
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	if open {
		handle(nil, true)
	}
}

// A capture keeps the first bytes of what is written to it, or the last ones.
type capture struct {
	buf  []byte
	most int
	tail bool
	over bool // there was more
}

// Write makes it an io.Writer, which never fails.
func (c *capture) Write(p []byte) (int, error) {
	c.add(p)
	return len(p), nil
}

func (c *capture) add(p []byte) {
	if c.tail {
		c.buf = append(c.buf, p...)
		if extra := len(c.buf) - c.most; extra > 0 {
			c.buf = append(c.buf[:0], c.buf[extra:]...)
			c.over = true
		}
		return
	}
	if room := c.most - len(c.buf); len(p) > room {
		p, c.over = p[:room], true
	}
	c.buf = append(c.buf, p...)
}

func (c *capture) reset() { c.buf, c.over = c.buf[:0], false }

// Priorities of a job's lines, as syslog(3) counts them. What a program has to
// say on stderr is worth a notice; an error it need not be.
const (
	stdoutPriority = 6
	stderrPriority = 5
)

// A joblog takes the lines of one of a job's streams: to the journal, with the
// job's ID as a field, or else to w, and in both after the ID.
type joblog struct {
	id       string
	priority int
	journal  *journal.Native // nil: none
	w        io.Writer
	buf      []byte
}

func (l *joblog) write(line []byte) {
	l.buf = append(append(l.buf[:0], '['), l.id...)
	l.buf = append(append(l.buf, "] "...), line...)
	if l.journal != nil && l.journal.Send(journal.JobLine(l.id, l.priority, l.buf)...) == nil {
		return
	}
	_, _ = l.w.Write(append(l.buf, '\n')) // there is nowhere else to say that the log is gone
}

// stdout passes a job's lines on to the log, all but the last that is not
// empty: that may be the result, and is held back until it is known.
type stdout struct {
	log    *joblog
	held   []byte
	ended  bool // held is a whole line
	over   bool // the line is longer than a result may be, and was passed on
	blanks int  // empty lines after held
}

func (s *stdout) line(part []byte, end bool) {
	if s.ended || len(s.held) == 0 && !s.over {
		if len(part) == 0 && end {
			s.blanks++
			return
		}
		s.flush()
	}
	switch {
	case s.over:
		s.pass(part)
	case len(s.held)+len(part) > queue.MaxPayload:
		s.pass(s.held)
		s.pass(part)
		s.held, s.over = s.held[:0], true
	default:
		s.held = append(s.held, part...)
	}
	s.ended = end
}

func (s *stdout) pass(text []byte) {
	for len(text) > 0 {
		n := min(len(text), maxLine)
		s.log.write(text[:n])
		text = text[n:]
	}
}

// flush passes on what was held back.
func (s *stdout) flush() {
	s.pass(s.held)
	for range s.blanks {
		s.log.write(nil)
	}
	s.held, s.ended, s.over, s.blanks = s.held[:0], false, false, 0
}

// last returns the last line that is not empty. tooLong says that it was.
func (s *stdout) last() (line []byte, tooLong bool) {
	return append([]byte(nil), s.held...), s.over
}
