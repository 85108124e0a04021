package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
)

// jobStates in the order of a list.
var jobStates = []string{queue.Running, queue.Waiting, queue.Delayed, queue.Dead, queue.Succeeded, queue.Cancelled}

// listLimit is how many jobs a list has unless told.
const listLimit = 100

func (a *app) queueList(o *queueOptions) *cobra.Command {
	var l jobList
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Show the jobs",
		Long: `Show one row a job: those that run, wait and are delayed, in the order in which
they will be run, then the dead, oldest first, then those that succeeded or were
cancelled, newest first. What has ended is known for a day.

SINCE is how long the job has been in its state. DETAIL is the progress of one
that runs, when a delayed one is due, and why the last attempt failed.

--json prints an array, one object a job: id, state (running, waiting, delayed,
dead, succeeded, cancelled), priority (high, normal, low), entry, payload_bytes,
attempts, worker, progress, cancelling, error, reason, stderr, enqueued_ms,
due_ms, started_ms, finished_ms. What is not known is left out.`,
		Example: "  gpuherd queue list\n  gpuherd queue list --state running\n  gpuherd queue list --limit 0 --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.state != "" && !slices.Contains(jobStates, l.state) {
				return usagef("--state %q is none; states are %s", l.state, strings.Join(jobStates, ", "))
			}
			return a.listJobs(cmd.Context(), o, l)
		},
	}
	l.register(cmd)
	cmd.Flags().StringVar(&l.state, "state", "", "only jobs in this state: "+strings.Join(jobStates, ", "))
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(jobStates, cobra.ShellCompDirectiveNoFileComp)) // fails only where there is no such flag
	return cmd
}

// A jobList is which jobs to list, and how.
type jobList struct {
	state  string
	limit  int
	asJSON bool
}

func (l *jobList) register(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&l.limit, "limit", "n", listLimit, "how many jobs at most; 0: all")
	cmd.Flags().BoolVar(&l.asJSON, "json", false, "print a JSON array")
}

func (a *app) listJobs(ctx context.Context, o *queueOptions, l jobList) error {
	if l.limit < 0 {
		return usagef("--limit %d is negative; 0 shows all", l.limit)
	}
	return a.withQueue(o, func(q *queueClient) error {
		jobs, more, err := q.jobs(ctx, l.state, l.limit)
		if err != nil {
			return err
		}
		if more {
			a.complain("there are more jobs; --limit 0 shows all")
		}
		if l.asJSON {
			return a.printJSON(jobs)
		}
		if len(jobs) == 0 {
			a.complain("queue %s has no such jobs; gpuherd queue stats", q.name)
			return nil
		}
		now, err := q.now(ctx)
		if err != nil {
			return err
		}
		return jobTable(jobs, now).Write(a.stdout, a.out)
	})
}

// jobs reads up to limit jobs, 0 for all; more says that there are others.
func (q *queueClient) jobs(ctx context.Context, state string, limit int) (jobs []queueJob, more bool, err error) {
	jobs = []queueJob{}
	for after := ""; ; {
		left := 1000
		if limit > 0 {
			left = limit - len(jobs)
		}
		page, next, err := q.List(ctx, queue.ListOptions{State: state, Limit: left, After: after})
		if err != nil {
			return nil, false, q.trouble(err)
		}
		for i := range page {
			j := newQueueJob(page[i].ID, page[i].Priority, page[i].Bytes, page[i].Record)
			j.Entry = page[i].Entry
			jobs = append(jobs, j)
		}
		if after = next; after == "" {
			return jobs, false, nil
		}
		if limit > 0 && len(jobs) >= limit {
			rest, _, err := q.List(ctx, queue.ListOptions{State: state, Limit: 1, After: after})
			return jobs, len(rest) > 0, q.trouble(err)
		}
	}
}

func jobTable(jobs []queueJob, now time.Time) *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "ID"}, {Title: "STATE"}, {Title: "PRIORITY"}, {Title: "ATTEMPTS", Right: true},
		{Title: "SINCE", Right: true}, {Title: "WORKER"}, {Title: "DETAIL"},
	}}
	for i := range jobs {
		j := &jobs[i]
		t.Add(
			terminal.Cell{Text: orElse(j.ID, "("+j.Entry+")")},
			terminal.Cell{Text: j.State, Style: jobStyle(j.State)},
			terminal.Cell{Text: orElse(j.Priority, terminal.None)},
			terminal.Cell{Text: strconv.Itoa(j.Attempts)},
			terminal.Cell{Text: j.since(now)},
			terminal.Cell{Text: orElse(j.Worker, terminal.None)},
			terminal.Cell{Text: j.detail(now)},
		)
	}
	return t
}
