// Package journal makes the logger of the programs that systemd runs: what
// they write to stderr is what journald keeps.
package journal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// NewLogger returns a logger that writes text to w. Where journald reads
// stderr (JOURNAL_STREAM=, see systemd.exec(5)) a line begins with its
// priority, as sd-daemon(3) has it, so that `journalctl -p warning` finds it,
// and has no time of its own.
func NewLogger(w io.Writer) *slog.Logger { return NewJobLogger(w, nil) }

// NewJobLogger is NewLogger, but that a record with the attribute job goes to
// n, unless that is nil, with the field JOB_ID= beside the text. There it keeps
// its place among the lines of the job itself.
//
// All else goes by w: by the time that journald asks what unit an entry of n
// is of, a process that ends may be gone.
func NewJobLogger(w io.Writer, n *Native) *slog.Logger {
	return newLogger(w, n, os.Getenv("JOURNAL_STREAM") != "")
}

func newLogger(w io.Writer, n *Native, journald bool) *slog.Logger {
	if !journald {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	h := &handler{lines: &lines{w: w, native: n}}
	h.text = slog.NewTextHandler(&h.lines.line, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return slog.New(h)
}

// A handler puts the priority before what a TextHandler makes of a record.
type handler struct {
	text  slog.Handler
	lines *lines
	job   string // of WithAttrs
}

// lines is shared by a handler and all that were derived from it.
type lines struct {
	mu     sync.Mutex
	line   bytes.Buffer
	w      io.Writer
	native *Native // nil: none
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.text.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	l := h.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line.Reset()
	fmt.Fprintf(&l.line, "<%d>", priority(r.Level))
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	job := h.job
	r.Attrs(func(a slog.Attr) bool { job = jobOf(a, job); return true })
	if l.native != nil && job != "" {
		text := l.line.Bytes()
		err := l.native.Send(JobLine(job, priority(r.Level), text[len("<6>"):len(text)-1])...)
		if err == nil {
			return nil
		}
	}
	_, err := l.w.Write(l.line.Bytes())
	return err
}

// jobOf is the job that an attribute names, or else job.
func jobOf(a slog.Attr, job string) string {
	if a.Key == "job" {
		return a.Value.String()
	}
	return job
}

// JobLine returns the fields of a line of text about a job, of a priority as
// syslog(3) counts it. The line is not copied.
func JobLine(job string, priority int, line []byte) []Field {
	return []Field{
		{"MESSAGE", line}, {"PRIORITY", strconv.AppendInt(nil, int64(priority), 10)},
		{"SYSLOG_IDENTIFIER", []byte(filepath.Base(os.Args[0]))}, {"JOB_ID", []byte(job)},
	}
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	job := h.job
	for _, a := range attrs {
		job = jobOf(a, job)
	}
	return &handler{text: h.text.WithAttrs(attrs), lines: h.lines, job: job}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{text: h.text.WithGroup(name), lines: h.lines, job: h.job}
}

// priority is a level as syslog(3) counts it.
func priority(level slog.Level) int {
	switch {
	case level >= slog.LevelError:
		return 3
	case level >= slog.LevelWarn:
		return 4
	case level >= slog.LevelInfo:
		return 6
	}
	return 7
}
