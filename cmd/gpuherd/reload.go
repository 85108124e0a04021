package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/rolling"
	"gpuherd/cmd/gpuherd/internal/selection"
)

func (a *app) reload() *cobra.Command {
	var o rolling.Options
	var keep, asJSON bool
	cmd := &cobra.Command{
		Use:   "reload SELECTION...",
		Short: "Restart workers one after the other, so that the queue never waits",
		Long: `Have systemd read its files again (daemon-reload), then restart the selected
workers that run, one after the other: each finishes its job, is stopped and
started, and has to be ready (Type=notify) and to stay up for --settle before
the next one goes down. What systemd's time-outs allow, a job may take.

--max-unavailable is how many may be down at once. Where a service has more than
one worker, one of them is always up, whatever was asked for. A worker that has
failed comes first, one that is stopped stays so.

The first worker that does not come up ends it: the others run on as they were,
and what to do to go back is said. An interrupt ends it too, while a restart
that is under way goes on.

--json prints an array, one object a unit, as start --json does; result is also
unstable (it was up and did not stay so), lonely (no other worker of its service
is up), untouched (one before it failed) or off (it was stopped).`,
		Example:           "  gpuherd reload redis-worker\n  gpuherd reload all --max-unavailable 2\n  gpuherd reload redis-worker@0 --settle 10s --json",
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		Args:              needSelection(jobs.Reload),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.MaxUnavailable < 1 {
				return usagef("--max-unavailable %d is not positive; 1 takes one worker at a time", o.MaxUnavailable)
			}
			if o.Settle < 0 {
				return usagef("--settle %s is negative", o.Settle)
			}
			return a.roll(cmd.Context(), args, o, !keep, asJSON)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.MaxUnavailable, "max-unavailable", 1, "how many workers may be down at once")
	f.DurationVar(&o.Settle, "settle", time.Second, "how long a worker has to stay up before the next one goes down")
	f.BoolVar(&keep, "no-daemon-reload", false, "restart with what systemd has read of its files")
	f.BoolVar(&asJSON, "json", false, "print a JSON array of the results")
	return cmd
}

func (a *app) roll(ctx context.Context, words []string, o rolling.Options, reread, asJSON bool) error {
	if _, err := a.units(ctx, words); err != nil { // before anything is done
		return err
	}
	if reread {
		if err := a.daemonReload(ctx); err != nil {
			return err
		}
	}
	units, err := a.units(ctx, words)
	if err != nil {
		return err
	}
	if err := a.listen(ctx); err != nil {
		return err
	}
	waitCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(errInterrupted) })()

	progress := a.newProgress(jobs.Reload, units, asJSON)
	outcomes := rolling.Run(waitCtx, liveHerd{a, jobs.Listener{Ended: progress.settling, Standing: progress.standing}}, units, o, progress.ended)
	progress.close()
	if asJSON {
		if err := a.printJSON(outcomes); err != nil {
			return err
		}
	}
	return a.judgeRoll(outcomes)
}

// daemonReload has systemd run its generators and read its files again.
func (a *app) daemonReload(ctx context.Context) error {
	conn, err := a.jobs(ctx)
	if err != nil {
		return err
	}
	switch err := conn.ReloadContext(ctx); {
	case jobs.Unauthorized(err):
		return fmt.Errorf("systemd does not let you reload its files%s: %w; run gpuherd as root, or allow org.freedesktop.systemd1.reload-daemon for your user by a polkit rule", a.there(), err)
	case err != nil:
		return fmt.Errorf("systemd cannot read its files again: %w", a.noSystemd(err))
	}
	return nil
}

// judgeRoll says on stderr where a reload that failed has left the herd, and
// the way back.
func (a *app) judgeRoll(outcomes []jobs.Outcome) error {
	var failed, done, untouched, refused, said []string
	for i := range outcomes {
		o := &outcomes[i]
		switch short := selection.Short(o.Unit); {
		case jobs.Unauthorized(o.Err()):
			refused = append(refused, short)
		case o.OK && o.Result == jobs.Done:
			done = append(done, short)
		case o.Result == jobs.Untouched:
			untouched = append(untouched, short)
		case !o.OK:
			failed = append(failed, short)
			said = append(said, o.StatusText)
		}
	}
	switch {
	case len(refused) > 0:
		return a.judge(jobs.Reload, outcomes)
	case len(failed)+len(untouched) == 0:
		return nil
	case len(failed) == 0:
		a.complain("stopped before %s; the others run as before", strings.Join(untouched, " "))
		return errFailed
	}
	text := fmt.Sprintf("stopped at %s%s; see: gpuherd%s logs %s", strings.Join(failed, " "), mends(said...), a.hostFlag(), strings.Join(failed, " "))
	if len(untouched) > 0 {
		text += fmt.Sprintf("; %d run as before: %s", len(untouched), strings.Join(untouched, " "))
	}
	a.complain("%s", text)
	a.complain("to go back, undo your change, then: gpuherd%s reload %s", a.hostFlag(), strings.Join(append(failed, done...), " "))
	return errFailed
}

// liveHerd is the herd of package rolling as systemd has it.
type liveHerd struct {
	a        *app
	listener jobs.Listener // of each restart
}

func (h liveHerd) States(ctx context.Context) (map[string]rolling.State, error) {
	conn, names, err := h.a.selected(ctx, nil, true)
	if err != nil {
		return nil, err
	}
	seen, err := conn.Observe(ctx, names)
	if err != nil {
		return nil, h.a.noSystemd(err)
	}
	states := make(map[string]rolling.State, len(seen))
	for _, o := range seen {
		states[o.Name] = rolling.State{Active: o.Active, Sub: o.Sub, Invocation: o.InvocationID}
	}
	return states, nil
}

func (h liveHerd) Restart(ctx context.Context, unit string) jobs.Outcome {
	conn, err := h.a.jobs(ctx)
	if err != nil {
		return jobs.Outcome{Unit: unit, Verb: jobs.Reload, Result: jobs.Refused, Error: err.Error()}
	}
	return jobs.Run(ctx, conn, jobs.Reload, []string{unit}, true, h.listener)[0]
}
