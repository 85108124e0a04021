package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"gpuherd/generator/unitfile"
)

// Priorities of syslog(3), as the kernel log takes them in front of a line.
const (
	prioError   = 3
	prioWarning = 4
	prioInfo    = 6
)

const (
	// maxListed is how many problems go to the log: the kernel drops what
	// exceeds ten lines in five seconds (printk.devkmsg=ratelimit).
	maxListed = 7
	// maxMessage keeps a line below the kernel's LOG_LINE_MAX.
	maxMessage = 900
)

// journalSocket is journald's end of syslog(3).
const journalSocket = "/run/systemd/journal/dev-log"

// A logger writes to stderr, and to the kernel log where systemd is the one
// that started us: at boot the journal is not up yet and takes it from there.
type logger struct {
	stderr io.Writer
	kmsg   int // /dev/kmsg or the journal's socket; −1: none

	mu sync.Mutex // the timer logs too
}

func newLogger(stderr io.Writer, bySystemd bool) *logger {
	l := &logger{stderr: stderr, kmsg: -1}
	if bySystemd {
		l.kmsg = openLog("/dev/kmsg", journalSocket)
	}
	return l
}

// openLog opens the kernel log. Most containers have none: there the lines go
// to the journal, if it is up, and reach it at boot by gpuherd-setup alone.
func openLog(kmsg, journal string) int {
	if fd, err := syscall.Open(kmsg, syscall.O_WRONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0); err == nil {
		return fd
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: journal}); err != nil {
		_ = syscall.Close(fd)
		return -1
	}
	return fd
}

func (l *logger) error(format string, args ...any)   { l.log(prioError, format, args...) }
func (l *logger) warning(format string, args ...any) { l.log(prioWarning, format, args...) }
func (l *logger) info(format string, args ...any)    { l.log(prioInfo, format, args...) }

func (l *logger) log(prio int, format string, args ...any) {
	// One message is one line, whatever a file's name contains.
	msg := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 { // C0, DEL and C1
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	if len(msg) > maxMessage {
		msg = strings.ToValidUTF8(msg[:maxMessage], "") + "…"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Nobody is left to tell where these fail.
	_, _ = fmt.Fprintf(l.stderr, "gpuherd-generator: %s\n", msg)
	if l.kmsg >= 0 {
		_, _ = syscall.Write(l.kmsg, fmt.Appendf(nil, "<%d>gpuherd-generator[%d]: %s\n", prio, os.Getpid(), msg))
	}
}

// A group is the problems of one file, errors before warnings.
type group struct {
	file  string
	all   unitfile.Problems
	shown int
}

// groups sorts problems by file, files with errors first.
func groups(all unitfile.Problems) []*group {
	var list []*group
	byFile := map[string]*group{}
	for _, warnings := range []bool{false, true} {
		for _, p := range all {
			if p.Warning != warnings {
				continue
			}
			g := byFile[p.File]
			if g == nil {
				g = &group{file: p.File}
				byFile[p.File], list = g, append(list, g)
			}
			g.all = append(g.all, p)
		}
	}
	return list
}

// problems lists the first ones and counts the rest. Every file has its first
// one listed before another has its second, for one broken file must not hide
// the others; what is left of the files is named in the last line.
func (l *logger) problems(all unitfile.Problems) {
	files := groups(all)
	for left := maxListed; left > 0; {
		before := left
		for _, g := range files {
			if left > 0 && g.shown < len(g.all) {
				g.shown++
				left--
			}
		}
		if left == before {
			break
		}
	}
	hidden := 0
	var unnamed []string
	for _, g := range files {
		hidden += len(g.all) - g.shown
		if g.shown == 0 {
			unnamed = append(unnamed, g.file)
		}
		for i, p := range g.all[:g.shown] {
			more := ""
			if n := len(g.all) - g.shown; n > 0 && i == g.shown-1 {
				more = fmt.Sprintf(" (+ %d more in this file)", n)
			}
			if p.Warning {
				l.warning("%v%s", p, more)
			} else {
				l.error("%v%s", p, more)
			}
		}
	}
	switch {
	case len(unnamed) > 0:
		l.error("%d more problems, which gpuherd verify lists, also in %s", hidden, names(unnamed))
	case hidden > 0:
		l.error("%d more problems: gpuherd verify lists them", hidden)
	}
}

// names joins as many names as fit into a message and counts the rest.
func names(list []string) string {
	const room = maxMessage - 150
	text := list[0]
	for i, name := range list[1:] {
		if len(text)+len(name) > room {
			return fmt.Sprintf("%s and %d more files", text, len(list)-1-i)
		}
		text += ", " + name
	}
	return text
}
