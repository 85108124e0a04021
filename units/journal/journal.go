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
	"sync"
)

// NewLogger returns a logger that writes text to w. Where journald reads
// stderr (JOURNAL_STREAM=, see systemd.exec(5)) a line begins with its
// priority, as sd-daemon(3) has it, so that `journalctl -p warning` finds it,
// and has no time of its own.
func NewLogger(w io.Writer) *slog.Logger {
	return newLogger(w, os.Getenv("JOURNAL_STREAM") != "")
}

func newLogger(w io.Writer, journald bool) *slog.Logger {
	if !journald {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	h := &handler{lines: &lines{w: w}}
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
}

// lines is shared by a handler and all that were derived from it.
type lines struct {
	mu   sync.Mutex
	line bytes.Buffer
	w    io.Writer
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
	_, err := l.w.Write(l.line.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{text: h.text.WithAttrs(attrs), lines: h.lines}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{text: h.text.WithGroup(name), lines: h.lines}
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
