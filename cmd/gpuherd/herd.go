package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/generator/gpu"
	"gpuherd/generator/plan"
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

	// Of the GPU, or of the MIG device where it is of one, from the inventory.
	GPUMemoryBytes uint64 `json:"gpu_memory_bytes,omitempty"`

	// Of the whole GPU, from the monitor; absent where that cannot be reached.
	GPUUtilisation *int     `json:"gpu_utilisation,omitempty"` // percent
	GPUTemperature *int     `json:"gpu_temperature,omitempty"` // °C
	GPUHealth      string   `json:"gpu_health,omitempty"`      // healthy, unhealthy, unknown
	GPUReasons     []string `json:"gpu_reasons,omitempty"`     // why it is not healthy
}

// herd asks systemd for the units of the herd that words select, every worker
// where there are none and all is false. Resource figures come from cgroup
// files, so that neither Redis nor the monitor is needed.
func (a *app) herd(ctx context.Context, words []string, all bool) ([]worker, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	_, names, err := a.selected(ctx, words, all)
	if err != nil {
		return nil, err
	}
	return a.observeOthers(ctx, names, map[string]worker{}, a.inventory())
}

// glance is herd with what `gpuherd list` has a column for, in a tenth of the
// time: of a unit that is active nothing is asked that tells of its end, nor its
// processes' and its invocation's ids.
func (a *app) glance(ctx context.Context, words []string, all bool) ([]worker, error) {
	if a.remote != "" { // its sockets and its cgroup files are not here
		return a.herd(ctx, words, all)
	}
	workers, err := a.view(ctx, words, all)
	if errors.Is(err, bus.ErrCut) || errors.Is(err, errors.ErrUnsupported) {
		return a.herd(ctx, words, all)
	}
	return workers, err
}

// view is glance, for which a View has to be possible here.
func (a *app) view(ctx context.Context, words []string, all bool) ([]worker, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	private := bus.Private
	if os.Geteuid() != 0 || os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") != "" {
		private = ""
	}
	view, err := bus.OpenView(ctx, private)
	if err != nil {
		return nil, a.noSystemd(err)
	}
	defer view.Close()
	herd, err := view.Herd()
	if err != nil {
		return nil, a.noSystemd(err)
	}
	names, err := choose(herd, words, all)
	if err != nil {
		return nil, err
	}
	uses := make(chan map[string]resources.Usage, 1)
	go func() { uses <- a.usual(names) }()
	inventory := a.inventory()
	seen, err := view.Glance(names)
	if err != nil {
		return nil, a.noSystemd(err)
	}
	used := <-uses
	glanced := make(map[string]worker, len(seen))
	for _, o := range seen {
		if use, ok := used[o.Name]; ok {
			glanced[o.Name] = a.newWorker(o, &use, inventory)
		}
	}
	return a.observeOthers(ctx, names, glanced, inventory)
}

// observeOthers returns the named units in that order: those that are known,
// and those that there are of the others.
func (a *app) observeOthers(ctx context.Context, names []string, known map[string]worker, inventory *gpu.Inventory) ([]worker, error) {
	var others []string
	for _, name := range names {
		if _, ok := known[name]; !ok {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		conn, err := a.systemd(ctx)
		if err != nil {
			return nil, err
		}
		seen, err := conn.Observe(ctx, others)
		if err != nil {
			return nil, a.noSystemd(err)
		}
		for _, o := range seen {
			known[o.Name] = a.observed(o, inventory)
		}
	}
	workers := make([]worker, 0, len(known))
	for _, name := range names {
		if w, ok := known[name]; ok {
			workers = append(workers, w)
		}
	}
	return workers, nil
}

// usual returns what the units use that are where a worker is unless its
// service file says otherwise.
func (a *app) usual(names []string) map[string]resources.Usage {
	used := make(map[string]resources.Usage, len(names))
	for _, name := range names {
		if use, err := resources.Glance(a.rootDir, "/"+plan.Slice+"/"+name); err == nil {
			used[name] = use
		}
	}
	return used
}

// inventory returns the GPUs of this machine, nil where they are not known:
// only names and UUIDs come from it, and explain tells why.
func (a *app) inventory() *gpu.Inventory {
	if a.remote != "" {
		return nil
	}
	inventory, err := gpu.ReadInventory(a.rootDir)
	if err != nil {
		return nil
	}
	return inventory
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
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	_, names, err := a.selected(ctx, words, false)
	return names, err
}

// selected returns the connection to systemd and the names of the units that
// words select.
func (a *app) selected(ctx context.Context, words []string, all bool) (*bus.Conn, []string, error) {
	conn, err := a.systemd(ctx)
	if err != nil {
		return nil, nil, err
	}
	herd, err := conn.Herd(ctx)
	if err != nil {
		return nil, nil, a.noSystemd(err)
	}
	names, err := choose(herd, words, all)
	if err != nil {
		return nil, nil, err
	}
	return conn, names, nil
}

// observed is newWorker with what the unit uses.
func (a *app) observed(o state.Observation, inventory *gpu.Inventory) worker {
	if a.remote == "" {
		if use, err := resources.Read(a.rootDir, o.ControlGroup); err == nil {
			return a.newWorker(o, &use, inventory)
		}
	}
	return a.newWorker(o, nil, inventory)
}

// newWorker adds to what systemd says of a unit what this machine's files say;
// use is nil where they say nothing.
func (a *app) newWorker(o state.Observation, use *resources.Usage, inventory *gpu.Inventory) worker {
	w := worker{Unit: o.Unit()}
	if use != nil {
		overlay(&w.MemoryBytes, use.MemoryBytes)
		overlay(&w.MemoryPeakBytes, use.MemoryPeakBytes)
		overlay(&w.MemoryMaxBytes, use.MemoryMaxBytes)
		overlay(&w.CPUNS, use.CPUNS)
	}
	if w.Active == "active" && w.SinceMS > 0 {
		up := max(0, a.now().UnixMilli()-w.SinceMS)
		w.UptimeMS = &up
		if w.CPUNS != nil && up > 0 && w.Sub != "exited" {
			percent := float64(*w.CPUNS) / float64(up) / 1e4
			w.CPUPercent = &percent
		}
	}
	if device := device(inventory, w.Instance); device != nil {
		w.GPUName, w.GPUUUID, w.GPUMemoryBytes = device.name, device.uuid, device.memory
	}
	return w
}

func overlay(to **uint64, from *uint64) {
	if from != nil {
		*to = from
	}
}

// completeUnits offers the live herd to shell completion.
func (a *app) completeUnits(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	conn, err := a.systemd(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	herd, err := conn.Herd(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return selection.Words(herd), cobra.ShellCompDirectiveNoFileComp
}
