package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
)

// logOptions are the flags of logs.
type logOptions struct {
	follow     bool
	lines      string
	err        bool
	since      string
	until      string
	json       bool
	output     string
	noHostname bool
}

func (a *app) logs() *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use:   "logs [SELECTION...]",
		Short: "Show the workers' logs out of the journal",
		Long: `Show the journal of the selected units, merged in the order of time; without a
selection of every worker. It runs journalctl, whose exit code is passed on;
what is missing here, journalctl -u UNIT has.

A unit that is no longer in the herd may be named too, and where systemd cannot
be asked, names are matched as they are.`,
		Example:           "  gpuherd logs\n  gpuherd logs 0 -f\n  gpuherd logs redis-worker --err --since '1 hour ago'\n  gpuherd logs 0 --json -n 10",
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd.Flags().Changed("lines")); err != nil {
				return err
			}
			units, err := a.logUnits(cmd.Context(), args)
			if err != nil {
				return err
			}
			return a.journalctl(journalArgs(o, units))
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with new lines as they come")
	f.StringVarP(&o.lines, "lines", "n", "50", "how many of the newest lines, or all")
	f.BoolVar(&o.err, "err", false, "only lines of priority err or worse")
	f.StringVar(&o.since, "since", "", "lines from this time on, as journalctl reads it; without --lines all of them")
	f.StringVar(&o.until, "until", "", "lines until this time")
	f.BoolVar(&o.json, "json", false, "print one JSON object a line")
	f.StringVarP(&o.output, "output", "o", "with-unit", "journalctl's output format")
	f.BoolVar(&o.noHostname, "no-hostname", true, "leave the host's name out")
	return cmd
}

func (o *logOptions) check(linesGiven bool) error {
	if n, err := strconv.ParseUint(o.lines, 10, 31); o.lines != "all" && err != nil {
		return usagef("--lines %q is neither a number nor all; write --lines 100", o.lines)
	} else if err == nil {
		o.lines = strconv.FormatUint(n, 10)
	}
	if o.since != "" && !linesGiven {
		o.lines = "all"
	}
	if o.json {
		o.output = "json"
	}
	return nil
}

// journalArgs returns journalctl's arguments. Every value is joined to its
// option, so that none can be taken for another one.
func journalArgs(o logOptions, units []string) []string {
	args := []string{"--no-pager", "--output=" + o.output, "--lines=" + o.lines}
	if o.noHostname {
		args = append(args, "--no-hostname")
	}
	if o.follow {
		args = append(args, "--follow")
	}
	if o.err {
		args = append(args, "--priority=err")
	}
	if o.since != "" {
		args = append(args, "--since="+o.since)
	}
	if o.until != "" {
		args = append(args, "--until="+o.until)
	}
	for _, unit := range units {
		args = append(args, "--unit="+unit)
	}
	return args
}

// logUnits resolves the words, and falls back to patterns on the names where
// the herd does not know them or cannot be asked: the journal remembers units
// that systemd has forgotten.
func (a *app) logUnits(ctx context.Context, words []string) ([]string, error) {
	units, err := a.units(ctx, words)
	var unknown *selection.UnknownError
	switch {
	case err == nil && len(units) == 0:
		return nil, errors.New("the herd is empty, so there are no logs; name a unit, or see `gpuherd explain`")
	case err == nil:
		return units, nil
	case errors.As(err, &unknown):
		var past []string
		for _, word := range words {
			found, err := a.units(ctx, []string{word})
			switch {
			case err == nil:
				past = append(past, found...)
			case strings.Contains(word, "@") || strings.HasSuffix(word, ".service"):
				past = append(past, selection.Pattern(word)...)
			default:
				return nil, err
			}
		}
		return past, nil
	case errors.As(err, new(usageError)):
		return nil, err
	}
	patterns, ok := selection.Patterns(words)
	if !ok || len(patterns) == 0 {
		return nil, err
	}
	a.complain("%s; matching units by name alone", err)
	return patterns, nil
}

// journalctl becomes journalctl, or ssh that runs it on --host: its exit code
// and its signals are ours.
func (a *app) journalctl(args []string) error {
	argv := append([]string{"journalctl"}, args...)
	if a.remote != "" {
		argv = append([]string{"ssh"}, sshArgs(a.remote, argv...)...)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("cannot find %s in PATH: %w", argv[0], err)
	}
	a.disconnect()
	err = a.exec(path, argv, os.Environ())
	if errors.Is(err, syscall.E2BIG) {
		return fmt.Errorf("too many units for one journalctl; select fewer: %w", err)
	}
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", path, err)
	}
	return nil
}
