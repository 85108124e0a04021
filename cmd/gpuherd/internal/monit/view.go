package monit

import (
	"fmt"
	"strings"

	"gpuherd/cmd/gpuherd/internal/terminal"
)

// The least that anything can be shown in.
const (
	leastWidth  = 40
	leastHeight = 10
)

// View returns what is to be seen: a line for each row of the screen, none
// wider than it.
func (m Model) View() string {
	if m.width < leastWidth || m.height < leastHeight {
		return terminal.Cut(fmt.Sprintf("too small: %d×%d; 80×24 is enough", m.width, m.height), max(m.width, 0))
	}
	lines := []string{m.title()}
	switch {
	case m.full:
	case !m.synced:
		lines = append(lines, "", "  asking systemd…")
	case len(m.now.Workers) == 0:
		lines = append(lines, "", "  the herd is empty; `gpuherd explain` says why")
	default:
		lines = append(lines, m.table(m.tableHeight())...)
	}
	lines = append(lines, m.paneTitle())
	lines = append(lines, m.panes[m.shown].render(m.screen, m.width, m.paneHeight())...)
	return strings.Join(append(lines, m.foot()...), "\n")
}

// tableHeight is how many workers are shown.
func (m Model) tableHeight() int {
	if m.full {
		return 0
	}
	return min(len(m.now.Workers), max(3, (m.height-4)/2))
}

// paneHeight is how many lines of the pane are shown: all below the title, the
// table with its titles, and the pane's own title, but for the foot.
func (m Model) paneHeight() int {
	above := 2
	if !m.full {
		above += 1 + max(m.tableHeight(), 1)
	}
	return max(1, m.height-above-len(m.foot()))
}

// title is the first line: whose workers these are, and what is not well.
func (m Model) title() string {
	active, failed := 0, 0
	for i := range m.now.Workers {
		switch m.now.Workers[i].Active {
		case "active":
			active++
		case "failed":
			failed++
		}
	}
	left := fmt.Sprintf("%s: %d workers, %d active, %d failed", terminal.Inert(m.host), len(m.now.Workers), active, failed)
	right, style := "", terminal.Faint
	switch {
	case m.now.Lost:
		right, style = "systemd does not answer, this is old", terminal.Bad
	case m.now.NoGPUs != "":
		right = "GPU figures: not available"
	}
	left = terminal.Cut(left, m.width)
	room := m.width - terminal.Width(left) - len(gap)
	if right == "" || room <= 0 {
		return m.screen.Paint(terminal.Strong, left)
	}
	right = terminal.Cut(right, room)
	space := strings.Repeat(" ", m.width-terminal.Width(left)-terminal.Width(right))
	return m.screen.Paint(terminal.Strong, left) + space + m.screen.Paint(style, right)
}

// paneTitle says what the pane shows, and how.
func (m Model) paneTitle() string {
	p := &m.panes[m.shown]
	what := ""
	switch m.shown {
	case logs:
		what = "log"
		if m.selected != "" {
			what += " of " + short(m.selected)
		}
	case events:
		what = "events since this screen was opened"
	case details:
		what = "details of " + short(m.about)
	case help:
		what = "help"
	}
	parts := []string{what}
	switch {
	case m.shown != logs && m.shown != events:
	case p.at == following:
		parts = append(parts, "following")
	default:
		parts = append(parts, "stopped, f follows")
	}
	if p.only.set() {
		parts = append(parts, "only "+p.only.quoted())
	}
	if p.find.set() {
		parts = append(parts, "search "+p.find.quoted())
	}
	if status := m.status(); m.shown == logs && status != "" {
		parts = append(parts, status)
	}
	text := terminal.Cut("── "+strings.Join(parts, " ── ")+" ", m.width)
	return m.screen.Paint(terminal.Strong, text+strings.Repeat("─", m.width-terminal.Width(text)))
}

// newsRows is how many lines news may take: what has failed, and what to do
// about it, is often longer than one.
func (m Model) newsRows() int { return min(4, m.height/5) }

// foot is the last line: a question, what is typed, the keys, or news, which
// may take more than one.
func (m Model) foot() []string {
	one := func(style terminal.Style, text string) []string {
		return []string{m.screen.Paint(style, terminal.Cut(text, m.width))}
	}
	switch {
	case m.asking != nil:
		return one(terminal.Busy, m.asking.text(m.width))
	case m.typing == searching:
		return []string{m.prompt("search: ")}
	case m.typing == filtering:
		return []string{m.prompt("only lines with: ")}
	case m.note.Text != "":
		style := terminal.Plain
		if !m.note.OK {
			style = terminal.Bad
		}
		rows := wrapWords(terminal.Inert(m.note.Text), m.width, m.newsRows())
		for i := range rows {
			rows[i] = m.screen.Paint(style, rows[i])
		}
		return rows
	case m.scaling != "":
		return one(terminal.Busy, m.scaling+": "+terminal.Inert(m.progress))
	case m.shown == help || m.shown == details:
		return one(terminal.Faint, "j k scroll  / search  Esc back  Ctrl+C quit")
	}
	return one(terminal.Faint, m.keys())
}

// keys names as many keys as there is room for.
func (m Model) keys() string {
	text := "Enter details  l log  e events  / search  r restart  s stop  ? help  q quit"
	if w := m.worker(); w != nil && (w.Active == "inactive" || w.Active == "failed") {
		text = strings.Replace(text, "s stop", "s start", 1)
	}
	for _, more := range [][2]string{
		{"  ? help", "  + - scale  ? help"},
		{"r restart", "& filter  f follow  w wrap  r restart"},
		{"Enter details", "j k worker  Enter details"},
	} {
		wider := strings.Replace(text, more[0], more[1], 1)
		if terminal.Width(wider) > m.width {
			break
		}
		text = wider
	}
	return text
}

// wrapWords breaks text between words into at most so many rows, of which the
// last one is cut.
func wrapWords(text string, width, rows int) []string {
	var out []string
	row := ""
	for rest := text; rest != ""; {
		if len(out) == rows-1 {
			return append(out, terminal.Cut(rest, width))
		}
		row, rest = firstRow(rest, width)
		out = append(out, terminal.Cut(row, width))
	}
	return out
}

// firstRow splits off the words of text that fit, one at least.
func firstRow(text string, width int) (row, rest string) {
	end := len(text)
	for terminal.Width(text[:end]) > width {
		at := strings.LastIndexByte(text[:end], ' ')
		if at <= 0 {
			at = strings.IndexByte(text, ' ')
			if at <= 0 {
				return text, ""
			}
			return text[:at], text[at+1:]
		}
		end = at
	}
	return text[:end], strings.TrimPrefix(text[end:], " ")
}

// prompt shows the end of what is typed, with a cursor of its own.
func (m Model) prompt(label string) string {
	typed := terminal.Inert(m.typed)
	for terminal.Width(label)+terminal.Width(typed)+1 > m.width && typed != "" {
		_, typed = cutFirst(typed)
	}
	return label + typed + "█"
}

func cutFirst(text string) (first, rest string) {
	for i := range text {
		if i > 0 {
			return text[:i], text[i:]
		}
	}
	return text, ""
}
