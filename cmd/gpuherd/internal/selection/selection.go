// Package selection turns the words by which people name workers (an index,
// a range, a service, a unit, a glob, "all") into units of the herd. It does
// no I/O.
package selection

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// All is the word that selects every worker.
const All = "all"

// own are the units of the herd that are gpuherd itself: "all" leaves them
// alone, since stopping the workers must not stop what watches them.
var own = []string{"gpuherd-monitor.service", "gpuherd-rescan.service", "shared-setup.service"}

// Own reports whether unit is a part of gpuherd rather than a worker.
func Own(unit string) bool { return slices.Contains(own, unit) }

// An UnknownError says that a word selects nothing, and what there is.
type UnknownError struct {
	Word  string
	Herd  []string // what there is, sorted
	Guess string   // what was probably meant; empty where nothing is near
}

func (e *UnknownError) Error() string {
	if len(e.Herd) == 0 {
		return fmt.Sprintf("nothing here is called %q: the herd is empty; `gpuherd explain` says why", e.Word)
	}
	s := fmt.Sprintf("nothing here is called %q", e.Word)
	if e.Guess != "" {
		s += fmt.Sprintf(", did you mean %q?", e.Guess)
	}
	return s + "; there is " + Describe(e.Herd) + ", or " + All
}

// A RangeError says that a range runs backwards.
type RangeError struct{ Word string }

func (e *RangeError) Error() string {
	return fmt.Sprintf("range %q runs backwards; write the lower GPU first", e.Word)
}

// Select returns the units of herd that the words name, each once, in the
// order of Compare. Words are read in this order:
//
//	all             every worker: the herd without gpuherd's own units
//	a*, a?, [ab]    units whose name matches, with or without ".service"
//	0-3             the instances "0", "1", "2" and "3" of every per-GPU service, those that exist
//	0, 0:1, 0.2     the instance of exactly that name of every per-GPU service
//	redis-worker@0  that unit; ".service" may stand behind it
//	redis-worker    the service: its one unit, or all its instances
//
// A word that selects nothing is an *UnknownError.
func Select(herd, words []string) ([]string, error) {
	var chosen []string
	for _, word := range words {
		found, err := selectWord(herd, word)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, unknown(herd, word)
		}
		chosen = append(chosen, found...)
	}
	slices.SortFunc(chosen, Compare)
	return slices.Compact(chosen), nil
}

// Workers returns the herd without gpuherd's own units, in order.
func Workers(herd []string) []string {
	workers := slices.DeleteFunc(slices.Clone(herd), Own)
	slices.SortFunc(workers, Compare)
	return workers
}

func selectWord(herd []string, word string) ([]string, error) {
	if word == All {
		return Workers(herd), nil
	}
	match, err := matcher(word)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, unit := range herd {
		if match(unit) {
			found = append(found, unit)
		}
	}
	return found, nil
}

// matcher returns what decides whether a unit is meant by the word.
func matcher(word string) (func(unit string) bool, error) {
	if strings.ContainsAny(word, "*?[") {
		if _, err := path.Match(word, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", word, err)
		}
		return func(unit string) bool {
			long, _ := path.Match(word, unit)
			short, _ := path.Match(word, Short(unit))
			return long || short
		}, nil
	}
	if first, last, ok := parseRange(word); ok {
		if first > last {
			return nil, &RangeError{Word: word}
		}
		return func(unit string) bool {
			_, instance, ok := service.ParseUnit(unit)
			if !ok {
				return false
			}
			in, err := service.ParseInstance(instance)
			return err == nil && in.MIG < 0 && in.Worker == 1 && first <= in.GPU && in.GPU <= last
		}, nil
	}
	if _, err := service.ParseInstance(word); err == nil {
		return func(unit string) bool {
			_, instance, ok := service.ParseUnit(unit)
			return ok && instance == word
		}, nil
	}
	return func(unit string) bool {
		name, _, ok := service.ParseUnit(unit)
		return unit == word || Short(unit) == word || ok && name == word
	}, nil
}

