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
// A second run in the same boot changes nothing that is right already.
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

	NVMLTimeout time.Duration // 0: 60 s
	HookTimeout time.Duration // for each executable; 0: 5 min

	killDelay time.Duration // between SIGTERM and SIGKILL; 0: 5 s
}

// Run does everything once. The error holds each thing that could not be
// written; everything else was done all the same.
func (s *Setup) Run(ctx context.Context) error {
	if s.NVMLTimeout == 0 {
		s.NVMLTimeout = nvmlTimeout
	}
	if s.HookTimeout == 0 {
		s.HookTimeout = hookTimeout
	}
	if s.killDelay == 0 {
		s.killDelay = killDelay
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		s.status("failed: %v", err)
		return err
	}
	defer unlock()
	r := generator.Compute(generator.Options{Root: s.Root, Environ: s.Environ, IgnoreInventory: true})
	for _, p := range r.Problems {
		level := slog.LevelError
		if p.Warning {
			level = slog.LevelWarn
		}
		s.Log.Log(ctx, level, p.Error())
	}

	var errs []error
	faults := 0
	fault := func(text string) {
		faults++
		s.Log.Error(text)
	}
	bootID, err := gpu.BootID(s.Root)
	if err != nil {
		errs = append(errs, err)
	}

	inv := gpu.Inventory{Version: gpu.InventoryVersion, BootID: bootID, Source: gpu.SourcePCI}
	inv.GPUs = append(inv.GPUs, r.Found...)
	if len(inv.GPUs) > 0 && s.NVML != nil {
		s.status("asking NVML for %s", count(len(inv.GPUs), "GPU"))
		answer, err := s.ask(ctx)
		switch {
		case errors.Is(err, nvml.ErrAbsent):
			fault(fmt.Sprintf("%s on the PCI bus, but no NVIDIA driver: %v", count(len(inv.GPUs), "GPU"), err))
		case err != nil:
			fault(err.Error())
		default:
			inv.Source, inv.DriverVersion = gpu.SourceNVML, answer.DriverVersion
			for _, text := range refine(inv.GPUs, answer, gpu.ReadMIGMinors(s.Root)) {
				fault(text)
			}
		}
	}
	// The inventory has every GPU, used or not, so that a higher Count= needs
	// no new setup. Simulated ones come last, made afresh: their minors keep
	// clear of those NVML told.
	used := len(r.GPUs)
	if used > len(inv.GPUs) {
		if len(inv.GPUs) == 0 {
			inv.Source = gpu.SourceSimulation
		}
		inv.GPUs = gpu.Fill(inv.GPUs, used)
	}

	errs = append(errs,
		s.writeInventory(&inv),
		s.writeDevices(inv.GPUs),
		s.writeEnvironment(r.Config),
		s.writeCredential(r.Config),
		s.makeShared(),
	)
	ran, failed := s.runHooks(ctx, bootID, r.Config, used)
	if err := errors.Join(errs...); err != nil {
		s.status("failed: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return err
	}
	s.status("%s", summary(&inv, used, faults, r.Problems.Failed(), ran, failed))
	if ctx.Err() != nil {
		return errors.New("stopped before it was done")
	}
	return nil
}

func (s *Setup) status(format string, args ...any) {
	if s.Status != nil {
		s.Status(fmt.Sprintf(format, args...))
	}
}

// ask bounds the time NVML has: a call into it cannot be interrupted, and with
// a broken GPU it may never return.
func (s *Setup) ask(ctx context.Context) (*nvml.Answer, error) {
	type result struct {
		answer *nvml.Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		a, err := s.NVML()
		done <- result{a, err}
	}()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-time.After(s.NVMLTimeout):
		return nil, fmt.Errorf("NVML did not answer within %v", s.NVMLTimeout)
	case <-ctx.Done():
		return nil, errors.New("stopped while waiting for NVML")
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
