package explanation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator/plan"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// An UnknownError says that a word names nothing that was decided about.
type UnknownError struct {
	Word  string
	Guess string // what was probably meant; empty where nothing is near
}

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("nothing here is called %q", e.Word)
	if e.Guess != "" {
		s += fmt.Sprintf(", did you mean %q?", e.Guess)
	}
	return s + "; without a selection explain shows all there is"
}

// Select returns what the words name, by the rules of package selection and
// beyond them:
//
//	3, 0-3          a GPU with every unit on it, and the services that are off
//	0000:17:00.0    the device at a PCI address
//	redis-worker    a service, be it off
//	redis-worker@3  a unit, be it not generated
//
// The devices and services that a unit belongs to come with it. A number that
// no GPU has is answered by a note and by what became of the other devices; any
// other word that names nothing is an *UnknownError.
func (e *Explanation) Select(words []string) (*Explanation, error) {
	s := selected{from: e, keep: map[string]bool{}, whole: map[string]bool{}}
	for _, word := range words {
		if !s.numbers(word) && !s.address(word) && !s.unit(word) {
			return nil, &UnknownError{Word: word, Guess: unitfile.Nearest(word, e.names())}
		}
	}
	return s.result(), nil
}

// selected gathers what the words of a selection name: keep has decisions by
// kind and subject.
type selected struct {
	from  *Explanation
	keep  map[string]bool
	whole map[string]bool // PCI addresses of devices that were meant themselves
	notes []string
}

func key(l Line) string { return l.Kind + " " + l.Subject }

func (s *selected) add(lines ...Line) {
	for _, l := range lines {
		s.keep[key(l)] = true
	}
}

// numbers takes "3" and "0-3".
func (s *selected) numbers(word string) bool {
	first, last, isRange := strings.Cut(word, "-")
	if !isRange {
		last = first
	}
	low, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return false
	}
	high, err := strconv.ParseUint(last, 10, 16)
	if err != nil || high < low {
		return false
	}
	found := false
	for n := low; n <= high; n++ {
		if d := s.from.numbered(int(n)); d != nil {
			found = true
			s.device(d)
		}
	}
	if !found {
		s.absent(word)
	}
	return true
}

// device takes a device with all that is on it, or could be.
func (s *selected) device(d *Device) {
	s.whole[d.PCI] = true
	s.add(d.Lines...)
	s.add(d.Units...)
	for _, l := range s.from.Services {
		if l.Verdict == plan.Off || l.Verdict == plan.NotGenerated {
			s.add(l)
		}
	}
}

// absent answers for a GPU that there is not.
func (s *selected) absent(word string) {
	var numbers []string
	for _, d := range s.from.Devices {
		if d.Index >= 0 {
			numbers = append(numbers, strconv.Itoa(d.Index))
		} else {
			s.add(d.Lines...)
		}
	}
	note := "there is no GPU " + word + ": "
	switch n := len(numbers); n {
	case 0:
		note += "none is found or simulated"
	case 1:
		note += "the only one is GPU " + numbers[0]
	default:
		note += fmt.Sprintf("there are %d, from GPU %s to GPU %s", n, numbers[0], numbers[n-1])
	}
	s.notes = append(s.notes, note)
	s.add(s.from.Machine...)
}

func (s *selected) address(word string) bool {
	d := s.from.at(word)
	if d == nil {
		return false
	}
	s.device(d)
	return true
}

// unit takes the names of units, services and globs on them.
func (s *selected) unit(word string) bool {
	found := false
	var units []string
	for _, l := range s.from.all {
		switch {
		case l.Kind == plan.KindUnit:
			units = append(units, l.Subject)
		case l.Kind == plan.KindService && l.Subject == word:
			found = true
			s.add(l)
		}
	}
	chosen, _ := selection.Select(units, []string{word}) // what is unknown there may be known here
	for _, unit := range chosen {
		found = true
		s.keep[plan.KindUnit+" "+unit] = true
		s.around(unit)
	}
	// The instance of a service that has none.
	name, instance, ok := service.ParseUnit(strings.TrimSuffix(word, ".service") + ".service")
	if !found && ok && instance != "" && slices.ContainsFunc(s.from.Services, func(l Line) bool { return serviceOf(l) == name }) {
		found = true
		s.around(name + "@" + instance + ".service")
		if in, err := service.ParseInstance(instance); err == nil && s.from.numbered(in.GPU) == nil {
			s.absent(strconv.Itoa(in.GPU))
		}
	}
	return found
}

// around takes the device and the service of a unit.
func (s *selected) around(unit string) {
	if d := s.from.under(unit); d != nil {
		s.add(d.Lines...)
	}
	name, _, _ := service.ParseUnit(unit)
	for _, l := range s.from.Services {
		if serviceOf(l) == name {
			s.add(l)
		}
	}
}

func (s *selected) result() *Explanation {
	pick := func(lines []Line) (picked []Line) {
		for _, l := range lines {
			if s.keep[key(l)] {
				picked = append(picked, l)
			}
		}
		return picked
	}
	r := &Explanation{
		Notes: s.notes, Services: pick(s.from.Services), Machine: pick(s.from.Machine), all: pick(s.from.all),
	}
	for _, d := range s.from.Devices {
		few := *d
		if !s.whole[d.PCI] {
			few.Idle = ""
		}
		if few.Lines, few.Units = pick(d.Lines), pick(d.Units); len(few.Lines)+len(few.Units) > 0 {
			r.Devices = append(r.Devices, &few)
		}
	}
	return r
}

// names lists what a word may have been meant to be.
func (e *Explanation) names() []string {
	var names []string
	for _, l := range e.all {
		if l.Kind == plan.KindUnit || l.Kind == plan.KindService || l.Kind == plan.KindGPU {
			names = append(names, selection.Short(l.Subject))
		}
	}
	return names
}
