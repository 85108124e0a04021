package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gpuherd/units/queue"
)

func (a *app) queueCancel(o *queueOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "cancel ID...",
		Short: "Cancel jobs",
		Long: `Cancel jobs. One that waits or is delayed is cancelled at once. Of one that runs
the worker is told, which ends it within seconds; until then its state is
running. It fails for a job that has ended already, and for one that nobody
knows.

--json prints an array, one object a job: id, state (after it), ok, error.`,
		Example:           "  gpuherd queue cancel job-1\n  gpuherd queue cancel job-1 job-2 --json",
		Args:              someIDs,
		ValidArgsFunction: a.completeJobs(o, queue.Running, queue.Waiting, queue.Delayed),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withQueue(o, func(q *queueClient) error {
				return a.changeJobs(q, args, asJSON, func(id string) (state, text string, err error) {
					state, err = q.Cancel(cmd.Context(), id)
					switch {
					case err != nil:
						return "", "", err
					case state == queue.Cancelled:
						return state, "is cancelled", nil
					case state == queue.Running:
						return state, "runs; its worker is told to end it", nil
					}
					return state, "", fmt.Errorf("cannot cancel job %s: %w: it is %s", id, queue.ErrState, state)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of what became of each job")
	return cmd
}
