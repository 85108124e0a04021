package main

import (
	"bufio"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/units/queue"
)

func (a *app) queueDead(o *queueOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "Show, retry and purge the dead jobs",
		Long: `A job that failed for good, and what was no job at all, goes to the dead ones
with all that is needed to put it in again, and stays there until it is retried
or purged.`,
		Example: "  gpuherd queue dead list\n  gpuherd queue dead retry --all\n  gpuherd queue dead purge --older-than 168h --yes",
		RunE:    verbMissing,
	}
	cmd.AddCommand(a.queueDeadList(o), a.queueDeadRetry(o), a.queueDeadPurge(o))
	return cmd
}

func (a *app) queueDeadList(o *queueOptions) *cobra.Command {
	l := jobList{state: queue.Dead}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Show the dead jobs",
		Long: `Show the dead jobs, oldest first. What was no job and has no id is named by its
entry, in parentheses.

--json prints an array of the objects of queue list --json.`,
		Example: "  gpuherd queue dead list\n  gpuherd queue dead list --json --limit 0",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.listJobs(cmd.Context(), o, l) },
	}
	l.register(cmd)
	return cmd
}

func (a *app) queueDeadRetry(o *queueOptions) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "retry {ID...|--all}",
		Short: "Let dead jobs wait again",
		Long: `Let dead jobs wait again, with all their attempts: those named, or all. What was
no job stays where it is.`,
		Example:           "  gpuherd queue dead retry job-1\n  gpuherd queue dead retry --all",
		ValidArgsFunction: a.completeJobs(o, queue.Dead),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("retry what?; name dead jobs, or say --all")
			}
			if !all {
				if err := someIDs(cmd, args); err != nil {
					return err
				}
			}
			return a.withQueue(o, func(q *queueClient) error {
				if !all {
					return a.changeJobs(q, args, false, func(id string) (state, text string, err error) {
						return queue.Waiting, "waits", q.Retry(cmd.Context(), id)
					})
				}
				n, err := q.RetryDead(cmd.Context())
				if err != nil {
					a.complain("%s were retried before this", count(n, "job"))
					return q.trouble(err)
				}
				a.stdout.say("%s\n", happened(int64(n), "waits", "wait"))
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead jobs")
	return cmd
}

func (a *app) queueDeadPurge(o *queueOptions) *cobra.Command {
	var olderThan time.Duration
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge [ID...]",
		Short: "Remove dead jobs for good",
		Long: `Remove dead jobs with their payloads, so that they can be retried no more: those
named, by id or by entry, or those that died before some time, or all. It asks
first; --yes answers. What is known of a job by its id stays for a day after it
died.`,
		Example:           "  gpuherd queue dead purge\n  gpuherd queue dead purge --older-than 168h --yes\n  gpuherd queue dead purge job-1",
		ValidArgsFunction: a.completeJobs(o, queue.Dead),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed("older-than")
			if given && (olderThan <= 0 || len(args) > 0) {
				return usagef("--older-than wants a time, such as 24h, and no job's id")
			}
			if !yes && !a.in.Terminal {
				return usagef("purge asks before it removes, and nobody is there to answer; say --yes")
			}
			return a.withQueue(o, func(q *queueClient) error { return a.purge(cmd.Context(), q, args, olderThan, yes) })
		},
	}
	cmd.Flags().DurationVar(&olderThan, "older-than", 0, "those that died so much `time` ago or before, such as 24h")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// purge removes what died up to this moment, and of that what is wanted.
func (a *app) purge(ctx context.Context, q *queueClient, words []string, olderThan time.Duration, yes bool) error {
	now, err := q.now(ctx)
	if err != nil {
		return err
	}
	before := now.Add(time.Millisecond - olderThan) // this millisecond has begun, and counts
	jobs, _, err := q.jobs(ctx, queue.Dead, 0)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	var entries []string
	for i := range jobs {
		j := &jobs[i]
		if len(words) == 0 && j.FinishedMS < before.UnixMilli() {
			entries = append(entries, j.Entry)
		}
		for _, word := range words {
			if word == j.ID || word == j.Entry {
				found[word] = true
				entries = append(entries, j.Entry)
			}
		}
	}
	if i := slices.IndexFunc(words, func(w string) bool { return !found[w] }); i >= 0 {
		return usagef("no dead job is called %q; see gpuherd queue dead list", words[i])
	}
	if len(entries) == 0 {
		a.complain("there is no such dead job")
		return nil
	}
	if !yes {
		agreed, err := a.confirm(ctx, "Remove "+count(len(entries), "dead job")+" of queue "+q.name+" for good?")
		if err != nil || !agreed {
			a.complain("nothing was removed")
			return errFailed
		}
	}
	var n int64
	if len(words) > 0 {
		n, err = q.RemoveDead(ctx, entries...)
	} else {
		n, err = q.PurgeDead(ctx, before)
	}
	if err != nil {
		return q.trouble(err)
	}
	a.stdout.say("%s\n", happened(n, "was removed", "were removed"))
	return nil
}

// confirm asks on the terminal. Anything but yes is no.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	a.stderr.say("%s [y/N] ", question)
	answer, err := interruptible(ctx, func() (string, error) { return bufio.NewReader(a.stdin).ReadString('\n') })
	if err != nil {
		a.stderr.say("\n")
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

// happened is a sentence about n jobs.
func happened(n int64, one, more string) string {
	if n == 1 {
		return "1 job " + one
	}
	return count(int(n), "job") + " " + more
}
