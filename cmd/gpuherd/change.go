package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/dropin"
	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator"
	"gpuherd/generator/plan"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
	"gpuherd/monitor/bus"
)

const changeLong = `

What was set is in a small file in /etc/gpuherd/gpuherd.conf.d, with a comment
that says how to undo it. systemd reads its files again (daemon-reload); workers
that are in the plan no more are stopped, as stop does, before that, and those
that are new to it are started, where gpuherd.target is up. No other worker is
touched. Where PID 1's environment or another file of the configuration has the
last word, nothing is changed, and it is named.

--json prints an object: service, done (what was done), file, undo (the command
for it), and units, an array as start --json prints it.`

// A planChange is what a verb did to the plan, and its JSON.
type planChange struct {
	Service string         `json:"service"`
	Done    string         `json:"done"`
	File    string         `json:"file,omitempty"` // what was written; empty: nothing
	Undo    string         `json:"undo,omitempty"` // the command that undoes it
	Units   []jobs.Outcome `json:"units"`
}

// A changer is the app in a verb that changes the plan.
type changer struct {
	*app
	asJSON bool // stdout is the document's
}

// changing builds the part that the verbs which change the plan share.
func (a *app) changing(cmd *cobra.Command, carry func(ctx context.Context, a changer, args []string) (*planChange, error)) *cobra.Command {
	var asJSON bool
	cmd.Long += changeLong
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := carry(cmd.Context(), changer{a, asJSON}, args)
		if c == nil {
			return err
		}
		if asJSON {
			if err := a.printJSON(c); err != nil {
				return err
			}
		} else {
			a.stdout.say("%s\n", c)
		}
		return err
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object of what was done")
	return cmd
}

// String is what was done in one line.
func (c *planChange) String() string {
	text := c.Done
	if c.File != "" {
		text += ", in " + c.File
	}
	if c.Undo != "" {
		text += "; to undo it: " + c.Undo
	}
	return text
}

// oneService asks for the service that a verb is for.
func oneService(verb string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%[1]s wants one service, such as gpuherd %[1]s redis-worker", verb)
		}
		return nil
	}
}

// completeServices offers the services of this machine to shell completion.
func (a *app) completeServices(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	services, _ := service.Load(a.rootDir) // what is wrong with them is verify's to tell
	var names []string
	for _, s := range services {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// find returns the service of that name.
func find(r *generator.Result, name string) (*service.Service, error) {
	var names []string
	for _, s := range r.Services {
		if s.Name == strings.TrimSuffix(name, ".service") {
			return s, nil
		}
		names = append(names, s.Name)
	}
	what := fmt.Sprintf("there is no service %q", name)
	if near := unitfile.Nearest(name, names); near != "" {
		what += fmt.Sprintf(", did you mean %q?", near)
	}
	return nil, usagef("%s; there is %s", what, strings.Join(names, ", "))
}

// decision is what the plan says of a service: whether it is on, and why.
func decision(r *generator.Result, name string) (on bool, why string) {
	for _, d := range r.Decisions {
		if d.Kind == plan.KindService && d.Subject == name {
			on, why = d.Verdict == plan.On, d.Reason
		}
	}
	return on, why
}

// try writes the file of a service and returns the plan that comes of it, with
// what puts the file back.
func (a *app) try(f *dropin.File) (*generator.Result, error) {
	if err := f.Write(); err != nil {
		return nil, rootOnly(err)
	}
	return a.compute(a.rootDir)
}

// giveUp puts the file back, since it had no effect.
func giveUp(f *dropin.File, format string, args ...any) error {
	return errors.Join(fmt.Errorf(format, args...), f.Restore())
}

// rootOnly says what to do where a file may not be written.
func rootOnly(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; run it as root", err)
	}
	return err
}

// reachable reports whether there is a systemd to tell of a change. Where none
// runs, as in an image that is being built, the change waits for its boot.
func (a *app) reachable(ctx context.Context) (bool, error) {
	_, err := a.systemd(ctx)
	if err == nil {
		return true, nil
	}
	if _, statErr := os.Stat("/run/systemd/system"); statErr != nil && os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") == "" {
		return false, nil
	}
	return false, err
}

// carryOut has systemd go from the workers that it has of a service to those of
// the plan. In between, before systemd reads its files again, commit makes what
// is left to make.
//
// Workers that go are stopped first: once their unit file is gone, systemd has
// forgotten how long they may take to end, and how.
func (a changer) carryOut(ctx context.Context, name string, r *generator.Result, commit func() error) ([]jobs.Outcome, error) {
	if commit == nil {
		commit = func() error { return nil }
	}
	outcomes := []jobs.Outcome{}
	there, err := a.reachable(ctx)
	if err != nil {
		return outcomes, err
	}
	if !there {
		a.complain("systemd is not PID 1 here: it takes effect when it boots")
		return outcomes, commit()
	}
	_, herd, err := a.selected(ctx, nil, true)
	if err != nil {
		return outcomes, err
	}
	var planned, start, stop []string
	for _, w := range r.Plan.Workers {
		if w.Service != name {
			continue
		}
		planned = append(planned, w.Unit)
		if !w.Stopped && !slices.Contains(herd, w.Unit) {
			start = append(start, w.Unit)
		}
	}
	for _, unit := range herd {
		if of, _, _ := service.ParseUnit(unit); of == name && !slices.Contains(planned, unit) {
			stop = append(stop, unit)
		}
	}
	if outcomes, err = a.jobsOf(ctx, jobs.Stop, stop, outcomes); err != nil {
		return outcomes, err
	}
	if err := commit(); err != nil {
		return outcomes, err
	}
	if err := a.daemonReload(ctx); err != nil {
		return outcomes, err
	}
	up, err := a.targetUp(ctx)
	if err != nil {
		return outcomes, err
	}
	if !up && len(start) > 0 {
		a.complain("%s is not up: what is new starts with it", bus.Target)
		start = nil
	}
	return a.jobsOf(ctx, jobs.Start, start, outcomes)
}

// jobsOf runs jobs and adds their outcomes to those before.
func (a changer) jobsOf(ctx context.Context, verb jobs.Verb, units []string, before []jobs.Outcome) ([]jobs.Outcome, error) {
	if len(units) == 0 {
		return before, nil
	}
	slices.SortFunc(units, selection.Compare)
	more, err := a.await(ctx, verb, units, true, 0, a.asJSON)
	return append(before, more...), err
}

// judgeChange is judge for the outcomes of a change.
func (a *app) judgeChange(outcomes []jobs.Outcome) error {
	var errs []error
	for _, verb := range []jobs.Verb{jobs.Stop, jobs.Start} {
		of := slices.DeleteFunc(slices.Clone(outcomes), func(o jobs.Outcome) bool { return o.Verb != verb })
		errs = append(errs, a.judge(verb, of))
	}
	return errors.Join(errs...)
}

// targetUp reports whether the herd is switched on.
func (a *app) targetUp(ctx context.Context) (bool, error) {
	conn, err := a.systemd(ctx)
	if err != nil {
		return false, err
	}
	seen, err := conn.Observe(ctx, []string{bus.Target})
	if err != nil {
		return false, a.noSystemd(err)
	}
	return len(seen) > 0 && (seen[0].Active == "active" || seen[0].Active == "activating"), nil
}
