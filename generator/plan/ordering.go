package plan

import (
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// systemd breaks an ordering cycle by not starting one of the units in it, and
// which one is anybody's guess. So cycles are looked for before anything is
// written.

const (
	maxCycles  = 50 // are told one by one
	maxSpelled = 10 // units or services are named in one message
)

// boot is the order among the units that are started with every herd: each
// waits for those behind it (bootup(7), and our own static units).
var boot = []struct {
	unit  string
	after []string
}{
	{"sysinit.target", []string{"local-fs.target", "swap.target", "systemd-modules-load.service", "systemd-tmpfiles-setup.service"}},
	{"basic.target", []string{"sysinit.target", "paths.target", "slices.target", "sockets.target", "timers.target"}},
	{"gpuherd-monitor.service", []string{"basic.target", setupUnit}},
	{"gpuherd-verify.service", []string{"basic.target", setupUnit}},
	{Target, []string{"basic.target", "gpuherd-monitor.service"}},
}

// defaultAfter is what systemd has a service wait for unless it says
// DefaultDependencies=no (systemd.service(5)).
var defaultAfter = []string{"sysinit.target", "basic.target"}

const setupUnit = Setup + ".service"

// A word is one unit's name in After= or Before= of a service, or one that
// stands there unwritten.
type word struct {
	choice *choice        // nil: of a unit that is not generated
	entry  unitfile.Entry // the zero value: unwritten
	text   string         // "worker@%i.service"
	place  int            // among those that are written, in reading order
	gone   bool           // its cycle has been told
}

func (w *word) written() bool { return w.entry.Key != "" }

// operators reports whether the operator wrote it.
func (w *word) operators() bool { return w.written() && !service.ShippedFile(w.entry.File) }

// order returns the services without those whose files make an ordering cycle.
// One that gpuherd ships, and the one that all others need, stays: of these
// only the name that closes the cycle is left out.
func (m *maker) order(chosen []*choice) []*choice {
	words := m.words(chosen)
	if len(words) == 0 {
		return chosen
	}
	g := m.graph(chosen, words)
	for n := 0; ; n++ {
		cycle := g.cycle()
		if cycle == nil {
			break
		}
		if n == maxCycles {
			m.manyCycles(g)
			break
		}
		m.tellCycle(cycle)
	}
	return slices.DeleteFunc(chosen, func(c *choice) bool { return c.left != "" })
}

// words returns the names in After= and Before= of the services that may be
// part of a cycle; most machines have none, since nothing waits for anything
// but shared-setup.service.
func (m *maker) words(chosen []*choice) []*word {
	known := map[string]bool{}
	for _, c := range chosen {
		known[c.Name] = true
	}
	var words []*word
	for _, c := range chosen {
		if c.edited {
			continue // systemd reads the administrator's copy
		}
		for _, e := range c.File.Entries("Unit") {
			if e.Key != "After" && e.Key != "Before" {
				continue
			}
			// Other than most lists, these are not reset by an empty assignment.
			for text := range strings.FieldsSeq(e.Value) {
				prefix, _, _ := service.ParseUnit(text)
				if known[prefix] || strings.Contains(text, "%") || early(text, e.Key) {
					words = append(words, &word{choice: c, entry: e, text: text, place: len(words)})
				}
			}
		}
	}
	return words
}

// early reports whether a unit of boot is named such that a cycle may come of
// it: what waits for it, or itself, waits for services.
func early(unit, key string) bool {
	for _, b := range boot {
		if b.unit == unit || slices.Contains(b.after, unit) {
			return key == "Before" || slices.Contains(b.after, setupUnit) || unit == Target
		}
	}
	return false
}

// graph says what each unit waits for. Only units that are started together
// are in it: by any other, no cycle goes.
func (m *maker) graph(chosen []*choice, words []*word) *graph {
	g := newGraph()
	units := map[*choice][]string{}
	for _, c := range chosen {
		units[c] = m.units(c)
		for _, unit := range units[c] {
			g.add(unit)
		}
	}
	generated := len(g.units)
	for _, b := range boot {
		for _, unit := range slices.Concat(b.after, []string{b.unit}) {
			if unit != setupUnit {
				g.add(unit)
			}
		}
	}
	for _, b := range boot {
		for _, unit := range b.after {
			// A service of such a name is not the unit that is meant.
			if g.index[b.unit] >= generated && (g.index[unit] >= generated || unit == setupUnit) {
				g.wait(b.unit, unit, &word{text: unit})
			}
		}
	}
	for _, c := range chosen {
		if c.edited {
			continue
		}
		var after []string
		if m.needsSetup(c) && !optsOut(c.File, "After") {
			after = append(after, setupUnit)
		}
		if defaultDependencies(c.File) {
			after = append(after, defaultAfter...)
		}
		for _, on := range after {
			w := &word{choice: c, text: on}
			for _, unit := range units[c] {
				g.wait(unit, on, w)
			}
		}
	}
	for _, w := range words {
		itself := 0
		for _, unit := range units[w.choice] {
			other, ok := resolve(w.text, unit)
			switch {
			case !ok:
			case other == unit:
				itself++
			case w.entry.Key == "After":
				g.wait(unit, other, w)
			default:
				g.wait(other, unit, w)
			}
		}
		if n := len(units[w.choice]); n > 0 && itself == n {
			m.problem(&unitfile.Problem{
				File: w.entry.File, Line: w.entry.Line, Key: w.entry.Key, Warning: true,
				Msg: w.text + " is the unit itself, which systemd drops", Fix: "take it out",
			})
		}
	}
	return g
}

// defaultDependencies reports whether systemd adds its own.
func defaultDependencies(f *unitfile.File) bool {
	e, _ := f.Last("Unit", "DefaultDependencies")
	yes, err := unitfile.ParseBool(e.Value)
	return err != nil || yes
}

// resolve returns the unit that a name in the file of a unit stands for:
// specifiers replaced as systemd's unit_name_printf does, and the name of a
// template given the unit's instance. ok is false where the machine decides.
func resolve(text, unit string) (name string, ok bool) {
	prefix, instance, _ := service.ParseUnit(unit)
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch text[i] {
		case '%':
			b.WriteByte('%')
		case 'i':
			b.WriteString(instance)
		case 'n':
			b.WriteString(unit)
		case 'N':
			b.WriteString(strings.TrimSuffix(unit, ".service"))
		case 'p':
			b.WriteString(prefix)
		case 'j':
			b.WriteString(prefix[strings.LastIndexByte(prefix, '-')+1:])
		default:
			return "", false
		}
	}
	name = b.String()
	if before, after, ok := strings.Cut(name, "@."); ok {
		if instance == "" {
			instance = prefix
		}
		name = before + "@" + instance + "." + after
	}
	return name, true
}

