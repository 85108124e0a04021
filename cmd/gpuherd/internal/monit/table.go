package monit

import (
	"fmt"
	"strings"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/state"
)

// Cells are what is written of a unit, as `gpuherd list` does it. They need
// not be inert.
type Cells struct {
	State, Uptime, Restarts, Memory, Status terminal.Cell
}

// A column of the workers. Those that come first in order have their place
// before the others where the screen is narrow.
type column struct {
	title string
	right bool
	least int // columns that it has at least, so that figures do not make it jump
	order int
	cell  func(*row) terminal.Cell
}

type row struct {
	worker *Worker
	gpu    *state.GPU
	Cells
}

var columns = []column{
	{"UNIT", false, 12, 0, func(r *row) terminal.Cell { return terminal.Cell{Text: short(r.worker.Name)} }},
	{"STATE", false, 8, 1, func(r *row) terminal.Cell { return r.State }},
	{"CPU", true, 5, 2, (*row).cpu},
	{"MEMORY/LIMIT", true, 12, 3, func(r *row) terminal.Cell { return r.Memory }},
	{"GPU%", true, 4, 4, (*row).utilisation},
	{"TEMP", true, 4, 6, (*row).temperature},
	{"HEALTH", false, 7, 5, (*row).health},
	{"VRAM", true, 5, 9, (*row).vram},
	{"UPTIME", true, 6, 8, func(r *row) terminal.Cell { return r.Uptime }},
	{"RESTARTS", true, 8, 7, func(r *row) terminal.Cell { return r.Restarts }},
	{"STATUS", false, 12, 6, func(r *row) terminal.Cell { return r.Status }},
}

var none = terminal.Cell{Text: terminal.None}

func (r *row) cpu() terminal.Cell {
	if r.worker.CPU == nil {
		return none
	}
	return terminal.Cell{Text: terminal.Percent(*r.worker.CPU)}
}

func (r *row) utilisation() terminal.Cell {
	if r.gpu == nil || r.gpu.Utilisation == nil {
		return none
	}
	return terminal.Cell{Text: fmt.Sprintf("%d%%", *r.gpu.Utilisation)}
}

func (r *row) temperature() terminal.Cell {
	if r.gpu == nil || r.gpu.Temperature == nil {
		return none
	}
	return terminal.Cell{Text: fmt.Sprintf("%d°C", *r.gpu.Temperature)}
}

func (r *row) vram() terminal.Cell {
	if r.gpu == nil || r.gpu.Memory == 0 {
		return none
	}
	return terminal.Cell{Text: terminal.Size(r.gpu.Memory)}
}

func (r *row) health() terminal.Cell {
	if r.gpu == nil || r.gpu.Health == "" {
		return none
	}
	style := terminal.Faint
	switch r.gpu.Health {
	case state.Healthy:
		style = terminal.Good
	case state.Unhealthy:
		style = terminal.Bad
	}
	return terminal.Cell{Text: r.gpu.Health, Style: style}
}

const (
	gap        = "  "
	widestUnit = 28
)

// rows returns the workers as rows, and the width of each column.
func (m Model) rows() ([]row, []int) {
	rows := make([]row, len(m.now.Workers))
	for i := range rows {
		w := &m.now.Workers[i]
		rows[i] = row{w, m.gpu(w), m.cells(w.Unit, m.now.At)}
	}
	return rows, fit(rows, m.width-len(gap))
}

// table returns the titles and the rows of the workers, so many of them that
// fit, the selected one among them.
func (m Model) table(height int) []string {
	rows, widths := m.rows()
	title := func(c *column) terminal.Cell { return terminal.Cell{Text: c.title, Style: terminal.Strong} }
	out := []string{m.line(gap, widths, title)}
	first := max(0, min(m.row-height/2, len(rows)-height))
	for i := first; i < len(rows) && i < first+height; i++ {
		cell := func(c *column) terminal.Cell { return c.cell(&rows[i]) }
		if i != m.row {
			out = append(out, m.line(gap, widths, cell))
			continue
		}
		plain := m
		plain.screen.Color = false
		line := plain.line("> ", widths, cell)
		if m.screen.Color {
			line = m.screen.Paint(terminal.Marked, pad(line, m.width))
		}
		out = append(out, line)
	}
	return out
}

// status is what the selected worker says of itself, where its column has no
// place.
func (m Model) status() string {
	rows, widths := m.rows()
	if m.selected == "" || widths[len(widths)-1] > 0 {
		return ""
	}
	return terminal.Inert(rows[m.row].Status.Text)
}

// fit returns the width of each column, 0 for one that has no place.
func fit(rows []row, width int) []int {
	widths := make([]int, len(columns))
	for order := 0; order <= len(columns); order++ {
		for i := range columns {
			c := &columns[i]
			if c.order != order {
				continue
			}
			want := max(c.least, len(c.title))
			for r := range rows {
				if c.title != "STATUS" { // which takes what is left
					want = max(want, terminal.Width(terminal.Inert(c.cell(&rows[r]).Text)))
				}
			}
			if c.title == "UNIT" {
				want = min(want, widestUnit)
			}
			if want > width {
				continue
			}
			widths[i] = want
			width -= want + len(gap)
		}
	}
	if last := len(columns) - 1; widths[last] > 0 {
		widths[last] += max(width, 0)
	}
	return widths
}

// line writes one row of cells.
func (m Model) line(left string, widths []int, cell func(*column) terminal.Cell) string {
	var b strings.Builder
	b.WriteString(left)
	for i := range columns {
		if widths[i] == 0 {
			continue
		}
		c := cell(&columns[i])
		text := terminal.Cut(terminal.Inert(c.Text), widths[i])
		space := strings.Repeat(" ", widths[i]-terminal.Width(text))
		if columns[i].right {
			b.WriteString(space + m.screen.Paint(c.Style, text))
		} else {
			b.WriteString(m.screen.Paint(c.Style, text) + space)
		}
		b.WriteString(gap)
	}
	return strings.TrimRight(b.String(), " ")
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-terminal.Width(text)))
}
