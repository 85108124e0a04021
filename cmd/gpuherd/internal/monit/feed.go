package monit

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/bus"
	"gpuherd/monitor/resources"
	"gpuherd/monitor/state"
)

const (
	// sampled is how often figures are read.
	sampled = 2 * time.Second
	// seldom is how often GPUs are asked for while nobody answers.
	seldom = 10 * time.Second
	// calm is how long a Snapshot stands at least: a herd that crashes in a
	// loop changes thousands of times a second.
	calm = 100 * time.Millisecond
	// grace is how long systemd may be silent before that is told: it is during
	// each reload of its files, of which every Scale makes one.
	grace = time.Second
)

// A feed turns what systemd, the kernel and the GPUs tell into Snapshots.
type feed struct {
	Options
	send func(tea.Msg)
	herd *state.Herd

	changed chan struct{} // holds one: something has

	mu     sync.Mutex
	events []Line
	lost   time.Time // since when systemd is silent; zero: it is not
	synced bool
	noGPUs string
	cpu    map[string]float64
	before map[string]reading

	// restarts are systemd's automatic ones of each unit, as list has them. The
	// herd's count is one that begins with this screen.
	restarts map[string]uint32
}

// A reading is the CPU time that a unit had used at a time.
type reading struct {
	ns uint64
	at time.Time
}

func newFeed(o Options, send func(tea.Msg)) *feed {
	f := &feed{Options: o, send: send, changed: make(chan struct{}, 1), before: map[string]reading{}, restarts: map[string]uint32{}, noGPUs: "not asked yet"}
	f.herd = state.NewHerd(f.take, time.Now)
	return f
}

// run feeds until ctx ends.
func (f *feed) run(ctx context.Context) {
	var tasks sync.WaitGroup
	watcher := bus.NewWatcher(f.Log, f, nil, f.Bus...)
	sampler := &resources.Sampler{Root: cmp.Or(f.Root, "/"), Every: sampled, Herd: f, Log: f.Log}
	tasks.Go(func() { _ = watcher.Run(ctx) }) // both end with ctx only, and without error
	tasks.Go(func() { _ = sampler.Run(ctx) })
	tasks.Go(func() { f.watchGPUs(ctx) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.changed:
			if s, ok := f.snapshot(time.Now()); ok {
				f.send(s)
			}
			pause(ctx, calm)
		}
	}
	tasks.Wait()
}

// pause waits, and reports false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (f *feed) poke() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Observe implements bus.Handler.
func (f *feed) Observe(o state.Observation) {
	f.mu.Lock()
	f.restarts[o.Name] = o.NRestarts
	f.mu.Unlock()
	f.herd.Observe(o)
}

// Lost implements bus.Handler.
func (f *feed) Lost(sinceUS int64) {
	f.herd.Lost(sinceUS)
	f.mu.Lock()
	if f.lost.IsZero() {
		f.lost = time.Now()
		time.AfterFunc(grace, f.poke)
	}
	f.mu.Unlock()
}

// Sync implements bus.Handler.
func (f *feed) Sync(herd []state.Observation, reason string) {
	restarts := make(map[string]uint32, len(herd))
	for _, o := range herd {
		restarts[o.Name] = o.NRestarts
	}
	f.mu.Lock()
	f.restarts = restarts
	f.mu.Unlock()
	f.herd.Sync(herd, reason)
	f.mu.Lock()
	f.lost, f.synced = time.Time{}, true
	f.mu.Unlock()
	f.poke()
}

// ControlGroups implements resources.Herd.
func (f *feed) ControlGroups() map[string]state.ControlGroup { return f.herd.ControlGroups() }

// Use implements resources.Herd: it takes the figures, and what CPU time has
// been used since the ones before.
func (f *feed) Use(figures map[string]state.Figures) {
	f.herd.Use(figures)
	now := time.Now()
	f.mu.Lock()
	f.cpu, f.before = rates(f.before, figures, now)
	f.mu.Unlock()
	f.poke()
}

