package main

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator/plan"
	"gpuherd/monitor/resources"
)

// strays returns the units that run and are of the herd no more: their GPU or
// their service has left the configuration, and a reload of systemd ends
// nothing. known are units that need not be looked at. A unit in the slice that
// somebody wrote a file for is theirs. Of --host nothing is known, since its
// control groups are not here.
func (a *app) strays(ctx context.Context, known map[string]bool) ([]string, error) {
	if a.remote != "" {
		return nil, nil
	}
	running, err := resources.Services(a.rootDir, plan.Slice)
	if err != nil {
		return nil, err
	}
	running = slices.DeleteFunc(running, func(unit string) bool { return known[unit] || selection.Own(unit) })
	if len(running) == 0 {
		return nil, nil
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	conn, err := a.jobs(ctx)
	if err != nil {
		return nil, err
	}
	herd, err := a.link.Herd(ctx) // after the groups: what starts just now is of it
	if err != nil {
		return nil, a.noSystemd(err)
	}
	wanted := make(map[string]bool, len(herd))
	for _, unit := range herd {
		wanted[unit] = true
	}
	var strays []string
	for _, unit := range running {
		if wanted[unit] {
			continue
		}
		file, err := conn.GetUnitPropertyContext(ctx, unit, "FragmentPath")
		if err != nil {
			return nil, a.noSystemd(err)
		}
		if from, _ := file.Value.Value().(string); from == "" || path.Dir(from) == "/"+plan.GeneratorDir {
			strays = append(strays, unit)
		}
	}
	slices.SortFunc(strays, selection.Compare)
	return strays, nil
}

// tellStrays names on stderr the units that run and are not in a list.
func (a *app) tellStrays(ctx context.Context, listed []worker) {
	known := make(map[string]bool, len(listed))
	for _, w := range listed {
		known[w.Name] = true
	}
	strays, err := a.strays(ctx, known)
	if err != nil || len(strays) == 0 { // doctor says what is wrong
		return
	}
	a.complain("not configured any more, but running: %s (gpuherd doctor)", strings.Join(strays, ", "))
}

// unitsToStop is units, where a word that selects nothing of the herd may also
// be the whole name of a stray.
func (a *app) unitsToStop(ctx context.Context, words []string) ([]string, error) {
	units, err := a.units(ctx, words)
	var unknown *selection.UnknownError
	if !errors.As(err, &unknown) {
		return units, err
	}
	strays, _ := a.strays(ctx, nil) // where they are not known, the word is not
	var rest []string
	for _, word := range words {
		unit := selection.Short(word) + ".service"
		if _, notOfHerd := selection.Select(unknown.Herd, []string{word}); notOfHerd != nil && slices.Contains(strays, unit) {
			units = append(units, unit)
		} else {
			rest = append(rest, word)
		}
	}
	if len(rest) > 0 { // no word would be every worker
		more, err := a.units(ctx, rest)
		if err != nil {
			return nil, err
		}
		units = append(units, more...)
	}
	slices.SortFunc(units, selection.Compare)
	return slices.Compact(units), nil
}
