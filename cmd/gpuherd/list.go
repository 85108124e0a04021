package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
)

func (a *app) list() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:     "list [SELECTION...]",
		Aliases: []string{"ls", "status"},
		Short:   "Show the workers: state, restarts, memory, current job",
		Long: `Show one row a worker. The state comes from systemd over D-Bus and the figures
from the kernel's control groups, so that neither Redis nor the monitor is
needed. Without a selection: every worker; with --all gpuherd's own units too.

UPTIME is how long the unit has been active. RESTARTS counts systemd's automatic
ones, from zero after a start by hand; the monitor's figure, in Redis and its
metrics, counts every start after the first of this boot and never goes back.
MEMORY is of the whole control group, beside the limit that the kernel
enforces. CPU is the CPU time since the start over UPTIME, as ps(1) counts it:
100% is one core. STATUS is what the worker says of itself, or why it ended.

--json prints an array, one object a unit: unit, service, instance, gpu,
active, sub, result, pid, restarts, invocation_id, since_ms, exit_code,
exit_status, status_text, memory_bytes, memory_peak_bytes, memory_max_bytes,
cpu_ns, seq, as in Redis and the HTTP API (seq is 0 here), and uptime_ms,
cpu_percent, gpu_name, gpu_uuid. What is not known is left out.`,
		Example:           "  gpuherd list\n  gpuherd list 0-3\n  gpuherd list --all --json",
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !asJSON {
				return a.printList(cmd.Context(), args, all)
			}
			workers, err := a.herd(cmd.Context(), args, all)
			if err != nil {
				return err
			}
			return a.printJSON(workers)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show gpuherd's own units too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// printList prints the workers for people.
func (a *app) printList(ctx context.Context, words []string, all bool) error {
	workers, err := a.herd(ctx, words, all)
	if err != nil {
		return err
	}
	if len(workers) == 0 {
		a.complain("the herd is empty; `gpuherd explain` says why")
		return nil
	}
	return listTable(workers).Write(a.stdout, a.out)
}

// listTable renders workers for people.
func listTable(workers []worker) *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "UNIT"}, {Title: "GPU"}, {Title: "STATE"}, {Title: "UPTIME", Right: true}, {Title: "RESTARTS", Right: true},
		{Title: "MEMORY/LIMIT", Right: true}, {Title: "CPU", Right: true}, {Title: "STATUS"},
	}}
	for _, w := range workers {
		restarts := terminal.Plain
		if w.Restarts > 0 {
			restarts = terminal.Busy
		}
		t.Add(
			terminal.Cell{Text: selection.Short(w.Name)},
			terminal.Cell{Text: w.deviceName()},
			terminal.Cell{Text: w.Active + "/" + w.Sub, Style: stateStyle(w.Active)},
			terminal.Cell{Text: w.uptime()},
			terminal.Cell{Text: strconv.FormatUint(w.Restarts, 10), Style: restarts},
			terminal.Cell{Text: w.memory(), Style: w.memoryStyle()},
			terminal.Cell{Text: w.cpu()},
			terminal.Cell{Text: w.status()},
		)
	}
	return t
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

// status is the worker's own word, or why it is not up. systemd keeps the word
// of one that has ended, which says nothing any more.
func (w *worker) status() string {
	switch {
	case w.Active != "active" && w.Result != "" && w.Result != "success":
		return w.ending()
	case w.Active == "inactive":
		return ""
	}
	return w.StatusText
}

// ending says how the last run ended: "oom-kill", "exit-code, status 1",
// "signal 9".
func (w *worker) ending() string {
	switch {
	case w.Result == "exit-code":
		return fmt.Sprintf("exit-code, status %d", w.ExitStatus)
	case (w.Result == "signal" || w.Result == "core-dump") && w.ExitCode != "":
		return fmt.Sprintf("%s %d", w.Result, w.ExitStatus)
	default:
		return w.Result
	}
}
