package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gpuherd/generator/version"
)

const rootLong = `gpuherd shows and controls the workers of this machine: one systemd service on
each GPU, generated from its service file. systemd's own tools work on them
too: systemctl status 'redis-worker@*', journalctl -u redis-worker@0.

Workers are selected by
  0, 0:1, 0.2      instance: GPU 0, MIG device 1 of it, second worker on it
  0-3              the instances 0 to 3
  redis-worker     all instances of a service
  redis-worker@0   a unit
  'redis-*'        a glob on unit names
  all              every worker; gpuherd's own units only when named

Answers go to standard output, everything else to standard error. Colours are
for terminals, and not where NO_COLOR is set.

Exit codes:
  0  all is well, or was done
  1  something is wrong or has failed
  2  the command line is wrong, or selects nothing; nothing was done
  3  queue add --wait: the job is dead
  4  queue add --wait: the job was cancelled
  5  queue add --wait: the wait ended before the job did`

// root builds the command tree: one file a verb.
func (a *app) root() *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:     "gpuherd",
		Short:   "Show and control this machine's GPU workers",
		Long:    rootLong,
		Example: "  gpuherd list\n  gpuherd logs 0 -f\n  gpuherd restart all\n  gpuherd explain",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if showVersion {
				a.stdout.say("gpuherd %s\n", version.String())
				return nil
			}
			return verbMissing(cmd, args)
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkHost(cmd); err != nil {
				return err
			}
			a.parsed = true
			return nil
		},
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	// cobra's own wants a template to say it like this, and text/template keeps
	// every method of every package in the binary: a third of it.
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "version for gpuherd")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	root.PersistentFlags().StringVarP(&a.remote, "host", "H", "", "ask systemd on this host, as user@host, by ssh")
	root.AddCommand(
		a.list(),
		a.describe(),
		a.logs(),
		a.start(),
		a.stop(),
		a.restart(),
		a.reload(),
		a.kill(),
		a.signal(),
		a.reset(),
		a.scale(),
		a.enable(),
		a.disable(),
		a.delete(),
		a.save(),
		a.resurrect(),
		a.explain(),
		a.verify(),
		a.ping(),
		a.monit(),
		a.fleet(),
		a.queue(),
		a.doctor(),
		a.report(),
		a.runProgram(),
		a.importPM2(),
	)
	return root
}

// verbMissing runs where a command with verbs below it was given none, or one
// that is not there.
func verbMissing(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	what := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		what += ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("%s; see %s --help", what, cmd.CommandPath())
}

// noArguments is cobra.NoArgs with our words.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, got %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}
