package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/dropin"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/service"
)

func (a *app) scale() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:   "scale SERVICE N",
		Short: "Have N workers of a service on each device",
		Long: `Set how many workers a service has on each GPU, or on each MIG device, from now
on and after the next boot: redis-worker@0, redis-worker@0.2, and so on.`,
		Example:           "  gpuherd scale redis-worker 2\n  gpuherd scale comfyui 1 --json",
		ValidArgsFunction: a.completeServices,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("scale wants a service and a number, such as gpuherd scale redis-worker 2")
			}
			_, err := instances(args[1])
			return err
		},
	}, func(ctx context.Context, a changer, args []string) (*planChange, error) {
		n, err := instances(args[1])
		if err != nil {
			return nil, err
		}
		return a.scaleTo(ctx, args[0], n)
	})
}

// instances reads N of scale.
func instances(word string) (int, error) {
	n, err := strconv.ParseUint(word, 10, 31)
	switch {
	case err == nil && n == 0:
		return 0, usagef("a service has one worker a device at least; gpuherd disable switches it off")
	case err != nil || n > config.MaxInstances:
		return 0, usagef("%q is no number of workers from 1 to %d", word, config.MaxInstances)
	}
	return int(n), nil
}

// scalable returns the plan of now and the service of that name in it, which
// has to be one that can be scaled.
func (a *app) scalable(name string) (*generator.Result, *service.Service, error) {
	r, err := a.compute(a.rootDir)
	if err != nil {
		return nil, nil, err
	}
	s, err := find(r, name)
	if err != nil {
		return nil, nil, err
	}
	if s.Per == service.PerHost {
		return nil, nil, usagef("%s runs once a host (Per=host in %s), and cannot be scaled", s.Name, s.Path)
	}
	return r, s, nil
}

// instancesOf returns how many workers a device the service has, and who says
// so.
func instancesOf(r *generator.Result, s *service.Service) (n int, origin string) {
	if o := r.Config.Services[s.Name]; o.Instances != nil {
		return *o.Instances, o.InstancesOrigin
	}
	return s.Instances, s.Path
}

func (a changer) scaleTo(ctx context.Context, name string, n int) (*planChange, error) {
	r, s, err := a.scalable(name)
	if err != nil {
		return nil, err
	}
	if _, err := a.reachable(ctx); err != nil {
		return nil, err
	}
	before, _ := instancesOf(r, s)
	f, err := dropin.Open(a.rootDir, s.Name)
	if err != nil {
		return nil, err
	}
	if before != n {
		// What the files say by themselves needs no line of ours.
		f.Set("Instances")
		if r, err = a.try(f); err != nil {
			return nil, err
		}
		if without, _ := instancesOf(r, s); without != n {
			f.Set("Instances", strconv.Itoa(n))
			if r, err = a.try(f); err != nil {
				return nil, err
			}
		}
		if now, origin := instancesOf(r, s); now != n {
			return nil, giveUp(f, "nothing is changed: Instances=%d at %s has the last word; change it there", now, origin)
		}
	}
	c := &planChange{Service: s.Name, Done: fmt.Sprintf("%s has %s a device", s.Name, count(n, "worker"))}
	if before != n {
		c.Done += fmt.Sprintf(" (%d before)", before)
		c.File, c.Undo = f.Path(), fmt.Sprintf("gpuherd scale %s %d", s.Name, before)
	}
	if on, why := decision(r, s.Name); !on {
		a.complain("%s is off (%s), so nothing of it runs; gpuherd enable %s", s.Name, why, s.Name)
	}
	c.Units, err = a.carryOut(ctx, s.Name, r, nil)
	if err != nil {
		return c, err
	}
	return c, a.judgeChange(c.Units)
}
