package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Job is what a producer puts in.
type Job struct {
	ID          string        // 1 to 256 bytes of UTF-8 without control characters; one ID is one job
	Payload     []byte        // at most 256 KiB
	Timeout     time.Duration // of one attempt; 0 for the worker's own. In the entry: seconds, decimals allowed
	MaxAttempts int           // 0 for the queue's own
	Trace       string        // handed through
	Priority    Priority      // 0 is Normal
}

// ValidID says why id cannot be a job's.
func ValidID(id string) error {
	switch {
	case id == "":
		return errors.New("no id")
	case len(id) > MaxID:
		return fmt.Errorf("id of %d bytes, at most %d are allowed", len(id), MaxID)
	case !utf8.ValidString(id):
		return errors.New("id is not UTF-8")
	}
	for _, r := range id {
		if unicode.IsControl(r) {
			return fmt.Errorf("id has the control character %U", r)
		}
	}
	return nil
}

// parse reads an entry's fields. The job has a usable ID where err says
// nothing of the ID; see ValidID.
func parse(fields map[string]string) (Job, error) {
	j := Job{ID: fields["id"], Payload: []byte(fields["payload"]), Trace: fields["trace"]}
	if err := ValidID(j.ID); err != nil {
		return j, err
	}
	if len(j.Payload) > MaxPayload {
		return j, fmt.Errorf("payload of %d bytes, at most %d are allowed", len(j.Payload), MaxPayload)
	}
	if s := fields["timeout"]; s != "" {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(f) || f <= 0 || f > maxTimeout.Seconds() {
			return j, fmt.Errorf("timeout %.40q: want seconds, at most %.0f", s, maxTimeout.Seconds())
		}
		j.Timeout = max(time.Duration(f*float64(time.Second)), time.Millisecond)
	}
	if s := fields["max_attempts"]; s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxAttempts {
			return j, fmt.Errorf("max_attempts %.40q: want 1 to %d", s, maxAttempts)
		}
		j.MaxAttempts = n
	}
	return j, nil
}

// Enqueue puts a job in. It returns false where the ID is known already,
// whatever became of that job: so a producer that is not sure whether its
// call arrived may call again.
func (q *Queue) Enqueue(ctx context.Context, j Job) (added bool, err error) {
	if err := ValidID(j.ID); err != nil {
		return false, fmt.Errorf("cannot enqueue: %w", err)
	}
	if len(j.Payload) > MaxPayload {
		return false, fmt.Errorf("cannot enqueue %s: payload of %d bytes, at most %d are allowed", j.ID, len(j.Payload), MaxPayload)
	}
	if j.Priority == 0 {
		j.Priority = Normal
	}
	args := []any{int(j.Priority), "id", j.ID, "payload", j.Payload}
	if j.Timeout > 0 {
		args = append(args, "timeout", strconv.FormatFloat(j.Timeout.Seconds(), 'f', -1, 64))
	}
	if j.MaxAttempts > 0 {
		args = append(args, "max_attempts", j.MaxAttempts)
	}
	if j.Trace != "" {
		args = append(args, "trace", j.Trace)
	}
	n, err := enqueueScript.Run(ctx, q.redis, []string{q.stream(j.Priority), q.JobKey(j.ID)}, args...).Int()
	if err != nil {
		return false, fmt.Errorf("cannot enqueue %s: %w", j.ID, err)
	}
	return n == 1, nil
}

// States of a job.
const (
	Waiting   = "waiting"
	Running   = "running"
	Succeeded = "succeeded"
	Dead      = "dead"
	Cancelled = "cancelled"
)

// A Record is what Redis holds of a job. Times are Redis' own, zero where the
// thing has not happened.
type Record struct {
	State    string
	Attempts int    // begun, without those that were handed back
	Worker   string // consumer of the last attempt
	Progress string // as the job wrote it
	Result   string
	Error    string // of the last failed attempt
	Stderr   string // end of what that attempt wrote to stderr
	Enqueued time.Time
	Started  time.Time // the last attempt
	Finished time.Time
}

// Get returns the record of a job. ok is false where none is known: it never
// was, no worker has seen it yet, or its time has run out.
func (q *Queue) Get(ctx context.Context, id string) (r Record, ok bool, err error) {
	h, err := q.redis.HGetAll(ctx, q.JobKey(id)).Result()
	if err != nil {
		return Record{}, false, fmt.Errorf("cannot read job %s: %w", id, err)
	}
	at := func(field string) time.Time {
		ms, err := strconv.ParseInt(h[field], 10, 64)
		if err != nil {
			return time.Time{}
		}
		return time.UnixMilli(ms)
	}
	attempts, _ := strconv.Atoi(h["attempts"])
	return Record{
		State: h["state"], Attempts: attempts, Worker: h["worker"], Progress: h["progress"],
		Result: h["result"], Error: h["error"], Stderr: h["stderr"],
		Enqueued: at("enqueued_ms"), Started: at("started_ms"), Finished: at("finished_ms"),
	}, len(h) > 0, nil
}
