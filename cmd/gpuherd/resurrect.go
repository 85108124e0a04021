package main

import (
	"context"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

func (a *app) resurrect() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resurrect",
		Short: "Bring back what was saved: start and stop workers as it says",
		Long: `Have systemd read its files again, start every worker of the plan but those that
save found stopped, and stop those. That is what a boot does; where nothing was
saved, every worker is started. What is as it should be is not touched.

--json prints an array, one object a unit, as start --json does.`,
		Example: "  gpuherd resurrect",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			outcomes, err := a.resurrectHerd(cmd.Context(), asJSON)
			if asJSON && outcomes != nil {
				if err := a.printJSON(outcomes); err != nil {
					return err
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the results")
	return cmd
}

func (a *app) resurrectHerd(ctx context.Context, asJSON bool) ([]jobs.Outcome, error) {
	if _, err := a.systemd(ctx); err != nil {
		return nil, err
	}
	r, err := a.compute(a.rootDir)
	if err != nil {
		return nil, err
	}
	if err := a.daemonReload(ctx); err != nil {
		return nil, err
	}
	workers, err := a.glance(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	runs := map[string]bool{}
	for _, w := range workers {
		runs[w.Name] = w.Active == "active" || w.Active == "activating" || w.Active == "reloading"
	}
	var start, stop []string
	for _, w := range r.Plan.Workers {
		switch is, known := runs[w.Unit]; {
		case !known: // systemd does not want it, or it is gpuherd's own
		case w.Stopped && is:
			stop = append(stop, w.Unit)
		case !w.Stopped && !is:
			start = append(start, w.Unit)
		}
	}
	c := changer{a, asJSON}
	outcomes, err := c.jobsOf(ctx, jobs.Stop, stop, []jobs.Outcome{})
	if err == nil {
		outcomes, err = c.jobsOf(ctx, jobs.Start, start, outcomes)
	}
	if len(start)+len(stop) == 0 && !asJSON {
		a.stdout.say("all is as it was saved\n")
	}
	if err != nil {
		return outcomes, err
	}
	return outcomes, a.judgeChange(outcomes)
}
