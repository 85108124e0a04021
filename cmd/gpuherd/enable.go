package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/dropin"
	"gpuherd/generator"
	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/service"
)

func (a *app) enable() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:   "enable SERVICE",
		Short: "Put a service into the plan for good",
		Long: `Switch a service on, now and after the next boot. One that delete took away
comes back.`,
		Example:           "  gpuherd enable hello-world",
		ValidArgsFunction: a.completeServices,
		Args:              oneService("enable"),
	}, func(ctx context.Context, a changer, args []string) (*planChange, error) {
		back, err := a.undelete(strings.TrimSuffix(args[0], ".service"))
		if err != nil {
			return nil, err
		}
		c, err := a.turn(ctx, args[0], true, "gpuherd disable")
		if c != nil && back {
			c.Done, c.Undo = c.Service+" is back and on", "gpuherd delete "+c.Service
		}
		return c, err
	})
}

func (a *app) disable() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:   "disable SERVICE",
		Short: "Take a service out of the plan for good",
		Long: `Switch a service off, now and after the next boot. Its file stays: enable
brings it back.`,
		Example:           "  gpuherd disable hello-world",
		ValidArgsFunction: a.completeServices,
		Args:              oneService("disable"),
	}, func(ctx context.Context, a changer, args []string) (*planChange, error) {
		return a.turn(ctx, args[0], false, "gpuherd enable")
	})
}

// turn switches a service on or off.
func (a changer) turn(ctx context.Context, name string, on bool, undo string) (*planChange, error) {
	if _, err := a.reachable(ctx); err != nil {
		return nil, err
	}
	r, err := a.compute(a.rootDir)
	if err != nil {
		return nil, err
	}
	s, err := find(r, name)
	if err != nil {
		return nil, err
	}
	if s.Name == plan.Setup && !on {
		return nil, usagef("every other service needs %s, which cannot be switched off", s.Name)
	}
	word := map[bool]string{true: "on", false: "off"}[on]
	c := &planChange{Service: s.Name, Done: s.Name + " is " + word}
	if is, why := decision(r, s.Name); is == on {
		c.Done += fmt.Sprintf(" already (%s)", why)
	} else {
		f, changed, err := a.switched(s.Name, on)
		if err != nil {
			return nil, err
		}
		r, c.File, c.Undo = changed, f.Path(), undo+" "+s.Name
	}
	c.Units, err = a.carryOut(ctx, s.Name, r, nil)
	if err != nil {
		return c, err
	}
	return c, a.judgeChange(c.Units)
}

// switched writes what switches a service, as little as does it, and returns
// the plan that comes of it.
func (a *app) switched(name string, on bool) (*dropin.File, *generator.Result, error) {
	f, err := dropin.Open(a.rootDir, name)
	if err != nil {
		return nil, nil, err
	}
	why := ""
	for _, values := range [][]string{nil, {map[bool]string{true: "yes", false: "no"}[on]}} {
		f.Set("Enabled", values...)
		r, err := a.try(f)
		if err != nil {
			return nil, nil, err
		}
		var is bool
		if is, why = decision(r, name); is == on {
			return f, r, nil
		}
	}
	return nil, nil, giveUp(f, "nothing is changed: %s stays %s, since something else has the last word: %s", name, map[bool]string{true: "off", false: "on"}[on], why)
}

// deleted is what delete appends to the name of an operator's file.
const deleted = ".deleted"

// operatorFiles are the operator's file of a service and its folder of
// drop-ins, inside the root.
func operatorFiles(name string) []string {
	file := service.Dirs[0] + "/" + name + ".service"
	return []string{file, file + ".d"}
}

// undelete puts back what delete took away, and reports whether there was
// anything.
func (a *app) undelete(name string) (back bool, err error) {
	for _, file := range operatorFiles(name) {
		if _, err := os.Lstat(rootfs.Path(a.rootDir, file)); err == nil {
			continue // there is a new one
		}
		switch err := a.rename(file+deleted, file); {
		case err == nil:
			back = true
		case !errors.Is(err, fs.ErrNotExist):
			return back, err
		}
	}
	return back, nil
}

// rename renames inside the root.
func (a *app) rename(from, to string) error {
	err := os.Rename(rootfs.Path(a.rootDir, from), rootfs.Path(a.rootDir, to))
	var le *os.LinkError
	if errors.As(err, &le) {
		err = rootOnly(fmt.Errorf("cannot rename %s to %s: %w", from, to, le.Err))
	}
	return err
}
