package main

import (
	"github.com/spf13/cobra"

	"gpuherd/units/queue"
)

func (a *app) queueRetry(o *queueOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "retry ID...",
		Short: "Let dead jobs wait again, and delayed ones at once",
		Long: `Let a dead job wait again, with all its attempts, or a delayed one without
further delay. It fails for a job in any other state, and for one that nobody
knows. All dead jobs at once: gpuherd queue dead retry --all.

--json prints an array, one object a job: id, state (after it), ok, error.`,
		Example:           "  gpuherd queue retry job-1",
		Args:              someIDs,
		ValidArgsFunction: a.completeJobs(o, queue.Dead, queue.Delayed),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withQueue(o, func(q *queueClient) error {
				return a.changeJobs(q, args, asJSON, func(id string) (state, text string, err error) {
					return queue.Waiting, "waits", q.Retry(cmd.Context(), id)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of what became of each job")
	return cmd
}
