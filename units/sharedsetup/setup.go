// Package sharedsetup is what shared-setup.service does once a boot, as root,
// before the first worker starts: it asks NVML what PCI could not tell, writes
// the inventory, the environment of each device and the Redis credential to
// /run/gpuherd, makes the shared folders, and runs the operator's executables
// in /etc/gpuherd/setup.d.
//
// One rule decides what fails the unit, since workers require it: only what
// keeps workers from running right, which is a file of /run/gpuherd that
// cannot be written. A bad line in the configuration, a GPU that does not
// answer NVML, a failing executable in setup.d are errors in the journal and
// in the unit's status line, and the workers start all the same.
//
// A second run in the same boot changes nothing that is right already. With
// Rescan it follows the hardware while workers run: the GPUs are looked at
// anew, and only workers whose GPU came, went or changed are started or
// stopped.
package sharedsetup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
)

const (
	nvmlTimeout = 60 * time.Second
	nvmlPerGPU  = 4 * time.Second
	hookTimeout = 5 * time.Minute
)

// A Setup is one run.
type Setup struct {
	Root    string   // "/", or a folder with etc, run, usr, var, proc, sys below it
	Environ []string // PID 1's environment, NAME=value each
	Log     *slog.Logger
	Output  io.Writer    // takes what the executables in setup.d print
	Status  func(string) // shown by systemctl status; may be nil
	// NVML asks NVIDIA's library; nil where there is nothing to ask.
	NVML func() (*nvml.Answer, error)
	// Tool runs one of NVIDIA's programs, with its output as it is; nil where
	// the machine is not to be touched.
	Tool func(ctx context.Context, argv ...string) error
	// Systemd connects to PID 1; nil where there is none to tell.
	Systemd func(context.Context) (Manager, error)
	// Rescan looks at the GPUs alone, and tells systemd of each change as it
	// is seen.
	Rescan bool

	NVMLTimeout time.Duration // in which GPUs may come up; 0: 60 s and 4 s for each
	HookTimeout time.Duration // for each executable; 0: 5 min

	killDelay time.Duration // between SIGTERM and SIGKILL; 0: 5 s
	faults    []string      // what is amiss with the GPUs
}

// Run does everything once. The error holds each thing that could not be
// done; everything else was done all the same.
func (s *Setup) Run(ctx context.Context) error {
	if s.HookTimeout == 0 {
		s.HookTimeout = hookTimeout
	}
	if s.killDelay == 0 {
		s.killDelay = killDelay
	}
	s.faults = nil
	unlock, err := s.lock(ctx)
	if err != nil {
		s.status("failed: %v", err)
		return err
	}
	defer unlock()
	summary, err := s.locked(ctx)
	if err != nil {
		s.status("failed: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return err
	}
	s.status("%s", summary)
	if ctx.Err() != nil {
		return errors.New("stopped before it was done")
	}
	return nil
}

// locked is Run once nobody else works on the same files. It returns the line
// that systemctl status shows.
func (s *Setup) locked(ctx context.Context) (string, error) {
	bootID, err := gpu.BootID(s.Root)
	errs := []error{err, s.makeRequestDir()}
	// settle writes down what was found, and has workers started and stopped
	// for it.
	var inv gpu.Inventory
	settle := func(r *generator.Result, now survey) error {
		inv = now.complete(bootID, len(r.GPUs))
		for _, g := range inv.GPUs {
			if g.Fault != "" && g.Fault != notYet {
				s.fault(fmt.Sprintf("GPU %d at %s: %s", g.Index, g.Address(), g.Fault))
			}
		}
		if !r.Container {
			s.prepareMIG(ctx, inv.GPUs)
		}
		return errors.Join(s.writeInventory(&inv), s.writeDevices(inv.GPUs))
	}
	if s.Rescan {
		if !s.exists("/" + gpu.InventoryPath) {
			s.clearRequests()
			return "nothing to compare with: shared-setup.service has not run in this boot", errors.Join(errs...)
		}
		r, last := s.survey(ctx, func(r *generator.Result, now survey) {
			if err := errors.Join(settle(r, now), s.apply(ctx)); err != nil {
				s.Log.Error(err.Error())
			}
		})
		errs = append(errs, settle(r, last), s.apply(ctx))
		return summary(&inv, len(r.GPUs), len(s.faults), false, 0, nil), errors.Join(errs...)
	}

	r, found := s.survey(ctx, nil)
	for _, p := range r.Problems {
		level := slog.LevelError
		if p.Warning {
			level = slog.LevelWarn
		}
		s.Log.Log(ctx, level, p.Error())
	}
	errs = append(errs,
		settle(r, found),
		s.writeEnvironment(r.Config),
		s.writeCredential(r.Config),
		s.makeShared(),
	)
	ran, failed := s.runHooks(ctx, bootID, r.Config, len(r.GPUs))
	// Not a reason to fail: the workers that were planned can run.
	if err := s.apply(ctx); err != nil {
		s.fault(err.Error())
	}
	return summary(&inv, len(r.GPUs), len(s.faults), r.Problems.Failed(), ran, failed), errors.Join(errs...)
}

// complete makes an inventory of a survey. It has every GPU, used or not, so
// that a higher Count= needs no new setup. Simulated ones come last, made
// afresh: their minors keep clear of those NVML told.
func (now survey) complete(bootID string, used int) gpu.Inventory {
	inv := now.inventory
	inv.Version, inv.BootID = gpu.InventoryVersion, bootID
	if used > len(inv.GPUs) {
		if len(inv.GPUs) == 0 {
			inv.Source = gpu.SourceSimulation
		}
		inv.GPUs = gpu.Fill(inv.GPUs, used)
	}
	return inv
}

func (s *Setup) status(format string, args ...any) {
	if s.Status != nil {
		s.Status(fmt.Sprintf(format, args...))
	}
}

// summary is the line systemctl status shows once all is done.
func summary(inv *gpu.Inventory, used, faults int, badConfig bool, ran int, failed []string) string {
	parts := []string{count(used, "GPU")}
	switch inv.Source {
	case gpu.SourceNVML:
		parts[0] += ", NVIDIA driver " + inv.DriverVersion
	case gpu.SourceSimulation:
		parts[0] += ", simulated"
	}
	if ran > 0 {
		parts = append(parts, "setup.d: "+count(ran, "program")+" ran")
	}
	if len(failed) > 0 {
		parts = append(parts, "FAILED in setup.d: "+strings.Join(failed, ", "))
	}
	if faults > 0 {
		parts = append(parts, count(faults, "GPU fault"))
	}
	if badConfig {
		parts = append(parts, "the configuration has errors: gpuherd verify")
	}
	return strings.Join(parts, "; ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// secretVariables are the environment variables that may hold a password.
func secretVariables() map[string]bool {
	secret := map[string]bool{}
	for _, s := range config.Settings() {
		if s.Section == "Redis" && s.Key == "URL" {
			for _, v := range s.Variables {
				secret[v] = true
			}
		}
	}
	return secret
}