// tellCycle reports one cycle and sees to it that it is not written.
func (m *maker) tellCycle(cycle []step) {
	closing, culprits := blame(cycle)
	closing.gone = true
	// It is spelled from a unit of the file that closes it.
	at := slices.IndexFunc(cycle, func(s step) bool { return s.by == closing })
	if closing.entry.Key == "Before" {
		at++ // it makes the other unit wait
	}
	spelled := "ordering cycle "
	for i := range cycle {
		if i == maxSpelled {
			spelled += fmt.Sprintf("… (%d more) → ", len(cycle)-i)
			break
		}
		spelled += cycle[(at+i)%len(cycle)].unit + " → "
	}
	spelled += cycle[at%len(cycle)].unit
	fix := fmt.Sprintf("take %s out of %s=%s; until then ", closing.text, closing.entry.Key, otherwise(closing))
	if len(culprits) > 0 {
		for _, c := range culprits {
			m.leaveOut(c, spelled)
		}
		fix += leftOut(culprits)
	} else {
		closing.choice.forget(closing)
		fix += "it is ignored"
	}
	m.problem(&unitfile.Problem{
		File: closing.entry.File, Line: closing.entry.Line, Key: closing.entry.Key,
		Msg: spelled + ": each starts after the next", Fix: fix,
	})
}

// blame returns the name that is held to close a cycle, and the services that
// are left out for it: those of the operator that have a word in it. The name
// is the last one that is theirs or, where there are none, the operator's.
func blame(cycle []step) (closing *word, culprits []*choice) {
	for _, s := range cycle {
		if c := s.by.choice; s.by.written() && c.removable() && !slices.Contains(culprits, c) {
			culprits = append(culprits, c)
		}
	}
	slices.SortFunc(culprits, func(a, b *choice) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range cycle {
		w := s.by
		if !w.written() || len(culprits) > 0 && !w.choice.removable() {
			continue
		}
		if closing == nil || w.operators() && (!closing.operators() || w.place > closing.place) {
			closing = w
		}
	}
	return closing, culprits
}

// otherwise says how else a cycle can be opened that goes by what is not
// written.
func otherwise(closing *word) string {
	const optOut = "an empty After= and Requires= at the end of [Unit]"
	switch name := closing.choice.Name; {
	case closing.entry.Key != "Before":
		return ""
	case closing.text == setupUnit:
		return fmt.Sprintf(", or write %s, for %s not to wait for it", optOut, name)
	case slices.Contains(defaultAfter, closing.text) || slices.Contains(boot[0].after, closing.text) || slices.Contains(boot[1].after, closing.text):
		return fmt.Sprintf(", or write DefaultDependencies=no and %s, for %s to start that early", optOut, name)
	}
	return ""
}

// manyCycles leaves out whatever else is part of a cycle, or waits for one.
func (m *maker) manyCycles(g *graph) {
	var left []*choice
	for n, waits := range g.waits {
		for _, w := range waits {
			c := w.by.choice
			switch {
			case !w.by.written() || w.by.gone || !g.tangled[n] || !g.tangled[w.on]:
			case !c.removable():
				c.forget(w.by)
			case !slices.Contains(left, c):
				left = append(left, c)
				m.leaveOut(c, "one of more ordering cycles than are told")
			}
		}
	}
	if len(left) > 0 {
		m.problem(&unitfile.Problem{
			File: left[0].Path, Msg: "there are more ordering cycles than are told here",
			Fix: "mend those first; until then " + leftOut(left),
		})
	}
}

// leftOut says that services are left out.
func leftOut(choices []*choice) string {
	if len(choices) == 1 {
		return choices[0].Name + " is left out"
	}
	var names []string
	for i, c := range choices {
		if i == maxSpelled {
			return fmt.Sprintf("%s and %d more services are left out", strings.Join(names, ", "), len(choices)-i)
		}
		names = append(names, c.Name)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last] + " are left out"
}
