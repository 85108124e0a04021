package main

import "gpuherd/cmd/gpuherd/internal/terminal"

// A statusLine is the line that changes while somebody is watching: on stderr,
// or wherever told puts it. Where nobody is, it shows nothing.
type statusLine struct {
	out    *output
	screen terminal.Screen
	told   func(text string)
	shown  bool
}

func (a *app) newStatusLine() *statusLine {
	return &statusLine{out: a.stderr, screen: a.err, told: a.told}
}

// watched reports whether somebody sees the line.
func (l *statusLine) watched() bool { return l.told != nil || l.screen.Terminal }

// fits reports whether somebody sees text whole in the line, which must be inert.
func (l *statusLine) fits(text string) bool {
	return l.told != nil || l.screen.Terminal && terminal.Width(text) < l.screen.Width
}

// draw replaces the line. text must be inert.
func (l *statusLine) draw(text string) {
	if l.told != nil {
		l.told(text)
		return
	}
	if l.screen.Terminal {
		l.out.say("\r%s\x1b[K", terminal.Cut(text, l.screen.Width-1))
		l.shown = true
	}
}

func (l *statusLine) erase() {
	if l.shown {
		l.out.say("\r\x1b[K")
		l.shown = false
	}
}
