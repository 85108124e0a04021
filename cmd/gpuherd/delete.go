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
	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
)

func (a *app) delete() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:   "delete SERVICE",
		Short: "Stop a service and take its file away, kept under another name",
		Long: `Stop a service and take it out of the plan for good. The operator's own file in
/etc/gpuherd/services, and its drop-ins, are kept beside it under a name that
ends in .deleted, and enable puts them back. Of a service that gpuherd or a
package ships, the file stays, and it is switched off as disable does.`,
		Example:           "  gpuherd delete comfyui",
		ValidArgsFunction: a.completeServices,
		Args:              oneService("delete"),
	}, func(ctx context.Context, a changer, args []string) (*planChange, error) {
		return a.deleteService(ctx, args[0])
	})
}

func (a changer) deleteService(ctx context.Context, name string) (*planChange, error) {
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
	file := operatorFiles(s.Name)[0]
	if s.Path != file || s.Name == plan.Setup {
		return a.turn(ctx, s.Name, false, "gpuherd enable")
	}
	for _, path := range operatorFiles(s.Name) {
		if _, err := os.Lstat(rootfs.Path(a.rootDir, path+deleted)); err == nil {
			return nil, fmt.Errorf("%s is there from an earlier delete; remove or rename it first", path+deleted)
		}
	}
	f, err := dropin.Open(a.rootDir, s.Name)
	if err != nil {
		return nil, err
	}
	// The plan without it is the one without any worker of it, whatever the
	// files say once it is gone.
	r.Plan.Workers = nil
	c := &planChange{Service: s.Name, Done: fmt.Sprintf("%s is deleted: %s is now %s", s.Name, file, s.Name+".service"+deleted), Undo: "gpuherd enable " + s.Name}
	c.Units, err = a.carryOut(ctx, s.Name, r, func() error {
		for _, path := range operatorFiles(s.Name) {
			if err := a.rename(path, path+deleted); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		f.Set("Enabled")
		f.Set("Instances")
		f.Set("Stopped")
		if err := f.Write(); err != nil {
			return rootOnly(err)
		}
		return a.afterDelete(c, s.Name)
	})
	if err != nil {
		return c, err
	}
	return c, a.judgeChange(c.Units)
}

// afterDelete looks at what is left of the name: a shipped service that the
// operator's file stood before must not come back instead, and a section of the
// operator's configuration has no service any more.
func (a changer) afterDelete(c *planChange, name string) error {
	r, err := a.compute(a.rootDir)
	if err != nil {
		return err
	}
	if on, _ := decision(r, name); on {
		f, _, err := a.switched(name, false)
		if err != nil {
			return err
		}
		c.Done += fmt.Sprintf(", and the %s that is shipped is off", name)
		c.File = f.Path()
	}
	for _, p := range r.Problems {
		if strings.Contains(p.Msg, "[Service "+name+"]") {
			a.complain("%s", p)
		}
	}
	return nil
}
