package main

import (
	"context"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
)

func (a *app) reset() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reset SELECTION...",
		Short: "Forget failures: failed state, restart counter, start limit",
		Long: `Have systemd forget that the selected units failed: a failed one becomes
inactive, RESTARTS of list goes to zero, and what counts towards the limit on
starts is forgotten, as systemctl reset-failed does. No process is touched. The
monitor's own count, in Redis and its metrics, never goes back.` + callLong,
		Example:           "  gpuherd reset 0\n  gpuherd reset all --json",
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		Args:              needSelection(jobs.Reset),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), jobs.Reset, args, asJSON, func(ctx context.Context, unit string) error {
				conn, err := a.jobs(ctx)
				if err != nil {
					return err
				}
				return conn.ResetFailedUnitContext(ctx, unit)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the results")
	return cmd
}
