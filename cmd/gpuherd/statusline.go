package main

import "gpuherd/cmd/gpuherd/internal/terminal"

// A statusLine is the line on stderr that changes while somebody is watching.
// Where nobody is, it shows nothing.
type statusLine struct {
	out    *output
	screen terminal.Screen
	shown  bool
}

func (a *app) newStatusLine() *statusLine { return &statusLine{out: a.stderr, screen: a.err} }

// draw replaces the line. text must be inert.
func (l *statusLine) draw(text string) {
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
