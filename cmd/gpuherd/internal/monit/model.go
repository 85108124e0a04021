package monit

import (
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/state"
)

// The messages that the model takes, beside bubbletea's keys and sizes.
type (
	// A Snapshot is the herd as it is now.
	Snapshot struct {
		At      time.Time
		Workers []Worker    // in the order in which they are shown
		GPUs    []state.GPU // none where NoGPUs
		NoGPUs  string      // why nothing is known of the GPUs; empty: it is
		Lost    bool        // systemd cannot be asked now: Workers may be old
		Events  []Line      // what happened since the last Snapshot
	}

	// LogLines are new lines of the journal.
	LogLines struct {
		Number int // of the Follow that they answer
		Lines  []Line
	}

	// Details are everything of one worker.
	Details struct {
		Unit  string
		Lines []string
	}

	// Done says what became of something that was asked for.
	Done struct {
		Text string
		OK   bool
	}

	// Counted answers Count.
	Counted struct {
		Unit     string
		Refused  string            // why its service cannot be scaled; empty: it can
		Service  string            // of the unit
		Now      int               // workers on each device
		Possible func(n int) error // why there cannot be n of them; nil: there can
	}

	// Progress says how far a Scale is.
	Progress struct{ Text string }

	// Scaled ends a Scale.
	Scaled struct{ Done }
)

// A Worker is one row.
type Worker struct {
	state.Unit
	CPU *float64 // of the last seconds, percent of one core; nil: not available
}

// An Effect is what the model wants to have done: one of the types below, or
// nil.
type Effect any

// The effects. Answers to them come as messages.
type (
	// Follow asks for the log of the unit, and no more for that of another.
	Follow struct {
		Unit   string
		Number int // tells one Follow from the next
	}
	// Describe asks for the Details of the unit.
	Describe struct{ Unit string }
	// Control asks systemd.
	Control struct {
		Verb jobs.Verb
		Unit string
	}
	// Count asks how many workers the service of the unit has.
	Count struct{ Unit string }
	// Scale has a service have n workers on each device. Progress and in the
	// end Scaled answer it.
	Scale struct {
		Service string
		N       int
	}
	// Quit ends the screen.
	Quit struct{}
	// Suspend stops the process, as Ctrl+Z does anywhere.
	Suspend struct{}
)

// renewal is how old details are at least before they are asked for anew: each
// time is a connection to systemd of its own.
const renewal = time.Second

// kind is what a pane shows.
type kind int

const (
	logs kind = iota
	events
	details
	help
	kinds
)

// prompt is what is being typed on the last line.
type prompt int

const (
	noPrompt prompt = iota
	searching
	filtering
)

// A Model is the screen's state. Update takes what happens and View tells what
// is to be seen; neither does any I/O.
type Model struct {
	host   string
	screen terminal.Screen
	cells  func(state.Unit, time.Time) Cells

	width, height int

	now    Snapshot // without its events
	synced bool     // a Snapshot was told

	selected string // unit
	row      int    // its place among the workers
	number   int    // of the last Follow

	panes [kinds]pane
	shown kind      // pane
	full  bool      // it has the screen for itself
	about string    // unit of the details
	asked *Describe // that is not answered yet; nil: none
	since time.Time // of the last Describe

	typing prompt
	typed  string
	asking *question
	note   Done // told on the last line until a key is pressed

	scaling  string // service, inert; empty: none is being scaled
	progress string // of that, told on the last line while there is nothing else
}

// NewModel returns a screen without workers. host is where they are; cells
// returns what is written of a unit.
func NewModel(host string, screen terminal.Screen, cells func(state.Unit, time.Time) Cells) Model {
	m := Model{host: host, screen: screen, cells: cells, width: 80, height: 24}
	for i := range m.panes {
		m.panes[i].at = following
	}
	m.panes[help].add(helpLines()...)
	return m
}

// Update takes one message and returns the screen after it, with what is to be
// done.
func (m Model) Update(msg tea.Msg) (Model, Effect) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m.key(msg)
	case tea.PasteMsg:
		if m.typing != noPrompt {
			m.typed += msg.Content
		}
	case Snapshot:
		return m.snapshot(msg)
	case LogLines:
		if msg.Number == m.number {
			m.panes[logs].add(msg.Lines...)
		}
	case Details:
		m.described(msg)
	case Done:
		m.note = msg
	case Counted:
		m.counted(msg)
	case Progress:
		m.progress = msg.Text
	case Scaled:
		m.scaling, m.progress, m.note = "", "", msg.Done
	}
	return m, nil
}

func (m Model) snapshot(s Snapshot) (Model, Effect) {
	m.panes[events].add(s.Events...)
	s.Events = nil
	m.now, m.synced = s, true
	row := slices.IndexFunc(s.Workers, func(w Worker) bool { return w.Name == m.selected })
	if row < 0 { // it has left, or this is the first snapshot
		var effect Effect
		if m, effect = m.choose(m.row); effect != nil {
			return m, effect
		}
	} else {
		m.row = row
	}
	if m.stale() {
		return m, m.describe()
	}
	return m, nil
}

// describe asks for the details anew.
func (m *Model) describe() Effect {
	ask := Describe{m.about}
	m.asked, m.since = &ask, m.now.At
	return ask
}

// stale reports whether the details are shown, and it is time to ask for them
// anew: of one that is asked, an answer comes first. Nobody can answer while
// systemd is lost.
func (m *Model) stale() bool {
	return m.shown == details && m.asked == nil && !m.now.Lost && m.now.At.Sub(m.since) >= renewal
}

// described takes an answer. What somebody reads, searches or filters stays
// where it is.
func (m *Model) described(d Details) {
	if m.asked != nil && d.Unit == m.asked.Unit {
		m.asked = nil
	}
	if m.shown != details || d.Unit != m.about {
		return
	}
	p := &m.panes[details]
	p.lines, p.first = nil, 0
	for _, line := range d.Lines {
		p.add(Line{Text: line})
	}
}

// choose selects the worker in a row, or the one nearest to it.
func (m Model) choose(row int) (Model, Effect) {
	if len(m.now.Workers) == 0 {
		m.row, m.selected = 0, ""
		return m, nil
	}
	m.row = max(0, min(row, len(m.now.Workers)-1))
	name := m.now.Workers[m.row].Name
	if name == m.selected {
		return m, nil
	}
	m.selected = name
	m.number++
	old := &m.panes[logs]
	m.panes[logs] = pane{at: following, find: old.find, only: old.only, wrap: old.wrap}
	return m, Follow{Unit: name, Number: m.number}
}

// worker returns the selected worker, nil where there is none.
func (m Model) worker() *Worker {
	if m.selected == "" {
		return nil
	}
	return &m.now.Workers[m.row]
}

// gpu returns the GPU of a worker, nil where it has none or nothing is known.
func (m Model) gpu(w *Worker) *state.GPU {
	if w.GPU == nil {
		return nil
	}
	for i := range m.now.GPUs {
		if g := &m.now.GPUs[i]; g.Index == *w.GPU {
			return g
		}
	}
	return nil
}

// short is how a unit is called on the screen.
func short(unit string) string { return terminal.Inert(selection.Short(unit)) }
