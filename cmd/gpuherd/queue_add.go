package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/units/queue"
)

// addOptions are the flags of queue add.
type addOptions struct {
	job       queue.Job
	file      string
	priority  string
	notBefore string
	delay     time.Duration
	wait      bool
	waitFor   time.Duration
	asJSON    bool
}

func (a *app) queueAdd(o *queueOptions) *cobra.Command {
	var add addOptions
	cmd := &cobra.Command{
		Use:   "add [PAYLOAD|@FILE|-]",
		Short: "Put a job into the queue, and wait for its result",
		Long: `Put a job into the queue and print its id. The payload, at most 256 KiB, is the
argument, or is read from a file, or from standard input where there is no
argument. Mind that everybody on the machine sees arguments while this runs.

One id is one job: where the id given is known, whatever became of that job,
nothing is put in and that is said. So a script that is not sure whether it got
through may do the same again.

With --wait it stays until the job has ended, shows on a terminal how far it is,
and prints the result instead of the id, to a file or a pipe byte for byte. A
Redis that is away is waited for. Interrupting the wait leaves the job alone.

--json prints an object: id, queue, added; with --wait that of queue show.

Exit codes:
  0  it was put in; with --wait: it succeeded
  1  something has failed
  2  the command line is wrong, or the job is none; nothing was done
  3  with --wait: the job is dead
  4  with --wait: the job was cancelled
  5  with --wait: the wait ended before the job did`,
		Example: "  gpuherd queue add '{\"prompt\":\"horse\"}'\n  gpuherd queue add @workflow.json --id horse-1 --wait\n" +
			"  gpuherd queue add --file big.json --priority low --delay 10m\n  gpuherd queue add --wait --wait-timeout 1h --json <job.json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("one payload is a job, got %d; quote it: gpuherd queue add '{\"prompt\":\"a horse\"}'", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := add.check(cmd, args); err != nil {
				return err
			}
			var err error
			if add.job.Payload, err = a.payload(cmd.Context(), args, add.file); err != nil {
				return err
			}
			if err := add.job.Valid(); err != nil {
				return usageError{err}
			}
			return a.withQueue(o, func(q *queueClient) error { return a.addJob(cmd.Context(), q, &add) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&add.file, "file", "f", "", "read the payload from this `file`; - is standard input")
	f.StringVar(&add.job.ID, "id", "", "the job's id, 1 to 256 bytes; a new UUID unless given")
	f.StringVar(&add.priority, "priority", "normal", strings.Join(priorities, ", ")+": high is run before all others")
	f.DurationVar(&add.job.Timeout, "timeout", 0, "`time` that one attempt may take, such as 90s; the worker's own unless given")
	f.IntVar(&add.job.MaxAttempts, "max-attempts", 0, "attempts before the job is dead; the worker's own, 3, unless given")
	f.StringVar(&add.notBefore, "not-before", "", "do not begin before this `time`: 2026-11-30 18:00, RFC 3339 or Unix time")
	f.DurationVar(&add.delay, "delay", 0, "do not begin before so much `time` is over, such as 10m")
	f.StringVar(&add.job.Trace, "trace", "", "handed through to the job, for instance a W3C traceparent")
	f.BoolVarP(&add.wait, "wait", "w", false, "wait until the job has ended and print its result")
	f.DurationVar(&add.waitFor, "wait-timeout", 0, "with --wait: how long, such as 5m; 0: until it has ended")
	f.BoolVar(&add.asJSON, "json", false, "print a JSON object")
	_ = cmd.RegisterFlagCompletionFunc("priority", cobra.FixedCompletions(priorities, cobra.ShellCompDirectiveNoFileComp)) // fails only where there is no such flag
	return cmd
}

// check reads the flags into the job.
func (o *addOptions) check(cmd *cobra.Command, args []string) error {
	given := cmd.Flags().Changed
	if o.file != "" && len(args) > 0 {
		return usagef("--file and an argument exclude each other: one payload is a job")
	}
	i := slices.Index(priorities, o.priority)
	if i < 0 {
		return usagef("--priority %q is none; there are %s", o.priority, strings.Join(priorities, ", "))
	}
	o.job.Priority = queue.High + queue.Priority(i)
	if given("timeout") && o.job.Timeout <= 0 {
		return usagef("--timeout %s is not positive; write --timeout 90s", o.job.Timeout)
	}
	if given("max-attempts") && o.job.MaxAttempts <= 0 {
		return usagef("--max-attempts %d is not positive", o.job.MaxAttempts)
	}
	if o.delay < 0 {
		return usagef("--delay %s is negative", o.delay)
	}
	if given("wait-timeout") && (!o.wait || o.waitFor < 0) {
		return usagef("--wait-timeout wants --wait, and a time such as 5m")
	}
	if o.notBefore != "" {
		if given("delay") {
			return usagef("--not-before and --delay exclude each other")
		}
		var err error
		if o.job.NotBefore, err = pointInTime(o.notBefore); err != nil {
			return err
		}
	}
	if !given("id") {
		o.job.ID = newUUID()
	}
	return nil
}

// pointInTime reads what people and programs write, in local time where it has
// no zone.
func pointInTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil && t.Unix() > 0 {
			return t, nil
		}
	}
	const year5138 = 1e11 // above it are ms
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 && f < year5138 {
		return time.UnixMilli(int64(f * 1000)), nil
	}
	return time.Time{}, usagef("--not-before %q is no time; write '2026-11-30 18:00', 2026-11-30T18:00:00Z or Unix time in seconds", s)
}

