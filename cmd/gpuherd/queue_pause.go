package main

import (
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
)

func (a *app) queuePause(o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "pause",
		Short: "Let no worker claim a job",
		Long: `Let no worker, on any host, claim a job until the queue is resumed, however
often workers and hosts start again. Jobs that run go on, and jobs can be put
in.`,
		Example: "  gpuherd queue pause",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueue(o, func(q *queueClient) error {
				if err := q.Pause(cmd.Context()); err != nil {
					return q.trouble(err)
				}
				a.stdout.say("queue %s is paused; jobs that run go on\n", terminal.Inert(q.name))
				return nil
			})
		},
	}
}
