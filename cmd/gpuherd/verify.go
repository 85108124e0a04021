package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator/unitfile"
)

func (a *app) verify() *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Say what is wrong with the configuration",
		Long: `Read the configuration and every service file as the generator does, and print
each problem as FILE:LINE: KEY=: what is wrong; what to write instead. Problems
go to standard output; the exit code is 1 if any costs something, and 0 if there
are none or only warnings. Nothing is changed.

--json prints an array, one object a problem: file, line, key, message, fix,
warning.`,
		Example: "  gpuherd verify\n  gpuherd verify --root /mnt --json",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			result, err := a.compute(root)
			if err != nil {
				return err
			}
			if asJSON {
				if err := a.printJSON(append(unitfile.Problems{}, result.Problems...)); err != nil {
					return err
				}
			} else {
				a.printProblems(result.Problems)
				if !result.Problems.Failed() {
					a.stdout.say("configuration is fine: %s, %s\n",
						count(len(result.Services), "service"), count(len(result.GPUs), "GPU"))
				}
			}
			if result.Problems.Failed() {
				return errFailed
			}
			return nil
		},
	}
	rootFlag(cmd, &root)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) printProblems(problems unitfile.Problems) {
	for _, p := range problems {
		text := terminal.Inert(p.Error())
		if p.Warning {
			a.stdout.say("%s %s\n", a.out.Paint(terminal.Busy, "warning:"), text)
			continue
		}
		a.stdout.say("%s\n", text)
	}
}

// count writes "1 service", "2 services".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