// newUUID is of version 4, RFC 9562: ComfyUI takes it as a prompt's id.
func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 4<<4
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// payload returns the argument, or what a file or standard input holds, as far
// as it could be a payload.
func (a *app) payload(ctx context.Context, args []string, file string) ([]byte, error) {
	if len(args) == 1 {
		name, isFile := strings.CutPrefix(args[0], "@")
		switch {
		case args[0] == "-":
			file = "-"
		case !isFile:
			return []byte(args[0]), nil
		case name == "":
			return nil, usagef("@ names no file; write @FILE, or --file for a payload's file")
		default:
			file = name
		}
	}
	if file == "" {
		if a.in.Terminal {
			return nil, usagef("add what?; write the payload, @FILE for a file's, or - to type it")
		}
		file = "-"
	}
	from, name := a.stdin, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("cannot read the payload: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		from, name = f, file
	}
	data, err := interruptible(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(from, queue.MaxPayload+1)) })
	if err != nil {
		return nil, fmt.Errorf("cannot read the payload from %s: %w", name, err)
	}
	if len(data) > queue.MaxPayload {
		return nil, usagef("the payload in %s is above 256 KiB; put it where the job can fetch it, and its address into the payload", name)
	}
	return data, nil
}

// interruptible reads something that may not come, and leaves it behind when a
// signal does.
func interruptible[T any](ctx context.Context, read func() (T, error)) (value T, err error) {
	done := make(chan struct{})
	var got T
	var failed error
	go func() {
		defer close(done)
		got, failed = read()
	}()
	select {
	case <-done:
		return got, failed
	case <-ctx.Done():
		return value, errors.New("interrupted")
	}
}

func (a *app) addJob(ctx context.Context, q *queueClient, o *addOptions) error {
	if o.delay > 0 {
		now, err := q.now(ctx)
		if err != nil {
			return err
		}
		o.job.NotBefore = now.Add(o.delay)
	}
	id := o.job.ID
	added, err := q.Enqueue(ctx, o.job)
	if err != nil {
		if maybeDone(err) {
			a.complain("the job may be in the queue all the same; to be sure, do the same again with --id %s", id)
		}
		return q.trouble(err)
	}
	if !added {
		a.complain("job %s is known already, so nothing was put in; gpuherd queue show %s", id, id)
	}
	if o.wait {
		return a.awaitResult(ctx, q, o)
	}
	if o.asJSON {
		return a.printJSON(struct {
			ID    string `json:"id"`
			Queue string `json:"queue"`
			Added bool   `json:"added"`
		}{id, q.name, added})
	}
	return a.printBytes(id + "\n")
}
