package main

import (
	"os"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/explanation"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/plan"
)

func (a *app) explain() *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain [SELECTION...]",
		Short: "Say why each unit exists, or why not",
		Long: `Decide once more what the generator decides at boot and at every daemon-reload,
and give each decision with its reason. First the devices: how each is known,
whether it is used, and for each service why it has a unit there or none. Then
the services, on and off, and those that run once a host. Last the machine, and
the settings with where they come from. It reads files only and changes nothing.
What systemd does with the units is told by list.

A selection narrows it down: a GPU (3), a unit (redis-worker@3), a service, a
PCI address (0000:17:00.0).

PID 1's environment, which may set NUM_GPUS and the like, can be read by root
only; without it the answer may differ from the generator's, and explain says
so.

--json prints an array, one object a decision: kind (machine, config,
gpu, service, unit), subject, verdict (used, skipped, on, off, generated, not
generated, noted), reason; gpu, the index, for decisions of kind gpu and unit
that have one; source (NVML, PCI, PCI and driver, simulation) for kind gpu.`,
		Example:           "  gpuherd explain\n  gpuherd explain 3\n  gpuherd explain redis-worker@3 --json\n  gpuherd explain --root /mnt",
		ValidArgsFunction: a.completeUnits,
		RunE: func(_ *cobra.Command, args []string) error {
			result, err := a.compute(root)
			if err != nil {
				return err
			}
			e := explanation.Of(result)
			if len(args) > 0 {
				if e, err = e.Select(args); err != nil {
					return usageError{err}
				}
			}
			if n := len(result.Problems); n > 0 {
				a.complain("the configuration has problems (%d); see: gpuherd verify", n)
			}
			if asJSON {
				return a.printJSON(append([]explanation.Line{}, e.Lines()...))
			}
			return a.printExplanation(e)
		},
	}
	rootFlag(cmd, &root)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// rootFlag adds --root, as the generator has it.
func rootFlag(cmd *cobra.Command, root *string) {
	cmd.Flags().StringVar(root, "root", "/", "read DIR/{etc,run,usr,proc,sys} instead of /, and PID 1's environment from DIR/proc/1/environ")
	_ = cmd.MarkFlagDirname("root") // fails only where there is no such flag
}

// compute runs the generator's decisions without writing anything.
func (a *app) compute(root string) (*generator.Result, error) {
	// Every file below it may be missing, but a mistyped root is not fine.
	if info, err := os.Stat(root); err != nil {
		return nil, usagef("--root: %w", err)
	} else if !info.IsDir() {
		return nil, usagef("--root: %s is no folder", root)
	}
	source, err := config.HostSource(root)
	if err != nil {
		a.complain("%s; only root may, and what it sets is missing here: the generator may decide otherwise", err)
	}
	return generator.Compute(generator.Options{Root: source.Root, Environ: source.Environ}), nil
}

// printExplanation writes the notes, and a table each for the devices, the
// services and the machine.
func (a *app) printExplanation(e *explanation.Explanation) error {
	// A reason that is cut is none: long lines may wrap here.
	screen := terminal.Screen{Color: a.out.Color}
	gap := ""
	for _, note := range e.Notes {
		a.stdout.say("%s\n", terminal.Inert(note))
		gap = "\n"
	}
	for _, t := range []*terminal.Table{deviceTable(e.Devices), lineTable("SERVICE", e.Services), lineTable("MACHINE", e.Machine)} {
		if len(t.Rows) == 0 {
			continue
		}
		a.stdout.say("%s", gap)
		if err := t.Write(a.stdout, screen); err != nil {
			return err
		}
		gap = "\n"
	}
	return nil
}

// deviceTable names each device once, in front of its lines.
func deviceTable(devices []*explanation.Device) *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{{Title: "DEVICE"}, {Title: "SOURCE"}, {Title: "UNIT"}, {Title: "VERDICT"}, {Title: "REASON"}}}
	for _, d := range devices {
		name, source := d.String(), d.Source
		row := func(unit, verdict string, style terminal.Style, reason string) {
			t.Add(terminal.Cell{Text: name, Style: terminal.Strong}, terminal.Cell{Text: source}, terminal.Cell{Text: unit},
				terminal.Cell{Text: verdict, Style: style}, terminal.Cell{Text: reason})
			name, source = "", ""
		}
		for _, l := range d.Lines {
			row(terminal.None, l.Verdict, verdictStyle(l.Verdict), l.Reason)
		}
		for _, l := range d.Units {
			row(selection.Short(l.Subject), l.Verdict, verdictStyle(l.Verdict), l.Reason)
		}
		if d.Idle != "" {
			row("none", plan.NotGenerated, verdictStyle(plan.NotGenerated), d.Idle)
		}
	}
	return t
}

func lineTable(title string, lines []explanation.Line) *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{{Title: title}, {Title: "VERDICT"}, {Title: "REASON"}}}
	for _, l := range lines {
		t.Add(terminal.Cell{Text: l.Subject}, terminal.Cell{Text: l.Verdict, Style: verdictStyle(l.Verdict)}, terminal.Cell{Text: l.Reason})
	}
	return t
}

func verdictStyle(verdict string) terminal.Style {
	switch verdict {
	case plan.On, plan.Used, plan.Generated:
		return terminal.Good
	case plan.Off, plan.Skipped, plan.NotGenerated:
		return terminal.Busy
	default:
		return terminal.Plain
	}
}
