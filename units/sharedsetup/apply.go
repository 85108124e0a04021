package sharedsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"gpuherd/generator"
	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
)

const generatorDir = "/" + plan.GeneratorDir

// A Manager is systemd. Start, Stop and Restart queue a job and do not wait
// for it: a worker waits for shared-setup.service, which waits for us.
type Manager interface {
	// Reload is systemctl daemon-reload; it returns once that is done.
	Reload(context.Context) error
	// On reports whether a unit is up, or is going to be.
	On(ctx context.Context, unit string) (bool, error)
	// Start gives way to a job that stops the unit.
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	// Restart does nothing where the unit does not run.
	Restart(ctx context.Context, unit string) error
	Close()
}

// apply is the second stage. The generator planned by what it could see, at
// boot before there was a driver; now that the inventory is written the plan
// is made again, and where it is another, systemd reads it and starts and stops
// the difference. No other worker is touched.
func (s *Setup) apply(ctx context.Context) error {
	if s.Systemd == nil {
		return nil
	}
	r := generator.Compute(generator.Options{Root: s.Root, Environ: s.Environ})
	now, err := r.Files()
	if err != nil {
		return fmt.Errorf("cannot make the plan again: %w", err)
	}
	before, err := s.generated(now)
	if err != nil {
		return fmt.Errorf("cannot read what was generated: %w", err)
	}
	d := compare(before, now)
	d.start = slices.DeleteFunc(d.start, func(unit string) bool {
		return slices.ContainsFunc(r.Plan.Workers, func(w plan.Worker) bool { return w.Unit == unit && w.Stopped })
	})
	if !d.reload {
		return nil
	}
	m, err := s.Systemd(ctx)
	if err != nil {
		return fmt.Errorf("the GPUs are not those that were planned for, and systemd cannot be told: %w", err)
	}
	defer m.Close()
	s.status("the GPUs are not those that were planned for: reloading systemd")
	s.Log.Info("the GPUs are not those that were planned for: reloading systemd")
	if err := m.Reload(ctx); err != nil {
		return fmt.Errorf("cannot reload systemd: %w", err)
	}
	on, err := m.On(ctx, plan.Target)
	if err != nil {
		return fmt.Errorf("cannot ask for %s: %w", plan.Target, err)
	}
	var errs []error
	do := func(verb string, units []string, job func(context.Context, string) error) {
		for _, unit := range units {
			s.Log.Info(verb+" "+unit, "reason", reason(r, unit))
			if err := job(ctx, unit); err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", verb, unit, err))
			}
		}
	}
	do("stopping", d.stop, m.Stop)
	if on {
		do("restarting", d.rebind, m.Restart)
		do("starting", d.start, m.Start)
	}
	return errors.Join(errs...)
}

// reason is what the plan says of a unit.
func reason(r *generator.Result, unit string) string {
	for _, d := range r.Decisions {
		if d.Kind == plan.KindUnit && d.Subject == unit {
			return d.Reason
		}
	}
	return "its device is gone"
}

// generated reads what the generator wrote last: the files that there would be
// now, and all links.
func (s *Setup) generated(now map[string]string) (map[string]string, error) {
	files := map[string]string{}
	for path := range now {
		if strings.HasPrefix(path, wantsDir+"/") {
			continue
		}
		data, err := rootfs.ReadFile(s.Root, generatorDir+"/"+path, rootfs.MaxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", generatorDir, path, err)
		}
		files[path] = string(data)
	}
	entries, err := os.ReadDir(s.path(generatorDir + "/" + wantsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		files[wantsDir+"/"+e.Name()] = ""
	}
	return files, nil
}
