package monit

import (
	"fmt"

	tea "charm.land/bubbletea/v2"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/terminal"
)

// maxDigits bounds the number of workers that is typed: a longer one is none.
const maxDigits = 4

// A question stands on the last line until a key answers it.
type question struct {
	// effect is what a yes leads to: Control, Scale or Quit. A Count is done
	// already: what to ask is known when it is answered.
	effect  Effect
	by      int     // how many more or fewer there shall be than a Count will tell
	counted Counted // what a Scale begins from
	typed   bool    // the number of a Scale is being typed
}

// text is the question, in at most width columns.
func (q *question) text(width int) string {
	switch e := q.effect.(type) {
	case Control:
		return terminal.Cut(fmt.Sprintf("%s %s? y yes, n no", e.Verb, short(e.Unit)), width)
	case Count:
		return terminal.Cut(fmt.Sprintf("%s: how many are there now?…", short(e.Unit)), width)
	case Scale:
		workers := "workers"
		if e.N == 1 {
			workers = "worker"
		}
		rest := fmt.Sprintf(" from %d to %d %s on each device? y yes, n no, + - number", q.counted.Now, e.N, workers)
		// A long name must not push the numbers out.
		name := terminal.Cut(terminal.Inert(e.Service), max(width-terminal.Width("scale "+rest), 1))
		return terminal.Cut("scale "+name+rest, width)
	default:
		return terminal.Cut("a service is being scaled; quit, and leave that half done? y yes, n no", width)
	}
}

// ask puts the question whether to do it.
func (m *Model) ask(verb jobs.Verb) {
	if w := m.worker(); w != nil {
		m.asking = &question{effect: Control{verb, w.Name}}
	}
}

// askToScale begins the question whether there shall be one worker more or one
// less.
func (m *Model) askToScale(by int) Effect {
	w := m.worker()
	switch {
	case w == nil:
		return nil
	case m.scaling != "":
		m.note = Done{Text: m.scaling + " is being scaled; one after the other"}
		return nil
	}
	count := Count{w.Name}
	m.asking = &question{effect: count, by: by}
	return count
}

// askToQuit quits, but for a question where something would be left half done.
func (m *Model) askToQuit() Effect {
	if m.scaling == "" {
		return Quit{}
	}
	m.asking = &question{effect: Quit{}}
	return nil
}

// counted puts the question that was begun, now that there is a number.
func (m *Model) counted(c Counted) {
	if m.asking == nil || m.asking.effect != (Count{c.Unit}) {
		return // it was answered without
	}
	q := *m.asking
	m.asking = nil
	if c.Refused != "" {
		m.note = Done{Text: c.Refused}
		return
	}
	n := c.Now + q.by
	if err := c.Possible(n); err != nil {
		m.note = Done{Text: err.Error()}
		return
	}
	m.asking = &question{effect: Scale{c.Service, n}, counted: c}
}

// answer takes the key that follows a question.
func (m Model) answer(key tea.KeyPressMsg) (Model, Effect) {
	q := *m.asking // a copy: models of before keep theirs
	switch key.String() {
	case "y", "Y":
		return m.yes()
	case "n", "N", "esc", "q", "enter":
		m.asking = nil
		m.note = q.no()
		return m, nil
	}
	switch e := q.effect.(type) {
	case Count:
		q.by += step(key.String())
	case Scale:
		q.change(e, key.String())
	}
	m.asking = &q
	return m, nil
}

// yes does what was asked.
func (m Model) yes() (Model, Effect) {
	q := m.asking
	switch e := q.effect.(type) {
	case Count:
		return m, nil
	case Control:
		m.note = Done{short(e.Unit) + ": asked systemd to " + string(e.Verb) + " it…", true}
	case Scale:
		if err := q.counted.Possible(e.N); err != nil {
			m.asking, m.note = nil, Done{Text: err.Error()}
			return m, nil
		}
		m.scaling = terminal.Inert(e.Service)
		m.progress = fmt.Sprintf("scaling from %d to %d…", q.counted.Now, e.N)
	}
	m.asking = nil
	return m, q.effect
}

// no is what is said of a question that was not answered with yes.
func (q *question) no() Done {
	switch e := q.effect.(type) {
	case Control:
		return Done{short(e.Unit) + ": left as it is", true}
	case Count:
		return Done{short(e.Unit) + ": left as it is", true}
	case Scale:
		return Done{terminal.Inert(e.Service) + ": left as it is", true}
	}
	return Done{}
}

// change takes a key that makes another number of it. One that cannot be is
// told after the yes, since a number is not whole while it is typed.
func (q *question) change(e Scale, key string) {
	n := e.N
	switch {
	case step(key) != 0:
		n += step(key)
		if q.counted.Possible(n) != nil {
			return
		}
		q.typed = false
	case key == "backspace":
		n, q.typed = n/10, true
	case len(key) == 1 && key[0] >= '0' && key[0] <= '9':
		digit := int(key[0] - '0')
		if !q.typed {
			n = 0
		}
		if len(fmt.Sprint(n)) >= maxDigits {
			return
		}
		n, q.typed = n*10+digit, true
	}
	e.N = n
	q.effect = e
}

// step is by how many workers a key changes the number.
func step(key string) int {
	switch key {
	case "+":
		return 1
	case "-":
		return -1
	}
	return 0
}
