package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/units/queue"
)

// queueStats is the JSON of queue stats. Times are Unix time in ms by Redis'
// clock.
type queueStats struct {
	Queue    string            `json:"queue"`
	AtMS     int64             `json:"at_ms"`
	Paused   bool              `json:"paused"`
	Waiting  int64             `json:"waiting"`
	Running  int64             `json:"running"`
	Delayed  int64             `json:"delayed"`
	Dead     int64             `json:"dead"`
	Ended    int64             `json:"ended"`
	NextMS   int64             `json:"next_due_ms,omitempty"`
	OldestMS int64             `json:"oldest_dead_ms,omitempty"`
	Streams  []queueStream     `json:"priorities"`
	Workers  []queueWorker     `json:"workers"`
	Counts   map[string]counts `json:"counts"` // total, hour, minute
}

type queueStream struct {
	Priority string `json:"priority"`
	Waiting  int64  `json:"waiting"`
	Running  int64  `json:"running"`
	OldestMS int64  `json:"oldest_waiting_ms,omitempty"`
}

type queueWorker struct {
	Name   string `json:"name"`
	Jobs   int64  `json:"jobs"`
	IdleMS int64  `json:"idle_ms"`
}

type counts struct {
	Succeeded int64 `json:"succeeded"`
	Dead      int64 `json:"dead"`
	Cancelled int64 `json:"cancelled"`
	Failed    int64 `json:"failed_attempts"`
	Lost      int64 `json:"lost_leases"`
	Released  int64 `json:"handed_back"`
}

func newQueueStats(name string, s queue.Stats) queueStats {
	of := queueStats{
		Queue: name, AtMS: s.At.UnixMilli(), Paused: s.Paused, Delayed: s.Delayed, Dead: s.Dead, Ended: s.Ended,
		NextMS: unixMS(s.NextDue), OldestMS: unixMS(s.Oldest), Workers: []queueWorker{},
		Counts: map[string]counts{"total": counts(s.Total), "hour": counts(s.Hour), "minute": counts(s.Minute)},
	}
	for _, stream := range s.Streams {
		of.Waiting += stream.Waiting
		of.Running += stream.Running
		of.Streams = append(of.Streams, queueStream{priorityName(stream.Priority), stream.Waiting, stream.Running, unixMS(stream.Oldest)})
	}
	for _, w := range s.Workers {
		of.Workers = append(of.Workers, queueWorker{w.Name, w.Jobs, w.Idle.Milliseconds()})
	}
	return of
}

func (a *app) queueStats(o *queueOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show how many jobs are where, and who works on them",
		Long: `Show how many jobs wait, run, are delayed and dead, how long the first has
waited, which workers there are, and how many jobs ended how. LAST CALL is how
long ago a worker asked Redis for a job: while it waits for one, two seconds at
most.

--json prints an object: queue, at_ms, paused, waiting, running, delayed, dead,
ended (whose record is kept), next_due_ms, oldest_dead_ms; priorities, an array
of priority, waiting, running, oldest_waiting_ms; workers, an array of name,
jobs, idle_ms; counts, an object with total, hour (the last 60 whole minutes)
and minute (the last whole one), each an object: succeeded, dead, cancelled,
failed_attempts, lost_leases, handed_back.`,
		Example: "  gpuherd queue stats\n  gpuherd queue stats --queue gpu --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueue(o, func(q *queueClient) error { return a.showStats(cmd.Context(), q, asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) showStats(ctx context.Context, q *queueClient, asJSON bool) error {
	read, err := q.Stats(ctx)
	if err != nil {
		return q.trouble(err)
	}
	s := newQueueStats(q.name, read)
	if asJSON {
		return a.printJSON(s)
	}
	if err := terminal.Fields(a.stdout, a.out, s.fields(read.At)); err != nil {
		return err
	}
	tables := []*terminal.Table{s.countTable()}
	if len(s.Workers) > 0 {
		tables = append(tables, s.workerTable())
	}
	for _, t := range tables {
		a.stdout.say("\n")
		if err := t.Write(a.stdout, a.out); err != nil {
			return err
		}
	}
	return nil
}

func (s *queueStats) fields(now time.Time) []terminal.Field {
	number := func(n int64, more string) []string { return []string{strconv.FormatInt(n, 10) + more} }
	age := func(ms int64, before, after string) string {
		if ms == 0 {
			return ""
		}
		return before + terminal.Span(now.Sub(time.UnixMilli(ms))) + after
	}
	fields := []terminal.Field{{Name: "Queue", Values: []string{s.Queue}, Style: terminal.Strong}}
	if s.Paused {
		fields = append(fields, terminal.Field{Name: "Paused", Values: []string{"yes: no worker claims a job; gpuherd queue resume"}, Style: terminal.Busy})
	}
	fields = append(fields, terminal.Field{Name: "Running", Values: number(s.Running, "")})
	for _, stream := range s.Streams {
		fields = append(fields, terminal.Field{Name: "Waiting, " + stream.Priority, Values: number(stream.Waiting, age(stream.OldestMS, ", the first for ", ""))})
	}
	next := ""
	if s.NextMS > 0 {
		next = ", the next due in " + terminal.Span(time.UnixMilli(s.NextMS).Sub(now))
	}
	dead := terminal.Field{Name: "Dead", Values: number(s.Dead, age(s.OldestMS, ", the first for ", ""))}
	if s.Dead > 0 {
		dead.Style = terminal.Bad
	}
	return append(fields, terminal.Field{Name: "Delayed", Values: number(s.Delayed, next)}, dead,
		terminal.Field{Name: "Ended", Values: number(s.Ended, " on record")})
}

func (s *queueStats) countTable() *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: ""}, {Title: "SUCCEEDED", Right: true}, {Title: "DEAD", Right: true}, {Title: "CANCELLED", Right: true},
		{Title: "FAILED ATTEMPTS", Right: true}, {Title: "LOST LEASES", Right: true}, {Title: "HANDED BACK", Right: true},
	}}
	for _, of := range []struct{ key, name string }{{"minute", "last whole minute"}, {"hour", "last hour"}, {"total", "ever"}} {
		c := s.Counts[of.key]
		row := []terminal.Cell{{Text: of.name}}
		for _, n := range []int64{c.Succeeded, c.Dead, c.Cancelled, c.Failed, c.Lost, c.Released} {
			row = append(row, terminal.Cell{Text: strconv.FormatInt(n, 10)})
		}
		t.Add(row...)
	}
	return t
}

func (s *queueStats) workerTable() *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{{Title: "WORKER"}, {Title: "JOBS", Right: true}, {Title: "LAST CALL", Right: true}}}
	for _, w := range s.Workers {
		t.Add(terminal.Cell{Text: w.Name}, terminal.Cell{Text: strconv.FormatInt(w.Jobs, 10)},
			terminal.Cell{Text: terminal.Span(time.Duration(w.IdleMS) * time.Millisecond)})
	}
	return t
}
