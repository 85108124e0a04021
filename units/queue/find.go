package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// A place is an entry of one of the three streams, or none.
type place struct {
	stream Priority
	entry  string
}

// String is how the field "entry" of a job's hash has it.
func (p place) String() string { return strconv.Itoa(int(p.stream)) + "/" + p.entry }

func parsePlace(s string) place {
	number, entry, _ := strings.Cut(s, "/")
	stream, _ := strconv.Atoi(number)
	if p := Priority(stream); High <= p && p <= Low {
		return place{p, entry}
	}
	return place{}
}

// find looks through the streams for the entry of a job that no worker has
// seen, so that nothing else tells where it is.
func (q *Queue) find(ctx context.Context, id string) (place, error) {
	for p := High; p <= Low; p++ {
		entry, err := q.search(ctx, q.stream(p), id)
		if err != nil || entry != "" {
			return place{p, entry}, err
		}
	}
	return place{}, nil
}

// search returns the last entry of a stream that has the id, or "".
func (q *Queue) search(ctx context.Context, stream, id string) (entry string, err error) {
	for after := "-"; after != ""; {
		var page []pageEntry
		if page, after, err = q.page(ctx, stream, after, pageSize, false); err != nil {
			return "", err
		}
		for _, e := range page {
			if e.fields["id"] == id {
				entry = e.id
			}
		}
	}
	return entry, nil
}

// Find returns all that is known of a job: its record, and what was put in as
// long as that is there, which is until it ends, or while it is in Q:dead.
// It also finds jobs that no worker has seen yet, for which it looks through
// all that wait. Where no such job is known the error is ErrUnknown.
func (q *Queue) Find(ctx context.Context, id string) (Job, Record, error) {
	j, r, err := q.lookUp(ctx, id)
	if err != nil {
		return Job{}, Record{}, fmt.Errorf("cannot find job %.100q: %w", id, err)
	}
	return j, r, nil
}

func (q *Queue) lookUp(ctx context.Context, id string) (Job, Record, error) {
	if err := ValidID(id); err != nil {
		return Job{}, Record{}, err
	}
	h, err := q.redis.HGetAll(ctx, q.JobKey(id)).Result()
	if err != nil {
		return Job{}, Record{}, err
	}
	values := make([]any, len(recordFields))
	for i, name := range recordFields {
		if v, ok := h[name]; ok {
			values[i] = v
		}
	}
	r, _ := record(values)
	r.Result = h["result"]

	at, grave := parsePlace(h["entry"]), h["dead"]
	if r.State == "" {
		if at, err = q.find(ctx, id); err == nil && at.entry == "" {
			grave, err = q.search(ctx, q.Key("dead"), id)
		}
		if err != nil {
			return Job{}, Record{}, err
		}
	}
	fields := h // of a delayed job
	switch {
	case at.entry != "":
		fields, err = q.read(ctx, q.stream(at.stream), at.entry)
		if r.State == "" {
			r.State, r.Enqueued = Waiting, entryTime(at.entry)
		}
	case grave != "":
		fields, err = q.read(ctx, q.Key("dead"), grave)
		if r.State == "" {
			attempts, _ := strconv.Atoi(fields["attempts"])
			r = Record{
				State: Dead, Attempts: attempts, Worker: fields["worker"], Error: fields["error"],
				Reason: fields["reason"], Stderr: fields["stderr"], Finished: entryTime(grave),
			}
		}
	case r.State == "":
		err = ErrUnknown
	}
	if err != nil {
		return Job{}, Record{}, err
	}
	fields["id"] = id
	j, _ := parse(fields) // what was no job, and is dead, is shown as far as it can be read
	if j.Priority = at.stream; j.Priority == 0 {
		home, _ := strconv.Atoi(h["home"])
		j.Priority = Priority(home)
	}
	return j, r, nil
}

// read returns the fields of an entry, none where it has gone.
func (q *Queue) read(ctx context.Context, stream, entry string) (map[string]string, error) {
	messages, err := q.redis.XRange(ctx, stream, entry, entry).Result()
	fields := map[string]string{}
	if err == nil && len(messages) > 0 {
		for name, v := range messages[0].Values {
			fields[name], _ = v.(string)
		}
	}
	return fields, err
}
