package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

func (a *app) kill() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "kill SELECTION...",
		Short: "Kill every process of workers at once",
		Long: `Send SIGKILL to every process of the selected units. Nothing is drained: a job
in hand is lost with its worker, and is given to another one when its lease has
run out. What happens then is up to the unit's Restart=: a worker is started
again, as after any crash. To have one gone, stop it.` + callLong,
		Example:           "  gpuherd kill 0\n  gpuherd kill redis-worker@1 --json",
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		Args:              needSelection(jobs.Kill),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.signalUnits(cmd.Context(), jobs.Kill, args, asJSON, sd.All, syscall.SIGKILL)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the results")
	return cmd
}

func (a *app) signal() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "signal SIGNAL SELECTION...",
		Short: "Send a signal to workers",
		Long: `Send a signal, by its name or number (USR1, SIGUSR1, 10), to the main process of
the selected units, or with --all-processes to every process of them.` + callLong,
		Example:     "  gpuherd signal USR1 0\n  gpuherd signal SIGHUP redis-worker --all-processes",
		Annotations: remotely,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return signalNames, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeUnits(cmd, args, word)
		},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("signal what to whom?; write gpuherd signal USR1 0, say")
			}
			_, err := parseSignal(args[0])
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseSignal(args[0])
			if err != nil {
				return err
			}
			whom := sd.Main
			if all {
				whom = sd.All
			}
			return a.signalUnits(cmd.Context(), jobs.Signal, args[1:], asJSON, whom, number)
		},
	}
	cmd.Flags().BoolVar(&all, "all-processes", false, "send it to every process of the unit, not only the main one")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the results")
	return cmd
}

func (a *app) signalUnits(ctx context.Context, verb jobs.Verb, words []string, asJSON bool, whom sd.Who, signal syscall.Signal) error {
	return a.call(ctx, verb, words, asJSON, func(ctx context.Context, unit string) error {
		conn, err := a.jobs(ctx)
		if err != nil {
			return err
		}
		return conn.KillUnitWithTarget(ctx, unit, whom, int32(signal))
	})
}

// signalNames is what completion offers: those that people send by hand.
var signalNames = []string{"HUP", "INT", "QUIT", "ABRT", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH"}

// parseSignal reads a signal's name, with or without SIG, or its number.
func parseSignal(word string) (syscall.Signal, error) {
	var number int
	if _, err := fmt.Sscanf(word, "%d", &number); err == nil && fmt.Sprint(number) == word {
		if number < 1 || number > 64 {
			return 0, usagef("there is no signal %s; they go from 1 to 64", word)
		}
		return syscall.Signal(number), nil
	}
	name := strings.ToUpper(word)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, usagef("there is no signal %q; kill -l lists them", word)
}
