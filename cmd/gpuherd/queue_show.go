package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
)

func (a *app) queueShow(o *queueOptions) *cobra.Command {
	var payload, result, asJSON bool
	cmd := &cobra.Command{
		Use:   "show ID...",
		Short: "Show everything of jobs",
		Long: `Show all that Redis has of the jobs: state, attempts, times, the payload until
the job has ended well, and the result or error after that. Long payloads and
results are cut; --payload and --result print the whole one of one job, to a
file or a pipe byte for byte.

--json prints an array: the fields of list --json but entry, and max_attempts,
timeout_s, trace, payload, result. What is no UTF-8 is in payload_base64 or
result_base64 instead.`,
		Example:           "  gpuherd queue show job-1\n  gpuherd queue show job-1 --result\n  gpuherd queue show job-1 job-2 --json",
		Args:              someIDs,
		ValidArgsFunction: a.completeJobs(o, queue.Running, queue.Waiting, queue.Dead, queue.Succeeded),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw := payload || result
			if raw && (payload && result || asJSON || len(args) != 1) {
				return usagef("--payload and --result print that of one job and nothing else; see %s --help", cmd.CommandPath())
			}
			return a.withQueue(o, func(q *queueClient) error {
				if raw {
					return a.showRaw(cmd.Context(), q, args[0], result)
				}
				return a.showJobs(cmd.Context(), q, args, asJSON)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&payload, "payload", false, "print the payload alone")
	f.BoolVar(&result, "result", false, "print the result alone")
	f.BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// showRaw prints the result or the payload of one job.
func (a *app) showRaw(ctx context.Context, q *queueClient, id string, result bool) error {
	j, r, err := q.Find(ctx, id)
	switch {
	case err != nil:
		return q.trouble(err)
	case result && r.State != queue.Succeeded:
		a.complain("job %s has no result: it is %s", id, r.State)
		return errFailed
	case result:
		return a.printBytes(r.Result)
	case r.State == queue.Succeeded || r.State == queue.Cancelled:
		a.complain("the payload of job %s is not kept: it is %s", id, r.State)
		return errFailed
	}
	return a.printBytes(string(j.Payload))
}

func (a *app) showJobs(ctx context.Context, q *queueClient, ids []string, asJSON bool) error {
	details := []queueDetail{}
	var failed error
	for _, id := range ids {
		j, r, err := q.Find(ctx, id)
		if errors.Is(err, queue.ErrUnknown) {
			a.complain("%s; it never was, or its record's time is over", err)
			failed = errFailed
			continue
		}
		if err != nil {
			return q.trouble(err)
		}
		details = append(details, newQueueDetail(j, r))
	}
	if asJSON {
		if err := a.printJSON(details); err != nil {
			return err
		}
		return failed
	}
	now, err := q.now(ctx)
	if err != nil {
		return err
	}
	for i := range details {
		if i > 0 {
			a.stdout.say("\n")
		}
		if err := terminal.Fields(a.stdout, a.out, details[i].fields(now)); err != nil {
			return err
		}
	}
	return failed
}
