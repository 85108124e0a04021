package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator/gpu"
	"gpuherd/monitor/bus"
	"gpuherd/monitor/resources"
	"gpuherd/monitor/state"
)

// A worker is one row of `gpuherd list`, and its JSON: a unit as the monitor
// writes it to Redis, without seq's meaning (it is 0), and what this machine
// adds.
type worker struct {
	state.Unit
	UptimeMS   *int64   `json:"uptime_ms,omitempty"`   // how long it has been active; nil: it is not
	CPUPercent *float64 `json:"cpu_percent,omitempty"` // CPU time over uptime, 100 is one core; nil: not available
	GPUName    string   `json:"gpu_name,omitempty"`    // from the inventory; empty: not known
	GPUUUID    string   `json:"gpu_uuid,omitempty"`    // of the MIG device for a MIG instance
}

// herd asks systemd for the units of the herd that words select, every worker
// where there are none and all is false. Resource figures come from cgroup
// files, so that neither Redis nor the monitor is needed.
func (a *app) herd(ctx context.Context, words []string, all bool) ([]worker, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, names, err := dial(ctx, words, all)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	seen, err := conn.Observe(ctx, names)
	if err != nil {
		return nil, noSystemd(err)
	}
	inventory, err := gpu.ReadInventory("/")
	if err != nil {
		inventory = nil // only names and UUIDs come from it; explain tells why
	}
	workers := make([]worker, 0, len(seen))
	for _, o := range seen {
		workers = append(workers, newWorker(o, inventory, a.now()))
	}
	return workers, nil
}

// choose applies words to the herd, and marks a selection of nothing as what
// it is: a wrong command line.
func choose(herd, words []string, all bool) ([]string, error) {
	if len(words) == 0 {
		if all {
			slices.SortFunc(herd, selection.Compare)
			return herd, nil
		}
		return selection.Workers(herd), nil
	}
	names, err := selection.Select(herd, words)
	if err != nil {
		return nil, usageError{err}
	}
	return names, nil
}

// units asks systemd for the names of the units that words select.
func (a *app) units(ctx context.Context, words []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, names, err := dial(ctx, words, false)
	if err != nil {
		return nil, err
	}
	return names, conn.Close()
}

// dial connects to systemd and returns the names of the units selected.
func dial(ctx context.Context, words []string, all bool) (*bus.Conn, []string, error) {
	conn, err := bus.Dial(ctx)
	if err != nil {
		return nil, nil, noSystemd(err)
	}
	herd, err := conn.Herd(ctx)
	if err != nil {
		_ = conn.Close()
		return nil, nil, noSystemd(err)
	}
	names, err := choose(herd, words, all)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, names, nil
}

func newWorker(o state.Observation, inventory *gpu.Inventory, now time.Time) worker {
	w := worker{Unit: o.Unit()}
	if use, err := resources.Read("/", o.ControlGroup); err == nil {
		overlay(&w.MemoryBytes, use.MemoryBytes)
		overlay(&w.MemoryPeakBytes, use.MemoryPeakBytes)
		overlay(&w.MemoryMaxBytes, use.MemoryMaxBytes)
		overlay(&w.CPUNS, use.CPUNS)
	}
	if w.Active == "active" && w.SinceMS > 0 {
		up := max(0, now.UnixMilli()-w.SinceMS)
		w.UptimeMS = &up
		if w.CPUNS != nil && up > 0 && w.PID != 0 {
			percent := float64(*w.CPUNS) / float64(up) / 1e4
			w.CPUPercent = &percent
		}
	}
	if device := device(inventory, w.Instance); device != nil {
		w.GPUName, w.GPUUUID = device.name, device.uuid
	}
	return w
}

func overlay(to **uint64, from *uint64) {
	if from != nil {
		*to = from
	}
}

// dialJobs connects for jobs and properties.
func dialJobs(ctx context.Context) (*sd.Conn, error) {
	conn, err := sd.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, noSystemd(err)
	}
	return conn, nil
}

// noSystemd says what it means that systemd could not be asked.
func noSystemd(err error) error {
	_, statErr := os.Stat("/run/systemd/system") // as sd_booted(3) does
	return whyNoSystemd(err, statErr == nil || os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") != "")
}

// whyNoSystemd is noSystemd where booted says whether systemd should answer.
func whyNoSystemd(err error, booted bool) error {
	var e dbus.Error
	switch {
	case !booted:
		return errors.New("systemd is not PID 1 here, so there is no herd to ask; boot the machine or container with systemd as its init")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: systemd does not answer; see systemctl status: it may be reloading, or stuck", err)
	case errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner"):
		return fmt.Errorf("%w; is PID 1 systemd, and did dbus.service start after it?", err)
	case errors.As(err, &e):
		return err
	}
	return fmt.Errorf("%w; is dbus.service running?", err)
}

// completeUnits offers the live herd to shell completion.
func (a *app) completeUnits(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	conn, err := bus.Dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	herd, err := conn.Herd(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return selection.Words(herd), cobra.ShellCompDirectiveNoFileComp
}
