package terminal

import (
	"io"
	"strings"
	"unicode"
)

// A Cell is one field of a table.
type Cell struct {
	Text  string
	Style Style
}

// A Column is a table's column.
type Column struct {
	Title string
	Right bool // numbers stand to the right
}

// A Table has one line of titles and one line a row; nothing wraps.
type Table struct {
	Columns []Column
	Rows    [][]Cell
}

// Add appends a row; missing cells are empty.
func (t *Table) Add(cells ...Cell) {
	row := make([]Cell, len(t.Columns))
	copy(row, cells)
	t.Rows = append(t.Rows, row)
}

const gap = "  "

// Write writes the table. On a terminal each line is cut to its width, which
// the last column feels first; elsewhere nothing is cut. All text is made
// inert.
func (t *Table) Write(w io.Writer, s Screen) error {
	lines := make([][]Cell, 0, len(t.Rows)+1)
	header := make([]Cell, len(t.Columns))
	for i, c := range t.Columns {
		header[i] = Cell{Text: c.Title, Style: Strong}
	}
	lines = append(lines, header)
	for _, row := range t.Rows {
		line := make([]Cell, len(row))
		for i, c := range row {
			line[i] = Cell{Text: Inert(c.Text), Style: c.Style}
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(t.Columns))
	for _, line := range lines {
		for i, c := range line {
			widths[i] = max(widths[i], Width(c.Text))
		}
	}
	var out strings.Builder
	for _, line := range lines {
		t.writeLine(&out, line, widths, s)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (t *Table) writeLine(out *strings.Builder, line []Cell, widths []int, s Screen) {
	left := s.Width // columns still free, where the screen has an edge
	spaces := ""    // held back, so that no line ends in white space
	for i, c := range line {
		pad := strings.Repeat(" ", widths[i]-Width(c.Text))
		before, after := spaces, pad+gap
		if t.Columns[i].Right {
			before, after = spaces+pad, gap
		}
		spaces = before
		if c.Text != "" {
			text := c.Text
			if s.Width > 0 {
				if left -= len(before); left <= 0 {
					break
				}
				text = Cut(text, left)
				left -= Width(text)
			}
			out.WriteString(before)
			out.WriteString(s.Paint(c.Style, text))
			spaces = ""
		}
		spaces += after
	}
	out.WriteByte('\n')
}

// Cut shortens text to at most width columns, with "…" where it was cut.
func Cut(text string, width int) string {
	if Width(text) <= width {
		return text
	}
	if width <= 0 {
		return ""
	}
	used := 0
	for i, r := range text {
		w := runeWidth(r)
		if used+w > width-1 {
			return text[:i] + "…"
		}
		used += w
	}
	return text
}

// Width returns how many columns of a terminal text takes.
func Width(text string) int {
	n := 0
	for _, r := range text {
		n += runeWidth(r)
	}
	return n
}

// wide are the blocks whose characters take two columns (UAX #11 W and F,
// joined across the few narrow ones between them).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x115f, Stride: 1}, // Hangul Jamo
		{Lo: 0x2e80, Hi: 0x303e, Stride: 1}, // CJK radicals and punctuation
		{Lo: 0x3041, Hi: 0xa4cf, Stride: 1}, // Kana to Yi
		{Lo: 0xac00, Hi: 0xd7a3, Stride: 1}, // Hangul
		{Lo: 0xf900, Hi: 0xfaff, Stride: 1}, // CJK compatibility
		{Lo: 0xfe30, Hi: 0xfe6f, Stride: 1},
		{Lo: 0xff00, Hi: 0xff60, Stride: 1}, // full-width forms
		{Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x1f300, Hi: 0x1f64f, Stride: 1}, // pictographs
		{Lo: 0x1f680, Hi: 0x1f6ff, Stride: 1},
		{Lo: 0x1f900, Hi: 0x1faff, Stride: 1},
		{Lo: 0x20000, Hi: 0x3fffd, Stride: 1}, // CJK extensions
	},
}

func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	default:
		return 1
	}
}
