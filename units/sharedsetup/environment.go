package sharedsetup

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
)

const fileHeader = "# Written by gpuherd-setup, see gpuherd-setup(8).\n"

// writeDevices writes the environment of each device and removes that of
// devices that are gone.
func (s *Setup) writeDevices(gpus []gpu.GPU) error {
	if err := s.makeDir(deviceDir, 0o755); err != nil {
		return err
	}
	want := map[string]bool{}
	write := func(instance string, env map[string]string) error {
		name := instance + ".env"
		want[name] = true
		data, skipped := envFile(env)
		for _, reason := range skipped {
			s.Log.Warn("not in " + deviceDir + "/" + name + ": " + reason)
		}
		return s.writeFile(deviceDir+"/"+name, data, 0o644)
	}
	for _, g := range gpus {
		if err := write(strconv.Itoa(g.Index), deviceEnvironment(g, g.UUID, g.Name, g.MemoryBytes)); err != nil {
			return err
		}
		for _, m := range g.MIG {
			model := strings.TrimSpace(g.Name + " MIG " + m.Profile)
			if err := write(fmt.Sprintf("%d:%d", g.Index, m.Index), deviceEnvironment(g, m.UUID, model, m.MemoryBytes)); err != nil {
				return err
			}
		}
	}
	return s.removeGone(want)
}

// ours matches the files of deviceDir, and the temporary ones an interrupted
// run left.
var ours = regexp.MustCompile(`^\.?[0-9]+(:[0-9]+)?\.env[0-9]*$`)

func (s *Setup) removeGone(want map[string]bool) error {
	entries, err := os.ReadDir(s.path(deviceDir))
	if err != nil {
		return fmt.Errorf("cannot list %s: %w", deviceDir, err)
	}
	for _, e := range entries {
		if name := e.Name(); ours.MatchString(name) && !want[name] {
			if err := os.Remove(s.path(deviceDir + "/" + name)); err != nil {
				return fmt.Errorf("cannot remove the environment of a device that is gone: %w", err)
			}
		}
	}
	return nil
}

// deviceEnvironment is what a worker on the device needs to know that is not
// in its unit. Without a UUID CUDA_VISIBLE_DEVICES is left out: a number would
// mean another GPU in a worker that sees only its own.
func deviceEnvironment(g gpu.GPU, uuid, model string, memory uint64) map[string]string {
	env := map[string]string{}
	if g.PCI != "" {
		env["GPU_PCI_BUS_ID"] = g.PCI
	}
	if uuid != "" {
		env["GPU_UUID"] = uuid
		env["CUDA_VISIBLE_DEVICES"] = uuid
		env["NVIDIA_VISIBLE_DEVICES"] = uuid
	}
	if model != "" {
		env["GPU_MODEL"] = model
	}
	if memory > 0 {
		// Rounded: an 80 GB card shows 79.6 GiB of its memory.
		env["GPU_MEMORY_GB"] = strconv.FormatUint((memory+1<<29)>>30, 10)
	}
	return env
}

// writeEnvironment writes the variables of PID 1 that services do not get by
// themselves: those of [Environment] Pass=, and those that are settings, so
// that programs read the configuration that the generator read. A variable
// that may hold a password is never among them, and WORKER_ID is a different
// one in each worker.
func (s *Setup) writeEnvironment(c *config.Config) error {
	env := map[string]string{}
	secret := secretVariables()
	for _, name := range c.Pass {
		if secret[name] {
			continue // package config has refused it, with the place
		}
		if v, ok := c.Environ[name]; ok {
			env[name] = v
		}
	}
	for _, set := range config.Settings() {
		for _, name := range set.Variables {
			if v, ok := c.Environ[name]; ok && !secret[name] && name != "WORKER_ID" {
				env[name] = v
			}
		}
	}
	data, skipped := envFile(env)
	for _, reason := range skipped {
		s.Log.Warn("not passed on to services: " + reason)
	}
	return s.writeFile(environmentFile, data, 0o600)
}

// envFile writes variables, sorted, in the syntax of EnvironmentFile=
// (systemd.exec(5), env-file.c). skipped says which cannot be written and why;
// it does not repeat values.
func envFile(env map[string]string) (data []byte, skipped []string) {
	var b strings.Builder
	b.WriteString(fileHeader)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value, err := quoteEnv(name, env[name])
		if err != nil {
			skipped = append(skipped, err.Error())
			continue
		}
		b.WriteString(name + "=" + value + "\n")
	}
	return []byte(b.String()), skipped
}
