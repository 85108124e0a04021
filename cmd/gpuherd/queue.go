package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
)

const queueLong = `Put jobs into the queue in Redis, look at them, and change what becomes of them.
Whoever may reach Redis may do so: neither root nor a GPU is needed.

Redis is the one that --redis or REDIS_URL names, else the configured one. Its
password comes from the credentials in /etc/credstore, which root may read, or
from those in the folder CREDENTIALS_DIRECTORY; others put it into REDIS_URL. In
--redis everybody on the machine could see it.

Payloads, results and errors are shown so that a terminal does not obey them.`

func (a *app) queue() *cobra.Command {
	var o queueOptions
	cmd := &cobra.Command{
		Use:     "queue",
		Short:   "Put jobs into the queue, show and change them",
		Long:    queueLong,
		Example: "  gpuherd queue add '{\"prompt\":\"horse\"}' --wait\n  gpuherd queue list --state dead\n  gpuherd queue stats",
		RunE:    verbMissing,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.redis, "redis", "", "`URL` of Redis instead of the configured one; a password belongs in REDIS_URL")
	f.StringVar(&o.queue, "queue", "", "`name` of the queue instead of the configured one")
	cmd.AddCommand(
		a.queueAdd(&o),
		a.queueList(&o),
		a.queueShow(&o),
		a.queueCancel(&o),
		a.queueRetry(&o),
		a.queuePause(&o),
		a.queueResume(&o),
		a.queueDead(&o),
		a.queueStats(&o),
	)
	return cmd
}

// withQueue runs a verb with the queue open.
func (a *app) withQueue(o *queueOptions, run func(*queueClient) error) error {
	q, err := a.openQueue(o)
	if err != nil {
		return err
	}
	defer q.close()
	return run(q)
}

// someIDs wants at least one job on the command line, each with an ID that can
// be one.
func someIDs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s what?; name a job, such as %s job-1", cmd.Name(), cmd.CommandPath())
	}
	for _, id := range args {
		if err := queue.ValidID(id); err != nil {
			return usagef("%.100q is no job's id: %w", id, err)
		}
	}
	return nil
}

// completeJobs offers IDs of jobs in some of the states to shell completion.
func (a *app) completeJobs(o *queueOptions, states ...string) cobra.CompletionFunc {
	const few = 100
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		var ids []string
		_ = a.withQueue(o, func(q *queueClient) error {
			for _, state := range states {
				jobs, _, err := q.List(ctx, queue.ListOptions{State: state, Limit: few})
				if err != nil {
					return err
				}
				for i := range jobs {
					if id := jobs[i].ID; queue.ValidID(id) == nil && terminal.Inert(id) == id && !slices.Contains(args, id) {
						ids = append(ids, id)
					}
				}
			}
			return nil
		}) // without Redis nothing is offered
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

// A change is what became of one job, and the JSON of cancel and retry.
type change struct {
	ID    string `json:"id"`
	State string `json:"state,omitempty"` // after it
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// changeJobs does one thing to each of the jobs and tells of each. do returns
// the state that a job has then, and a line about it. It fails where one job
// could not be changed; an error of Redis itself ends it.
func (a *app) changeJobs(q *queueClient, ids []string, asJSON bool, do func(id string) (state, text string, err error)) error {
	changes := []change{}
	var failed error
	for _, id := range ids {
		state, text, err := do(id)
		c := change{ID: id, State: state, OK: err == nil}
		aboutJob := errors.Is(err, queue.ErrUnknown) || errors.Is(err, queue.ErrState)
		if err != nil {
			a.complain("%s", q.trouble(err))
			failed, c.Error = errFailed, err.Error()
		} else if !asJSON {
			a.stdout.say("%s %s\n", terminal.Inert(id), text)
		}
		changes = append(changes, c)
		if err != nil && !aboutJob {
			break
		}
	}
	if asJSON {
		if err := a.printJSON(changes); err != nil {
			return err
		}
	}
	return failed
}