// parseRange reads "A-B" with two GPU indices.
func parseRange(word string) (first, last int, ok bool) {
	a, b, ok := strings.Cut(word, "-")
	if !ok {
		return 0, 0, false
	}
	x, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, false
	}
	y, err := strconv.ParseUint(b, 10, 16)
	if err != nil {
		return 0, 0, false
	}
	return int(x), int(y), true
}

// Patterns turns words into unit patterns as `journalctl -u` takes them,
// without knowing the herd: for when systemd cannot be asked. "all" has no
// pattern, so that ok is false for it and for a range that runs backwards.
func Patterns(words []string) (patterns []string, ok bool) {
	for _, word := range words {
		if word == All {
			return nil, false
		}
		if first, last, isRange := parseRange(word); isRange {
			if first > last {
				return nil, false
			}
			for n := first; n <= last; n++ {
				patterns = append(patterns, fmt.Sprintf("*@%d.service", n))
			}
			continue
		}
		if _, err := service.ParseInstance(word); err == nil {
			patterns = append(patterns, "*@"+word+".service")
			continue
		}
		patterns = append(patterns, Pattern(word)...)
	}
	return patterns, true
}

// Pattern is Patterns for one unit, service or glob.
func Pattern(word string) []string {
	switch {
	case strings.HasSuffix(word, ".service"), strings.HasSuffix(word, ".target"):
		return []string{word}
	case strings.ContainsAny(word, "@*?["):
		return []string{word + ".service"}
	default:
		return []string{word + ".service", word + "@*.service"}
	}
}

// Short returns the unit's name as people say it: without ".service".
func Short(unit string) string { return strings.TrimSuffix(unit, ".service") }

// Compare orders units by service, then by GPU, MIG device and worker as
// numbers, so that redis-worker@2 stands before redis-worker@10.
func Compare(a, b string) int {
	an, ai, _ := service.ParseUnit(a)
	bn, bi, _ := service.ParseUnit(b)
	if c := cmp.Compare(an, bn); c != 0 {
		return c
	}
	x, xerr := service.ParseInstance(ai)
	y, yerr := service.ParseInstance(bi)
	if xerr == nil && yerr == nil {
		return cmp.Or(cmp.Compare(x.GPU, y.GPU), cmp.Compare(x.MIG, y.MIG), cmp.Compare(x.Worker, y.Worker), cmp.Compare(a, b))
	}
	return cmp.Compare(a, b)
}

// Describe lists units for people, instances gathered: "hello-world,
// redis-worker (0, 1)".
func Describe(units []string) string {
	sorted := slices.Clone(units)
	slices.SortFunc(sorted, Compare)
	var names []string
	instances := map[string][]string{}
	for _, unit := range sorted {
		name, instance, ok := service.ParseUnit(unit)
		if !ok {
			name = unit
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		if instance != "" {
			instances[name] = append(instances[name], instance)
		}
	}
	for i, name := range names {
		if in := instances[name]; len(in) > 0 {
			names[i] = name + " (" + strings.Join(in, ", ") + ")"
		}
	}
	return strings.Join(names, ", ")
}

func unknown(herd []string, word string) error {
	sorted := slices.Clone(herd)
	slices.SortFunc(sorted, Compare)
	var known []string
	for _, unit := range sorted {
		known = append(known, Short(unit))
		if name, instance, ok := service.ParseUnit(unit); ok && instance != "" {
			known = append(known, name)
		}
	}
	return &UnknownError{Word: word, Herd: sorted, Guess: unitfile.Nearest(word, slices.Compact(known))}
}

// Words returns what completion offers for the herd: "all", the instances,
// the services and the units.
func Words(herd []string) []string {
	sorted := slices.Clone(herd)
	slices.SortFunc(sorted, Compare)
	var instances, services, units []string
	for _, unit := range sorted {
		name, instance, ok := service.ParseUnit(unit)
		if ok && instance != "" {
			instances = append(instances, instance)
			services = append(services, name)
		}
		units = append(units, Short(unit))
	}
	slices.SortFunc(instances, func(a, b string) int { return Compare("@"+a+".service", "@"+b+".service") })
	return slices.Concat([]string{All}, slices.Compact(instances), slices.Compact(services), units)
}
