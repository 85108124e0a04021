package main

import (
	"os"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/plan"
)

func (a *app) explain() *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why each unit exists, or why not",
		Long: `Decide once more what the generator decides at boot and at every daemon-reload,
and print each decision with its reason: settings and where they come from, GPUs
used and left out, services and their instances. It reads files only and changes
nothing. What systemd does with the units is told by list.

PID 1's environment, which may set NUM_GPUS and the like, can be read by root
only; without it the answer may differ from the generator's, and explain says
so.

--json prints an array, one object a decision: kind (machine, config,
gpu, service, unit), subject, verdict, reason.`,
		Example: "  gpuherd explain\n  gpuherd explain --root /mnt --json",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			result, err := a.compute(root)
			if err != nil {
				return err
			}
			if n := len(result.Problems); n > 0 {
				a.complain("the configuration has problems (%d); see: gpuherd verify", n)
			}
			if asJSON {
				return a.printJSON(append([]generator.Decision{}, result.Decisions...))
			}
			// A reason that is cut is none: long lines may wrap here.
			return decisionTable(result.Decisions).Write(a.stdout, terminal.Screen{Color: a.out.Color})
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

func decisionTable(decisions []generator.Decision) *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{{Title: "SUBJECT"}, {Title: "VERDICT"}, {Title: "REASON"}}}
	for _, d := range decisions {
		t.Add(terminal.Cell{Text: d.Subject}, terminal.Cell{Text: d.Verdict, Style: verdictStyle(d.Verdict)}, terminal.Cell{Text: d.Reason})
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
