package main

import (
	"context"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/state"
)

func (a *app) list() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:     "list [SELECTION...]",
		Aliases: []string{"ls", "status"},
		Short:   "Show the workers: state, restarts, memory, GPU, current job",
		Long: `Show one row a worker. The state comes from systemd over D-Bus and the figures
from the kernel's control groups, so that neither Redis nor the monitor is
needed. Without a selection: every worker; with --all gpuherd's own units too.
What the GPUs do is the monitor's to tell, on a loopback address or by way of
Redis; where neither answers, list says so and shows the rest. Below the table
it names what runs and is not configured any more, but for that of --host.

UPTIME is how long the unit has been active. RESTARTS counts systemd's automatic
ones, from zero after a start by hand; the monitor's figure, in Redis, its
metrics and pages, and RESTARTS/BOOT of gpuherd fleet, counts every start after
the first of this boot and never goes back.
MEMORY is of the whole control group, beside the limit that the kernel
enforces. CPU is the CPU time since the start over UPTIME, as ps(1) counts it:
100% is one core. GPU% and TEMP are how busy and how hot the whole GPU is, in
percent and degrees Celsius, HEALTH is the monitor's verdict. STATUS is what the
worker says of itself, or why it ended. MODEL is the GPU's name and memory.

--json prints an array, one object a unit: unit, service, instance, gpu,
active, sub, result, pid, restarts, invocation_id, since_ms, exit_code,
exit_status, status_text, memory_bytes, memory_peak_bytes, memory_max_bytes,
cpu_ns, seq, as in Redis and the HTTP API (seq is 0 here), and uptime_ms,
cpu_percent, gpu_name, gpu_uuid, gpu_memory_bytes, gpu_utilisation,
gpu_temperature, gpu_health, gpu_reasons. What is not known is left out.`,
		Example:           "  gpuherd list\n  gpuherd list 0-3\n  gpuherd list --all --json",
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.printList(cmd.Context(), args, all, asJSON)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show gpuherd's own units too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) printList(ctx context.Context, words []string, all, asJSON bool) error {
	debug.SetGCPercent(1000) // collecting the garbage of some hundred answers would be a tenth of it all
	figures := a.askFigures(ctx)
	ask := a.glance
	if asJSON {
		ask = a.herd
	}
	workers, err := ask(ctx, words, all)
	if err != nil {
		return err
	}
	a.addFigures(workers, <-figures)
	if asJSON {
		return a.printJSON(workers)
	}
	if len(workers) == 0 {
		a.complain("the herd is empty; `gpuherd explain` says why")
	} else if err := listTable(workers).Write(a.stdout, a.out); err != nil {
		return err
	}
	if len(words) == 0 {
		a.tellStrays(ctx, workers)
	}
	return nil
}

// listTable renders workers for people. Columns of GPUs are there where
// anything is known of one.
func listTable(workers []worker) *terminal.Table {
	told := slices.ContainsFunc(workers, func(w worker) bool { return w.GPUHealth != "" })
	named := slices.ContainsFunc(workers, func(w worker) bool { return w.GPUName != "" })
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "UNIT"}, {Title: "GPU"}, {Title: "STATE"}, {Title: "UPTIME", Right: true}, {Title: "RESTARTS", Right: true},
		{Title: "MEMORY/LIMIT", Right: true}, {Title: "CPU", Right: true},
	}}
	if told {
		t.Columns = append(t.Columns, terminal.Column{Title: "GPU%", Right: true}, terminal.Column{Title: "TEMP", Right: true}, terminal.Column{Title: "HEALTH"})
	}
	t.Columns = append(t.Columns, terminal.Column{Title: "STATUS"})
	if named {
		t.Columns = append(t.Columns, terminal.Column{Title: "MODEL"})
	}
	for _, w := range workers {
		restarts := terminal.Plain
		if w.Restarts > 0 {
			restarts = terminal.Busy
		}
		cells := []terminal.Cell{
			{Text: selection.Short(w.Name)},
			{Text: w.deviceName()},
			{Text: w.Active + "/" + w.Sub, Style: stateStyle(w.Active)},
			{Text: w.uptime()},
			{Text: strconv.FormatUint(w.Restarts, 10), Style: restarts},
			{Text: w.memory(), Style: w.memoryStyle()},
			{Text: w.cpu()},
		}
		if told {
			cells = append(cells,
				terminal.Cell{Text: figure(w.GPUUtilisation, "%")},
				terminal.Cell{Text: figure(w.GPUTemperature, "°")},
				terminal.Cell{Text: orElse(w.GPUHealth, terminal.None), Style: healthStyle(w.GPUHealth)},
			)
		}
		cells = append(cells, terminal.Cell{Text: w.Says()})
		if named {
			cells = append(cells, terminal.Cell{Text: w.model()})
		}
		t.Add(cells...)
	}
	return t
}

func figure(n *int, unit string) string {
	if n == nil {
		return terminal.None
	}
	return strconv.Itoa(*n) + unit
}

func healthStyle(health string) terminal.Style {
	switch health {
	case state.Healthy:
		return terminal.Good
	case state.Unhealthy:
		return terminal.Bad
	}
	return terminal.Faint
}

// model is the GPU's name and memory.
func (w *worker) model() string {
	if w.GPUName == "" || w.GPUMemoryBytes == 0 {
		return w.GPUName
	}
	return w.GPUName + ", " + terminal.Size(w.GPUMemoryBytes)
}

func stateStyle(active string) terminal.Style {
	switch active {
	case "active":
		return terminal.Good
	case "failed":
		return terminal.Bad
	case "inactive":
		return terminal.Faint
	default: // activating, deactivating, reloading, maintenance, refreshing
		return terminal.Busy
	}
}

// deviceName is the instance without its worker number: "0" or "0:1".
func (w *worker) deviceName() string {
	if w.GPU == nil {
		return terminal.None
	}
	name, _, _ := strings.Cut(w.Instance, ".")
	return name
}

func (w *worker) uptime() string {
	if w.UptimeMS == nil {
		return terminal.None
	}
	return terminal.Span(time.Duration(*w.UptimeMS) * time.Millisecond)
}

func (w *worker) memory() string {
	used, limit := terminal.None, terminal.None
	if w.MemoryBytes != nil {
		used = terminal.Size(*w.MemoryBytes)
	}
	if w.MemoryMaxBytes != nil {
		limit = terminal.Size(*w.MemoryMaxBytes)
	}
	if used == terminal.None && limit == terminal.None {
		return terminal.None
	}
	return used + "/" + limit
}

// memoryStyle warns from nine tenths of the limit on.
func (w *worker) memoryStyle() terminal.Style {
	if w.MemoryBytes != nil && w.MemoryMaxBytes != nil && *w.MemoryBytes >= *w.MemoryMaxBytes/10*9 {
		return terminal.Busy
	}
	return terminal.Plain
}

func (w *worker) cpu() string {
	if w.CPUPercent == nil {
		return terminal.None
	}
	return terminal.Percent(*w.CPUPercent)
}