// rates returns the share of a core that each unit used since before, and the
// readings for the next time. CPU time that went back is of a new control group.
func rates(before map[string]reading, figures map[string]state.Figures, now time.Time) (map[string]float64, map[string]reading) {
	cpu, next := map[string]float64{}, map[string]reading{}
	for name, figure := range figures {
		if figure.CPUNS == nil {
			continue
		}
		next[name] = reading{*figure.CPUNS, now}
		old, ok := before[name]
		if passed := now.Sub(old.at); ok && passed > 0 && *figure.CPUNS >= old.ns {
			cpu[name] = float64(*figure.CPUNS-old.ns) / float64(passed) * 100
		}
	}
	return cpu, next
}

// watchGPUs asks for the GPUs now and then.
func (f *feed) watchGPUs(ctx context.Context) {
	for {
		gpus, err := f.GPUs(ctx)
		f.mu.Lock()
		f.noGPUs = ""
		if err != nil {
			f.noGPUs = err.Error()
		}
		f.mu.Unlock()
		wait := sampled
		if err == nil {
			f.herd.SetGPUs(gpus)
		} else {
			wait = seldom
		}
		f.poke()
		if !pause(ctx, wait) {
			return
		}
	}
}

// take is the herd's sink.
func (f *feed) take(d state.Delta) {
	f.mu.Lock()
	for _, e := range d.Events {
		if line, ok := f.event(e); ok {
			f.events = append(f.events, line)
		}
	}
	if over := len(f.events) - keep; over > 0 {
		f.events = append([]Line(nil), f.events[over:]...)
	}
	f.mu.Unlock()
	f.poke()
}

// event returns an event as a line, and whether it is one to show.
func (f *feed) event(e state.Event) (Line, bool) {
	line := Line{At: time.UnixMicro(e.AtUS)}
	switch data := e.Data.(type) {
	case *state.UnitEvent:
		if len(f.Choose([]string{data.Name})) == 0 {
			return line, false
		}
		line.Text = terminal.Cut(short(data.Name), widestUnit) + " " + data.Event
		switch data.Event {
		case state.Failed:
			line.Style = terminal.Bad
			line.Text += ": " + f.Cells(data.Unit, line.At).Status.Text
		case state.Running:
			line.Style = terminal.Good
		case state.Starting, state.Stopping:
			line.Style = terminal.Busy
		}
		if data.PID != 0 {
			line.Text += fmt.Sprintf(", PID %d", data.PID)
		}
		if data.Resynced {
			line.Text += " (seen late: what came before may be missing)"
		}
	case *state.GPUEvent:
		line.Text = fmt.Sprintf("GPU %d %s", data.Index, data.Event)
		for i, reason := range data.Reasons {
			line.Text += [2]string{": ", ", "}[min(i, 1)] + reason
		}
		switch data.Event {
		case state.Unhealthy, state.Removed:
			line.Style = terminal.Bad
		case state.Healthy, state.Added:
			line.Style = terminal.Good
		}
	default:
		return line, false
	}
	line.Text = terminal.Inert(line.Text)
	return line, true
}

// snapshot returns the herd as it is now, once it is known, and takes the
// events out.
func (f *feed) snapshot(now time.Time) (Snapshot, bool) {
	units, gpus := f.herd.Units(), f.herd.GPUs()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		return Snapshot{}, false
	}
	s := Snapshot{At: now, NoGPUs: f.noGPUs, Lost: !f.lost.IsZero() && now.Sub(f.lost) >= grace, Events: f.events}
	f.events = nil
	if f.noGPUs == "" {
		s.GPUs = gpus
	}
	byName := make(map[string]state.Unit, len(units))
	names := make([]string, 0, len(units))
	for _, u := range units {
		byName[u.Name] = u
		names = append(names, u.Name)
	}
	for _, name := range f.Choose(names) {
		w := Worker{Unit: byName[name]}
		w.Restarts = uint64(f.restarts[name])
		if cpu, ok := f.cpu[name]; ok {
			w.CPU = &cpu
		}
		s.Workers = append(s.Workers, w)
	}
	return s, true
}
