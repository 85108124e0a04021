package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/dropin"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/plan"
)

// A saved is which workers run, and the JSON of save.
type saved struct {
	Running []string `json:"running"`
	Stopped []string `json:"stopped"` // those that do not start with the target
	Files   []string `json:"files"`   // that were written or removed
}

func (a *app) save() *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "save",
		Short: "Keep which workers run and which are stopped over reboots",
		Long: `Remember which workers are stopped now: they do not start with gpuherd.target or
the machine from now on, while all others do. They stay in the herd, and start
when they are started by hand. One that failed is not stopped: it is tried
again.

It is Stopped= in a small file a service below /etc/gpuherd/gpuherd.conf.d, with
a comment that says how to undo it. No process is touched. Where no worker runs
at all, as after stop all, it takes --force.

--json prints an object: running, stopped, files (written or removed).`,
		Example: "  gpuherd save\n  gpuherd save --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.saveHerd(cmd.Context(), force)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(s)
			}
			a.stdout.say("%s\n", s)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "save also where no worker runs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object of what was saved")
	return cmd
}

func (s *saved) String() string {
	text := fmt.Sprintf("saved: %s with the target", count(len(s.Running), "worker")+" start")
	if len(s.Running) == 1 {
		text = "saved: 1 worker starts with the target"
	}
	if len(s.Stopped) > 0 {
		text += ", stopped stay " + selection.Describe(s.Stopped)
	}
	if len(s.Files) > 0 {
		text += "; in " + strings.Join(s.Files, ", ")
	}
	return text
}

func (a *app) saveHerd(ctx context.Context, force bool) (*saved, error) {
	workers, err := a.glance(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	r, err := a.compute(a.rootDir)
	if err != nil {
		return nil, err
	}
	s := &saved{Running: []string{}, Stopped: []string{}, Files: []string{}}
	for _, w := range workers {
		if w.Active == "inactive" || w.Active == "deactivating" {
			s.Stopped = append(s.Stopped, w.Name)
		} else {
			s.Running = append(s.Running, w.Name)
		}
	}
	if len(s.Running) == 0 && !force {
		return nil, usagef("no worker runs, and none would start any more; gpuherd save --force means it")
	}
	for _, name := range services(r.Plan) {
		if selection.Own(name + ".service") {
			continue
		}
		file, err := a.saveService(r, name, s.Stopped)
		if err != nil {
			return nil, err
		}
		if file != "" {
			s.Files = append(s.Files, file)
		}
	}
	if len(s.Files) == 0 {
		return s, nil
	}
	return s, a.daemonReload(ctx)
}

// services lists the services of a plan.
func services(p *plan.Plan) []string {
	var names []string
	for _, w := range p.Workers {
		names = append(names, w.Service)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// stays lists the workers of a service that do not start with the target.
func stays(p *plan.Plan, name string) (units []string) {
	for _, w := range p.Workers {
		if w.Service == name && w.Stopped {
			units = append(units, w.Unit)
		}
	}
	return units
}

// saveService writes which workers of one service are stopped, and returns the
// file where that is not what holds already.
func (a *app) saveService(r *generator.Result, name string, stopped []string) (file string, err error) {
	var want, instances []string
	for _, w := range r.Plan.Workers {
		if w.Service != name || !slices.Contains(stopped, w.Unit) {
			continue
		}
		want = append(want, w.Unit)
		if w.Instance == "" {
			w.Instance = config.StoppedAll
		}
		instances = append(instances, w.Instance)
	}
	if slices.Equal(stays(r.Plan, name), want) {
		return "", nil
	}
	f, err := dropin.Open(a.rootDir, name)
	if err != nil {
		return "", err
	}
	list := []string{""} // forgets what other files say
	if len(instances) > 0 {
		list = append(list, strings.Join(instances, " "))
	}
	for _, values := range [][]string{nil, list} {
		f.Set("Stopped", values...)
		if r, err = a.try(f); err != nil {
			return "", err
		}
		if slices.Equal(stays(r.Plan, name), want) {
			return f.Path(), nil
		}
	}
	return "", giveUp(f, "%s is not saved: Stopped= at %s has the last word; change it there", name, r.Config.Services[name].StoppedOrigin)
}
