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
	Trace       string        // handed through: at most 1 KiB of UTF-8 without control characters
	Priority    Priority      // 0 is Normal
	NotBefore   time.Time     // by Redis' clock; zero for at once. In the entry, not_before: Unix time in seconds, decimals allowed
}

// ValidID says why id cannot be a job's.
func ValidID(id string) error {
	if id == "" {
		return errors.New("no id")
	}
	return text("id", id, MaxID)
}

func text(what, s string, most int) error {
	switch {
	case len(s) > most:
		return fmt.Errorf("%s of %d bytes, at most %d are allowed", what, len(s), most)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not UTF-8", what)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("%s has the control character %U", what, r)
		}
	}
	return nil
}

// Valid says why j cannot be a job.
func (j *Job) Valid() error {
	if err := ValidID(j.ID); err != nil {
		return err
	}
	if len(j.Payload) > MaxPayload {
		return fmt.Errorf("payload of %d bytes, at most %d are allowed", len(j.Payload), MaxPayload)
	}
	if j.Timeout < 0 || j.Timeout > maxTimeout {
		return fmt.Errorf("timeout %v: want at most %v", j.Timeout, maxTimeout)
	}
	if j.MaxAttempts < 0 || j.MaxAttempts > maxAttempts {
		return fmt.Errorf("max_attempts %d: want 1 to %d", j.MaxAttempts, maxAttempts)
	}
	return text("trace", j.Trace, maxTrace)
}

// parse reads an entry's fields. The job has a usable ID where err says
// nothing of the ID; see ValidID.
func parse(fields map[string]string) (Job, error) {
	j := Job{ID: fields["id"], Payload: []byte(fields["payload"]), Trace: fields["trace"]}
	if err := j.Valid(); err != nil {
		return j, err
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
	if s := fields["not_before"]; s != "" {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(f) || f < 0 || f > maxNotBefore {
			return j, fmt.Errorf("not_before %.40q: want Unix time in seconds", s)
		}
		j.NotBefore = time.UnixMilli(int64(math.Round(f * 1000)))
	}
	return j, nil
}

// notBefore is when the job may begin, in ms as the scripts have it.
func (j *Job) notBefore() int64 {
	if j.NotBefore.IsZero() {
		return 0
	}
	return max(j.NotBefore.UnixMilli(), 0)
}

// enqueueScript puts a job in that is not known yet. Returns 1, or 0.
//
//	KEYS[1…12] as above
//	ARGV[1] the stream's number  ARGV[2] not before this time in ms, 0 for none
//	ARGV[3…] the entry's fields
var enqueueScript = newScript(library + `
if redis.call('EXISTS', job) == 1 then return 0 end
wait(stream, {unpack(ARGV, 3)})
redis.call('HSET', job, 'attempts', 0, 'home', stream, 'enqueued_ms', now)
if tonumber(ARGV[2]) > now then redis.call('HSET', job, 'state', 'delayed', 'due_ms', ARGV[2]) end
return 1`)

// Enqueue puts a job in. It returns false where the ID is known already,
// whatever became of that job: so a producer that is not sure whether its
// call arrived may call again.
func (q *Queue) Enqueue(ctx context.Context, j Job) (added bool, err error) {
	if err := j.Valid(); err != nil {
		return false, fmt.Errorf("cannot enqueue %.100q: %w", j.ID, err)
	}
	if j.Priority == 0 {
		j.Priority = Normal
	}
	if j.Priority < High || j.Priority > Low {
		return false, fmt.Errorf("cannot enqueue %s: no priority %d", j.ID, j.Priority)
	}
	args := []any{int(j.Priority), j.notBefore(), "id", j.ID, "payload", j.Payload}
	if j.Timeout > 0 {
		args = append(args, "timeout", strconv.FormatFloat(j.Timeout.Seconds(), 'f', -1, 64))
	}
	if j.MaxAttempts > 0 {
		args = append(args, "max_attempts", j.MaxAttempts)
	}
	if j.Trace != "" {
		args = append(args, "trace", j.Trace)
	}
	if at := j.notBefore(); at > 0 {
		args = append(args, "not_before", strconv.FormatFloat(float64(at)/1000, 'f', 3, 64))
	}
	n, err := enqueueScript.Run(ctx, q.redis, q.keys(j.ID), args...).Int()
	if err != nil {
		return false, fmt.Errorf("cannot enqueue %s: %w", j.ID, err)
	}
	return n == 1, nil
}

// States of a job.
const (
	Waiting   = "waiting"
	Delayed   = "delayed" // until its time has come, or its next attempt's
	Running   = "running"
	Succeeded = "succeeded"
	Dead      = "dead" // failed for good
	Cancelled = "cancelled"
)

// Reasons of a failure, beside those that a worker may give with Failure.
const (
	Failed    = "failed"    // the attempt failed
	Permanent = "permanent" // no attempt would do better
	Lost      = "lost"      // each attempt took its worker along
	Malformed = "malformed" // it was no job
)

// A Record is what Redis holds of a job. Times are Redis' own, zero where the
// thing has not happened.
type Record struct {
	State      string
	Attempts   int    // begun, without those that were handed back
	Worker     string // consumer of the last attempt
	Progress   string // as the job wrote it
	Result     string
	Error      string // of the last failed attempt
	Reason     string // of the same: a word, such as Failed
	Stderr     string // end of what that attempt wrote to stderr
	Cancelling bool   // it runs and is to be cancelled
	Enqueued   time.Time
	Due        time.Time // while it is delayed
	Started    time.Time // the last attempt
	Finished   time.Time
}

// recordFields are what a record is made of, without the result, which may be
// large.
var recordFields = []string{
	"state", "attempts", "worker", "progress", "error", "reason", "stderr", "cancel",
	"enqueued_ms", "due_ms", "started_ms", "finished_ms",
}

// record reads the values of recordFields; ok is false where there are none.
func record(values []any) (r Record, ok bool) {
	h := make(map[string]string, len(values))
	for i, v := range values[:len(recordFields)] {
		if s, known := v.(string); known {
			h[recordFields[i]] = s
		}
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
		Error: h["error"], Reason: h["reason"], Stderr: h["stderr"], Cancelling: h["cancel"] != "",
		Enqueued: at("enqueued_ms"), Due: at("due_ms"), Started: at("started_ms"), Finished: at("finished_ms"),
	}, len(h) > 0
}

// Get returns the record of a job. ok is false where none is known: it never
// was, no worker has seen it yet (see Find), or its time has run out.
func (q *Queue) Get(ctx context.Context, id string) (r Record, ok bool, err error) {
	values, err := q.redis.HMGet(ctx, q.JobKey(id), append(recordFields[:len(recordFields):len(recordFields)], "result")...).Result()
	if err != nil {
		return Record{}, false, fmt.Errorf("cannot read job %.100q: %w", id, err)
	}
	r, ok = record(values)
	r.Result, _ = values[len(recordFields)].(string)
	return r, ok, nil
}
