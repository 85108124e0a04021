package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
)

// A progress shows jobs as they end: a line for each unit, and, where somebody
// is watching, one line below that says what is still waited for.
type progress struct {
	verb   jobs.Verb
	lines  *output // the line for each unit
	styled terminal.Screen
	status *statusLine

	mu      sync.Mutex
	total   int
	pending []string
	begun   time.Time
	stop    chan struct{}
	stopped sync.WaitGroup
}

// redraw is how often the updating line counts the seconds.
const redraw = 250 * time.Millisecond

// patience is how long jobs may take before the updating line appears, so that
// quick ones do not flicker.
const patience = 200 * time.Millisecond

func (a *app) newProgress(verb jobs.Verb, units []string, asJSON bool) *progress {
	p := &progress{
		verb: verb, lines: a.stdout, styled: a.out, status: a.newStatusLine(),
		total: len(units), pending: slices.Clone(units), begun: time.Now(),
		stop: make(chan struct{}),
	}
	if asJSON { // stdout is the document's
		p.lines, p.styled = a.stderr, a.err
	}
	if p.status.watched() {
		p.stopped.Go(p.tick)
	}
	return p
}

func (p *progress) tick() {
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// ended reports one unit.
func (p *progress) ended(o jobs.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = slices.DeleteFunc(p.pending, func(unit string) bool { return unit == o.Unit })
	p.status.erase()
	style := terminal.Good
	if !o.OK {
		style = terminal.Bad
	}
	p.lines.say("%s %s\n", terminal.Inert(selection.Short(o.Unit)), p.styled.Paint(style, terminal.Inert(o.String())))
	p.draw()
}

func (p *progress) close() {
	close(p.stop)
	p.stopped.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.erase()
}

func (p *progress) draw() {
	waited := time.Since(p.begun)
	if len(p.pending) > 0 && waited >= patience {
		p.status.draw(p.text(waited))
	}
}

// text is the updating line.
func (p *progress) text(waited time.Duration) string {
	text := fmt.Sprintf("%s: %d of %d done, %s, waiting for %s", p.verb, p.total-len(p.pending), p.total,
		terminal.Span(max(waited, time.Second)), terminal.Inert(selection.Short(p.pending[0])))
	if more := len(p.pending) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
