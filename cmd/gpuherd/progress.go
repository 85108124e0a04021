package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/redisclient"
)

// A progress shows jobs as they end: a line for each unit, and, where somebody
// is watching, one line below that says what is still waited for. Where a unit
// stands that takes long is in that line, or on stderr where it has no room.
type progress struct {
	verb     jobs.Verb
	lines    *output // the line for each unit
	styled   terminal.Screen
	status   *statusLine
	complain func(format string, args ...any)

	mu      sync.Mutex
	total   int
	pending []string
	where   map[string]jobs.Standing // of pending units that take long
	told    map[string]telling       // what stderr has of them
	mended  map[string]bool          // mends that stderr has
	begun   time.Time
	stop    chan struct{}
	stopped sync.WaitGroup
}

// A telling is what was said of a unit on stderr, and when.
type telling struct {
	what string
	at   time.Time
}

// pause is the least time between two lines on stderr about one unit: it may
// say something else every second.
const pause = 5 * time.Second

// redraw is how often the updating line counts the seconds.
const redraw = 250 * time.Millisecond

// patience is how long jobs may take before the updating line appears, so that
// quick ones do not flicker.
const patience = 200 * time.Millisecond

func (a *app) newProgress(verb jobs.Verb, units []string, asJSON bool) *progress {
	p := &progress{
		verb: verb, lines: a.stdout, styled: a.out, status: a.newStatusLine(), complain: a.complain,
		total: len(units), pending: slices.Clone(units), begun: time.Now(),
		where: map[string]jobs.Standing{}, told: map[string]telling{}, mended: map[string]bool{},
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

func (p *progress) listener() jobs.Listener {
	return jobs.Listener{Ended: p.ended, Standing: p.standing}
}

// standing reports where a unit stands that takes long.
func (p *progress) standing(s jobs.Standing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.where[s.Unit] = s
	what := s.Active // what it does to its last job changes all the time, and is of less interest
	if s.Active == "activating" {
		what = s.String()
	}
	last := p.told[s.Unit]
	if what == last.what || time.Since(last.at) < pause || p.status.fits(p.text(time.Since(p.begun), s.Unit)) {
		return
	}
	p.told[s.Unit] = telling{what, time.Now()}
	mend := mends(s.StatusText)
	if p.mended[mend] { // a whole herd may wait for one thing
		mend = ""
	}
	p.mended[mend] = true
	p.status.erase()
	p.complain("%s is %s%s", selection.Short(s.Unit), &s, mend)
	p.draw()
}

// settling reports that a unit's job has ended, and that it is waited for yet.
func (p *progress) settling(o jobs.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.where, o.Unit)
}

// mends returns, to be put behind what is said of units, what mends what they
// say of themselves (STATUS=), where that is known.
func mends(statusTexts ...string) string {
	var text string
	var known []string
	for _, s := range statusTexts {
		if mend := redisclient.MendOf(s); mend != "" && !slices.Contains(known, mend) {
			known = append(known, mend)
			text += "; " + mend
		}
	}
	return text
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
		first := p.pending[0]
		if i := slices.IndexFunc(p.pending, func(unit string) bool { return p.where[unit].Unit != "" }); i >= 0 {
			first = p.pending[i]
		}
		p.status.draw(p.text(waited, first))
	}
}

// text is the updating line, with where one of the pending units stands.
func (p *progress) text(waited time.Duration, unit string) string {
	text := fmt.Sprintf("%s: %d of %d done, %s, waiting for %s", p.verb, p.total-len(p.pending), p.total,
		terminal.Span(max(waited, time.Second)), selection.Short(unit))
	if more := len(p.pending) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if s := p.where[unit]; s.Says() != "" {
		text += ": " + s.Says() + mends(s.StatusText)
	}
	return terminal.Inert(text)
}
