// Package monit is the full screen of `gpuherd monit`: the workers as they are
// now, and below them a log, events or details.
//
// The Model is pure: messages in, text and effects out. Around it, systemd's
// signals come from D-Bus, figures from the kernel's control groups, logs from
// journalctl, and GPUs from whoever is given to ask.
package monit

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/bus"
	"gpuherd/monitor/state"
)

// Options are what a screen needs of the outside. All functions may be called
// concurrently, and must return when their context ends.
type Options struct {
	Host   string // how it is called
	Screen terminal.Screen

	// Choose picks, of the names of units, those to show, in their order.
	Choose func(names []string) []string
	// Cells returns what is written of a unit at a time.
	Cells func(state.Unit, time.Time) Cells
	// GPUs returns the GPUs as they are now, or why they are not known.
	GPUs func(context.Context) ([]state.GPU, error)
	// Describe returns everything of a unit, a line each.
	Describe func(ctx context.Context, unit string) ([]string, error)
	// Control does it, and says what became of it.
	Control func(ctx context.Context, verb jobs.Verb, unit string) Done
	// Count tells how many workers the unit's service has, and may have.
	Count func(ctx context.Context, unit string) Counted
	// Scale has a service have n workers on each device, tells how far it is,
	// and says what became of it. One runs at a time.
	Scale func(ctx context.Context, service string, n int, progress func(text string)) Done
	// Journal returns the command that follows a unit's journal as JSON.
	Journal func(unit string) []string

	TTY  *os.File // the terminal; nil: standard input and output
	Root string   // of the file system with the control groups; empty: "/"
	Bus  []bus.Option
	Log  *slog.Logger // must not write to the terminal; nil: nowhere
}

// frames is how often a second the screen can change: often enough for keys,
// and at rest each costs a little.
const frames = 30

// Run shows the screen on the terminal until it is left or ctx ends, which is
// no error.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	life, end := context.WithCancel(ctx)
	defer end()
	s := &shell{Options: o, life: life, model: NewModel(o.Host, o.Screen, o.Cells)}
	s.follower = newFollower(o.Journal, s.send)
	settings := []tea.ProgramOption{tea.WithoutSignalHandler(), tea.WithFPS(frames)}
	if o.TTY != nil {
		settings = append(settings, tea.WithInput(o.TTY), tea.WithOutput(o.TTY))
	}
	s.program = tea.NewProgram(s, settings...)
	f := newFeed(o, s.send)
	s.tasks.Go(func() { f.run(life) })
	s.tasks.Go(func() { s.follower.run(life) })
	// Not bubbletea's own way to end with a context, which leaves goroutines
	// behind.
	stop := context.AfterFunc(ctx, s.program.Quit)
	_, err := s.program.Run()
	stop()
	end()
	s.tasks.Wait()
	if err != nil {
		return fmt.Errorf("cannot show the screen: %w", err)
	}
	return nil
}

// A shell is the Model as bubbletea wants it, and does its effects.
type shell struct {
	Options
	life     context.Context // of the effects: bubbletea gives them none
	program  *tea.Program
	follower *follower
	tasks    sync.WaitGroup
	model    Model
}

func (s *shell) send(msg tea.Msg) { s.program.Send(msg) }

// Init implements tea.Model.
func (s *shell) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (s *shell) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var effect Effect
	s.model, effect = s.model.Update(msg)
	switch e := effect.(type) {
	case Quit:
		return s, tea.Quit
	case Suspend:
		return s, tea.Suspend
	case Follow:
		s.follower.follow(e)
	case Describe:
		s.tasks.Go(func() { s.send(s.describe(e.Unit)) })
	case Control:
		s.tasks.Go(func() { s.send(s.Control(s.life, e.Verb, e.Unit)) })
	case Count:
		s.tasks.Go(func() { s.send(s.Count(s.life, e.Unit)) })
	case Scale:
		s.tasks.Go(func() {
			s.send(Scaled{s.Scale(s.life, e.Service, e.N, func(text string) { s.send(Progress{text}) })})
		})
	}
	return s, nil
}

func (s *shell) describe(unit string) Details {
	lines, err := s.Describe(s.life, unit)
	if err != nil {
		lines = []string{err.Error()}
	}
	for i := range lines {
		lines[i] = terminal.Inert(lines[i])
	}
	return Details{Unit: unit, Lines: lines}
}

// View implements tea.Model.
func (s *shell) View() tea.View {
	v := tea.NewView(s.model.View())
	v.AltScreen = true
	return v
}
