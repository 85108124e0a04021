package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/selection"
)

// errTimeUp is the cause of a wait that --timeout ended.
var errTimeUp = errors.New("the time is up; the job goes on")

// errInterrupted is the cause of a wait that a signal ended.
var errInterrupted = errors.New("interrupted; the job goes on")

const controlLong = `

All units are asked for at once, over D-Bus, so polkit decides who may. gpuherd
waits until systemd's jobs have ended, prints a line for each unit, and fails if
any unit did. Interrupting the wait leaves the jobs to systemd. Where a job
lasts, stderr has what the unit says of itself meanwhile (STATUS=), such as what
a worker waits for, and what mends that.

--json prints an array, one object a unit: unit, verb, result (done, failed,
timeout, canceled, dependency, skipped, queued, refused, waiting), ok, error,
ms, active, sub, unit_result, exit_status, pid, status_text (what the unit said
of itself last, where it is not ok).`

// control builds start, stop or restart.
func (a *app) control(verb jobs.Verb, short, long string) *cobra.Command {
	var noWait, asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:               string(verb) + " SELECTION...",
		Short:             short,
		Long:              long + controlLong,
		Example:           fmt.Sprintf("  gpuherd %[1]s 0\n  gpuherd %[1]s redis-worker@1 comfyui\n  gpuherd %[1]s all --timeout 1m", verb),
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		Args:              needSelection(verb),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usagef("--timeout %s is negative; 0 waits as long as it takes", timeout)
			}
			selected := a.units
			if verb == jobs.Stop {
				selected = a.unitsToStop
			}
			units, err := selected(cmd.Context(), args)
			if err != nil {
				return err
			}
			return a.runJobs(cmd.Context(), verb, units, !noWait, timeout, asJSON)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noWait, "no-wait", false, "ask and do not wait for the jobs to end")
	f.DurationVar(&timeout, "timeout", 0, "how long to wait, such as 30s; 0: as long as systemd's own time-outs allow")
	f.BoolVar(&asJSON, "json", false, "print a JSON array of the results")
	return cmd
}

// needSelection asks for what a verb is to be done to.
func needSelection(verb jobs.Verb) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%[1]s what?; name workers, or say `gpuherd %[1]s all`", verb)
		}
		return nil
	}
}

func (a *app) runJobs(ctx context.Context, verb jobs.Verb, units []string, wait bool, timeout time.Duration, asJSON bool) error {
	outcomes, err := a.await(ctx, verb, units, wait, timeout, asJSON)
	if err != nil {
		return err
	}
	if asJSON {
		if err := a.printJSON(outcomes); err != nil {
			return err
		}
	}
	return a.judge(verb, outcomes)
}

// await asks for the jobs and waits for them unless wait is false.
func (a *app) await(ctx context.Context, verb jobs.Verb, units []string, wait bool, timeout time.Duration, asJSON bool) ([]jobs.Outcome, error) {
	conn, err := a.jobs(ctx)
	if err != nil {
		return nil, err
	}
	if wait {
		if err := a.listen(ctx); err != nil {
			return nil, err
		}
	}
	waitCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(errInterrupted) })()
	if timeout > 0 {
		defer time.AfterFunc(timeout, func() { cancel(errTimeUp) }).Stop()
	}

	progress := a.newProgress(verb, units, asJSON)
	defer progress.close()
	return jobs.Run(waitCtx, conn, verb, units, wait, progress.listener()), nil
}

// judge says on stderr what to do about the units that failed.
func (a *app) judge(verb jobs.Verb, outcomes []jobs.Outcome) error {
	var failed, said []string
	denied := false
	for i := range outcomes {
		o := &outcomes[i]
		if o.OK {
			continue
		}
		if jobs.Unauthorized(o.Err()) {
			denied = true
			continue
		}
		failed = append(failed, selection.Short(o.Unit))
		said = append(said, o.StatusText)
	}
	if denied {
		a.complain("systemd does not let you %s units%s; run it as root (sudo gpuherd %s …), or allow org.freedesktop.systemd1.manage-units for your user by a polkit rule", verb, a.there(), verb)
	}
	if len(failed) > 0 {
		a.complain("%d of %d units did not %s%s; see: gpuherd%s logs %s", len(failed), len(outcomes), verb, mends(said...), a.hostFlag(), strings.Join(failed, " "))
	}
	if denied || len(failed) > 0 {
		return errFailed
	}
	return nil
}
