package main

import (
	"context"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

const callLong = `

It goes over D-Bus, so polkit decides who may. Each unit has a line, and the
exit code is 1 if any was refused.

--json prints an array, one object a unit: unit, verb, result (done, refused),
ok, error, ms.`

// call does what systemd does at once, without a job, to every unit that words
// select.
func (a *app) call(ctx context.Context, verb jobs.Verb, words []string, asJSON bool, call func(ctx context.Context, unit string) error) error {
	units, err := a.units(ctx, words)
	if err != nil {
		return err
	}
	progress := a.newProgress(verb, units, asJSON)
	outcomes := jobs.Call(ctx, verb, units, call, progress.ended)
	progress.close()
	if asJSON {
		if err := a.printJSON(outcomes); err != nil {
			return err
		}
	}
	return a.judge(verb, outcomes)
}
