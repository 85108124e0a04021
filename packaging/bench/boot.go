package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gpuherd/packaging/machine"
)

// A bootShape is a machine whose boot is measured with gpuherd and without.
type bootShape struct {
	name  string
	conf  string  // gpuherd.conf
	goal  float64 // ms added until the default target is reached, at most; 0: none
	share float64 // the same as a part of the boot, at most; 0: none
}

var bootShapes = []bootShape{
	{name: "boot, no GPUs", goal: 50},
	{name: "boot, 8 GPUs", conf: "[GPU]\nCount=8\nSimulate=yes\n", share: 0.01},
}

// bootPairs is how often each machine boots, in turn with one without gpuherd.
const bootPairs = 20

// A booted is what systemd tells of one boot.
type booted struct {
	generators time.Duration // that all generators took, beside each other
	loading    time.Duration // that the units took to load
	target     time.Duration // from systemd's start until the default target was reached: what a login waits for
	jobs       time.Duration // from there until no job was left: "startup finished", for which nobody waits
}

// benchBoot measures what gpuherd adds to a machine's boot.
func benchBoot(ctx context.Context, r *result, tree string, s bootShape) (err error) {
	enabled, err := os.MkdirTemp("", "gpuherd-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(enabled)) }()
	if err := layEnabled(enabled, s.conf); err != nil {
		return err
	}
	var with, without []booted
	for i := range bootPairs + 1 {
		b, err := bootOnce(ctx)
		if err != nil {
			return fmt.Errorf("%s: without gpuherd: %w", s.name, err)
		}
		a, err := bootOnce(ctx, tree, enabled)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if i > 0 { // the first boots only warm the page cache
			with, without = append(with, a), append(without, b)
		}
	}
	add := func(what string, goal float64, part func(booted) time.Duration) (added, whole float64) {
		a, b := each(with, part), each(without, part)
		added, whole = ms(medianDifference(a, b)), ms(percentile(b, 50))
		note := fmt.Sprintf("median of %d pairs; without gpuherd %.0f ms", bootPairs, whole)
		r.add(figure{Name: s.name + ": added " + what, Value: added, Unit: "ms", Goal: goal, Note: note})
		return added, whole
	}
	added, whole := add("until the default target", s.goal, func(b booted) time.Duration { return b.target })
	if s.share > 0 {
		r.add(figure{Name: s.name + ": added, as a part of the boot", Value: added / whole, Goal: s.share,
			Note: fmt.Sprintf("of a container's, which has no hardware; met by a boot of %.1f s", added/1000/s.share)})
	}
	add("by generators and loading", 0, func(b booted) time.Duration { return b.generators + b.loading })
	add("until no job is left", 0, func(b booted) time.Duration { return b.jobs })
	return nil
}

// layEnabled makes the tree of a machine on which gpuherd is enabled.
func layEnabled(tree, conf string) error {
	wants := filepath.Join(tree, "etc/systemd/system/multi-user.target.wants")
	return errors.Join(
		os.Chmod(tree, 0o755),
		write(filepath.Join(tree, "etc/gpuherd/gpuherd.conf"), conf),
		os.MkdirAll(wants, 0o755),
		os.Symlink("/usr/lib/systemd/system/gpuherd.target", filepath.Join(wants, "gpuherd.target")),
	)
}

// bootOnce boots a container with the trees laid over it, and asks its systemd.
func bootOnce(ctx context.Context, trees ...string) (b booted, err error) {
	var log bytes.Buffer
	m, err := machine.Boot(ctx, machine.Config{Backend: machine.Nspawn, Suite: machine.Trixie, Trees: trees, Log: &log})
	if err != nil {
		return booted{}, fmt.Errorf("%w\n%s", err, log.String())
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if m.State != "running" {
		m.Report(os.Stderr)
		return booted{}, fmt.Errorf("the machine is %s, not running", m.State)
	}
	// Of the target's properties one alone: others have the names of the manager's.
	told, err := ask(ctx, m, "systemctl show; systemctl show --property=ActiveEnterTimestampMonotonic default.target")
	if err != nil {
		return booted{}, err
	}
	chain, err := ask(ctx, m, "systemd-analyze critical-chain default.target")
	if err != nil {
		return booted{}, err
	}
	if found := inChain(chain); len(found) > 0 {
		return booted{}, fmt.Errorf("the default target waits for %s:\n%s", strings.Join(found, ", "), chain)
	}
	return readBoot(told)
}

// ask returns what a shell's commands print in the machine.
func ask(ctx context.Context, m *machine.Machine, script string) (string, error) {
	var out, errs bytes.Buffer
	status, err := m.Run(ctx, []string{"/bin/sh", "-euc", script}, &out, &errs)
	if err != nil {
		return "", err
	}
	if status != 0 {
		return "", fmt.Errorf("%s ended with %d: %s", script, status, errs.String())
	}
	return out.String(), nil
}

// readBoot reads the properties of the manager and of the default target, as
// systemctl shows them (org.freedesktop.systemd1(5)).
func readBoot(told string) (booted, error) {
	values := map[string]string{}
	for line := range strings.Lines(told) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	stamps := map[string]time.Duration{}
	for _, name := range []string{"Userspace", "GeneratorsStart", "GeneratorsFinish", "UnitsLoadStart", "UnitsLoadFinish", "ActiveEnter", "Finish"} {
		property := name + "TimestampMonotonic"
		us, err := strconv.ParseInt(values[property], 10, 64)
		if err != nil || us == 0 {
			return booted{}, fmt.Errorf("systemd has no %s, but %q", property, values[property])
		}
		stamps[name] = time.Duration(us) * time.Microsecond
	}
	return booted{
		generators: stamps["GeneratorsFinish"] - stamps["GeneratorsStart"],
		loading:    stamps["UnitsLoadFinish"] - stamps["UnitsLoadStart"],
		target:     stamps["ActiveEnter"] - stamps["Userspace"],
		jobs:       stamps["Finish"] - stamps["Userspace"],
	}, nil
}

// inChain returns the units of ours among those that `systemd-analyze
// critical-chain` shows.
func inChain(chain string) []string {
	var found []string
	for line := range strings.Lines(chain) {
		name, _, _ := strings.Cut(strings.TrimLeft(line, " └─"), " ")
		ours := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if slices.ContainsFunc([]string{"gpuherd", "shared-setup.", "redis-worker@"}, ours) {
			found = append(found, name)
		}
	}
	return found
}

func each(boots []booted, part func(booted) time.Duration) []time.Duration {
	parts := make([]time.Duration, len(boots))
	for i, b := range boots {
		parts[i] = part(b)
	}
	return parts
}
