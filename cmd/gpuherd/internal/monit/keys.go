package monit

import (
	"strings"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

// maxTyped bounds what is searched for, in bytes.
const maxTyped = 256

func (m Model) key(key tea.KeyPressMsg) (Model, Effect) {
	switch key.String() {
	case "ctrl+c":
		return m, Quit{}
	case "ctrl+z":
		return m, Suspend{}
	}
	switch {
	case m.typing != noPrompt:
		return m.typeKey(key), nil
	case m.asking != nil:
		return m.answer(key)
	}
	m.note = Done{}
	if effect, done := m.act(key.String()); done {
		return m, effect
	}
	if m.scroll(key.String()) {
		return m, nil
	}
	if row, ok := m.move(key.String()); ok {
		return m.choose(row)
	}
	return m, nil
}

// act does what a key stands for, and reports whether it stands for anything.
func (m *Model) act(key string) (Effect, bool) {
	p := &m.panes[m.shown]
	switch key {
	case "q":
		if m.shown != details && m.shown != help {
			return m.askToQuit(), true
		}
		m.show(logs, false)
	case "esc":
		m.back()
	case "?":
		m.show(help, true)
		m.panes[help].at = 0
	case "l":
		m.show(logs, m.shown == logs && !m.full)
	case "e":
		if m.shown == events {
			m.show(logs, false)
		} else {
			m.show(events, false)
		}
	case "enter":
		if w := m.worker(); w != nil {
			m.show(details, true)
			m.about = w.Name
			m.panes[details] = pane{at: 0}
			m.panes[details].add(Line{Text: "asking systemd…"})
			return m.describe(), true
		}
	case "r":
		m.ask(jobs.Restart)
	case "s":
		if w := m.worker(); w != nil && (w.Active == "inactive" || w.Active == "failed") {
			m.ask(jobs.Start)
		} else {
			m.ask(jobs.Stop)
		}
	case "+", "-":
		return m.askToScale(step(key)), true
	case "/":
		m.typing, m.typed = searching, ""
	case "&":
		m.typing, m.typed = filtering, p.only.text
	case "n":
		m.found(p.search(-1, m.paneHeight()))
	case "N":
		m.found(p.search(+1, m.paneHeight()))
	case "f":
		p.follow()
	case "w":
		p.wrap = !p.wrap
	default:
		return nil, false
	}
	return nil, true
}

// scroll moves the pane, and reports whether the key does so.
func (m *Model) scroll(key string) bool {
	p, height := &m.panes[m.shown], m.paneHeight()
	by := 0
	switch key {
	case "pgup", "ctrl+b":
		by = -height
	case "pgdown", "ctrl+f", "space":
		by = height
	case "ctrl+u":
		by = -height / 2
	case "ctrl+d":
		by = height / 2
	default:
		if !m.full {
			return false
		}
		switch key {
		case "k", "up":
			by = -1
		case "j", "down":
			by = 1
		case "g", "home":
			by = -keep
		case "G", "end":
			by = keep
		default:
			return false
		}
	}
	p.scroll(by, height)
	return true
}

// move returns the row that a key leads to, and whether it leads to any.
func (m *Model) move(key string) (int, bool) {
	switch key {
	case "j", "down":
		return m.row + 1, true
	case "k", "up":
		return m.row - 1, true
	case "g", "home":
		return 0, true
	case "G", "end":
		return len(m.now.Workers) - 1, true
	}
	return 0, false
}

func (m *Model) show(k kind, full bool) { m.shown, m.full = k, full }

// back leaves one thing: a filter and a search, then a pane.
func (m *Model) back() {
	p := &m.panes[m.shown]
	switch {
	case m.shown == details || m.shown == help:
		m.show(logs, false)
	case p.only.set() || p.find.set():
		p.only, p.find, p.hit = pattern{}, pattern{}, 0
	default:
		m.show(logs, false)
	}
}

// typeKey takes a key while something is typed.
func (m Model) typeKey(key tea.KeyPressMsg) Model {
	switch key.String() {
	case "esc":
		m.typing = noPrompt
	case "enter":
		p, how := &m.panes[m.shown], m.typing
		m.typing = noPrompt
		typed := newPattern(strings.Map(onOneLine, m.typed))
		if how == filtering {
			p.only = typed
			return m
		}
		p.find, p.hit = typed, 0
		m.found(p.search(-1, m.paneHeight()))
	case "backspace":
		_, size := utf8.DecodeLastRuneInString(m.typed)
		m.typed = m.typed[:len(m.typed)-size]
	case "ctrl+u":
		m.typed = ""
	default:
		if len(m.typed)+len(key.Text) <= maxTyped {
			m.typed += key.Text
		}
	}
	return m
}

// onOneLine drops the ends of lines that a paste brings.
func onOneLine(r rune) rune {
	if r == '\n' || r == '\r' {
		return -1
	}
	return r
}

// found tells of a search that found nothing.
func (m *Model) found(ok bool) {
	p := &m.panes[m.shown]
	switch {
	case !p.find.set():
		m.note = Done{"nothing is searched for; / does it", true}
	case !ok && p.hit > 0:
		m.note = Done{"no other line has " + p.find.quoted(), true}
	case !ok:
		m.note = Done{"no line has " + p.find.quoted(), true}
	}
}
