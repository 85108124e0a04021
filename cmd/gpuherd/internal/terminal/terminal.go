// Package terminal writes for people: tables that fit the screen, colours
// where they are wanted, sizes and times in few characters, and text from
// elsewhere made inert.
package terminal

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/term"
)

// A Screen is what is known of the place that output goes to.
type Screen struct {
	Width    int  // columns; 0: no terminal, nothing is cut
	Height   int  // lines; 0: not known
	Color    bool // colours are wanted and understood
	Terminal bool // somebody is watching
	Dumb     bool // it cannot move its cursor: TERM=dumb
}

// defaultWidth is what a terminal gets that does not tell its width.
const defaultWidth = 80

// Detect looks at where w goes. Colours are for terminals, and not where
// NO_COLOR is set to anything (no-color.org) or TERM is "dumb".
func Detect(w io.Writer, getenv func(string) string) Screen {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return Screen{}
	}
	dumb := getenv("TERM") == "dumb"
	s := Screen{Terminal: true, Dumb: dumb, Width: defaultWidth, Color: getenv("NO_COLOR") == "" && !dumb}
	if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		s.Width, s.Height = width, height
	} else if width, err := strconv.Atoi(getenv("COLUMNS")); err == nil && width > 0 {
		s.Width = width
	}
	return s
}

// A Style is a colour by its meaning.
type Style int

// The styles, as ECMA-48 colours.
const (
	Plain  Style = iota
	Good         // green: as it should be
	Busy         // yellow: on its way
	Bad          // red: needs somebody
	Faint        // of less interest
	Strong       // headings
	Marked       // picked out: selected, or found
)

var sgr = map[Style]string{Good: "\x1b[32m", Busy: "\x1b[33m", Bad: "\x1b[31m", Faint: "\x1b[2m", Strong: "\x1b[1m", Marked: "\x1b[7m"}

const reset = "\x1b[0m"

// Paint returns text in the style, or text alone where the screen has no colours.
func (s Screen) Paint(style Style, text string) string {
	if code := sgr[style]; s.Color && code != "" && text != "" {
		return code + text + reset
	}
	return text
}
