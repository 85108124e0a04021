package monit

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gpuherd/cmd/gpuherd/internal/terminal"
)

// A Line is one line of a pane. Its text is inert.
type Line struct {
	At    time.Time // zero: not shown
	Text  string
	Style terminal.Style
}

// keep is how many lines a pane keeps, the newest.
const keep = 2000

// following is where a pane is that shows its end.
const following = -1

// A pane shows lines, and may search and filter them. Lines have numbers that
// only grow, so that new ones move nothing that somebody reads.
type pane struct {
	lines []Line
	first int // number of lines[0]
	at    int // number of the last line shown, or following
	hit   int // number + 1 of the line that the search stands on; 0: none

	find, only pattern
	wrap       bool
}

func (p *pane) add(lines ...Line) {
	p.lines = append(p.lines, lines...)
	if over := len(p.lines) - keep; over > 0 {
		// A copy, so that the old ones are let go.
		p.lines = append([]Line(nil), p.lines[over:]...)
		p.first += over
	}
}

// visible returns the numbers of the lines that the filter lets through.
func (p *pane) visible() []int {
	numbers := make([]int, 0, len(p.lines))
	for i := range p.lines {
		if p.only.matches(p.lines[i].Text) {
			numbers = append(numbers, p.first+i)
		}
	}
	return numbers
}

func (p *pane) line(number int) *Line { return &p.lines[number-p.first] }

// bottom returns the place in visible of the last line shown. What is read
// goes up only as far as the screen stays full.
func (p *pane) bottom(visible []int, height int) int {
	last := len(visible) - 1
	if p.at == following {
		return last
	}
	place := last
	for place > 0 && visible[place] > p.at {
		place--
	}
	return min(max(place, height-1), last)
}

// scroll moves by so many lines. At the end it follows.
func (p *pane) scroll(by, height int) {
	visible := p.visible()
	if len(visible) == 0 {
		return
	}
	last := len(visible) - 1
	place := max(p.bottom(visible, height)+by, min(height-1, last))
	if place >= last {
		p.at = following
		return
	}
	p.at = visible[place]
}

// follow shows the end from now on, or stops to.
func (p *pane) follow() {
	if p.at != following {
		p.at = following
		return
	}
	p.at = p.first + len(p.lines) - 1
}

// search goes to the next line that has what is searched for: −1 is towards
// older ones, beginning with the last one shown. It reports whether there is one.
func (p *pane) search(direction, height int) bool {
	visible := p.visible()
	if !p.find.set() || len(visible) == 0 {
		return false
	}
	place := p.bottom(visible, height)
	if p.hit > 0 {
		for place = len(visible) - 1; place > 0 && visible[place] > p.hit-1; {
			place--
		}
		place += direction
	}
	for ; place >= 0 && place < len(visible); place += direction {
		if p.find.matches(p.line(visible[place]).Text) {
			p.hit = visible[place] + 1
			p.at = visible[min(place+height/2, len(visible)-1)]
			return true
		}
	}
	return false
}

// render returns height lines of the given width.
func (p *pane) render(s terminal.Screen, width, height int) []string {
	visible := p.visible()
	var rows []string // from the last one up
	for place := p.bottom(visible, height); place >= 0 && len(rows) < height; place-- {
		lines := p.rows(s, visible[place], width)
		for i := len(lines) - 1; i >= 0 && len(rows) < height; i-- {
			rows = append(rows, lines[i])
		}
	}
	out := make([]string, 0, height)
	for i := len(rows) - 1; i >= 0; i-- {
		out = append(out, rows[i])
	}
	for len(out) < height {
		out = append(out, "")
	}
	return out
}

// rows writes one line: on one row, or on as many as it needs.
func (p *pane) rows(s terminal.Screen, number, width int) []string {
	l := p.line(number)
	mark, stamp := " ", ""
	if p.hit == number+1 {
		mark = ">"
	}
	if !l.At.IsZero() {
		stamp = l.At.Format("15:04:05 ")
	}
	room := max(width-len(mark)-len(stamp), 1)
	texts := []string{terminal.Cut(l.Text, room)}
	if p.wrap {
		texts = wrap(l.Text, room)
	}
	for i, text := range texts {
		texts[i] = mark + s.Paint(terminal.Faint, stamp) + p.find.highlight(s, l.Style, text)
		mark, stamp = " ", strings.Repeat(" ", len(stamp))
	}
	return texts
}

// wrap cuts text into pieces that are at most width columns wide.
func wrap(text string, width int) []string {
	var pieces []string
	begin, used := 0, 0
	for i, r := range text {
		w := terminal.Width(string(r))
		if used+w > width && i > begin {
			pieces = append(pieces, text[begin:i])
			begin, used = i, 0
		}
		used += w
	}
	return append(pieces, text[begin:])
}

// A pattern is what lines are searched or filtered for. Upper and lower case
// are the same, unless it has upper case itself. The zero pattern matches all.
type pattern struct {
	text string
	re   *regexp.Regexp
}

func newPattern(text string) pattern {
	if text == "" {
		return pattern{}
	}
	expression := regexp.QuoteMeta(terminal.Inert(text))
	if !strings.ContainsFunc(text, unicode.IsUpper) {
		expression = "(?i)" + expression
	}
	return pattern{text, regexp.MustCompile(expression)}
}

func (p pattern) set() bool { return p.re != nil }

func (p pattern) matches(line string) bool { return p.re == nil || p.re.MatchString(line) }

func (p pattern) quoted() string { return strconv.Quote(p.text) }

// highlight paints text, and picks out what matches.
func (p pattern) highlight(s terminal.Screen, style terminal.Style, text string) string {
	if p.re == nil || !s.Color {
		return s.Paint(style, text)
	}
	var b strings.Builder
	done := 0
	for _, at := range p.re.FindAllStringIndex(text, -1) {
		b.WriteString(s.Paint(style, text[done:at[0]]))
		b.WriteString(s.Paint(terminal.Marked, text[at[0]:at[1]]))
		done = at[1]
	}
	b.WriteString(s.Paint(style, text[done:]))
	return b.String()
}
