package main

import (
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
)

func (a *app) queueResume(o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:     "resume",
		Short:   "End a pause",
		Long:    `Let workers claim jobs again, as they do within two seconds.`,
		Example: "  gpuherd queue resume",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueue(o, func(q *queueClient) error {
				if err := q.Resume(cmd.Context()); err != nil {
					return q.trouble(err)
				}
				a.stdout.say("queue %s is resumed\n", terminal.Inert(q.name))
				return nil
			})
		},
	}
}
