// Package queue is the job queue on Redis streams. Any language puts a job in
// with one command and without this package:
//
//	XADD gpuherd:queue:{gpu}:jobs * id job-1 payload '{"prompt":"a horse"}'
//
// A consumer claims an entry and with it a lease, which runs on Redis' clock
// and which it renews; an entry whose lease ran out is anybody's. Every write
// about a job is one Lua script, fenced by the entry's owner and its delivery
// count, so that who lost the lease changes nothing any more. A job runs at
// least once, and is finished once.
//
// The keys, with Q for PREFIX:queue:{NAME}; the braces keep all of a queue in
// one slot of a Cluster:
//
//	Q:jobs:high, Q:jobs, Q:jobs:low  streams with the group "workers": jobs that wait or run
//	Q:job:ID                         hash: what is known of a job
//	Q:delayed                        zset: jobs whose time has not come, by that time in ms
//	Q:dead                           stream: jobs that failed for good, and what was no job
//	Q:ended                          zset: jobs that ended, by the time in ms when their hash goes
//	Q:counts                         hash: what happened since ever, and in each minute of the last hour
//	Q:idle                           zset: in a crowd, the consumers that wait at the streams, by the time in ms until which their seats are kept
//	Q:standby                        list: an element calls a consumer of the others there
//	Q:paused                         while it exists nothing is claimed
//	Q:cancel                         channel: IDs of running jobs that are to be cancelled
package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/redis/go-redis/v9"
)

// Group is the consumer group of the three streams.
const Group = "workers"

// Limits of an entry. What is above goes to Q:dead.
const (
	MaxPayload  = 256 << 10 // bytes
	MaxID       = 256       // bytes
	maxFields   = 32
	maxEntry    = MaxPayload + 16<<10 // bytes of all fields, names and values
	maxAttempts = 1000                // an entry's max_attempts
	maxTimeout  = 30 * 24 * time.Hour // an entry's timeout
	maxTrace    = 1024                // bytes
	// Seconds; the present in milliseconds is above it, in seconds far below.
	maxNotBefore = 1e11
)

// Errors that a caller branches on.
var (
	// ErrLost: the lease is another's. Whatever the job did must not be told.
	ErrLost = errors.New("lease is lost")
	// ErrPaused: the queue is paused, nothing is claimed.
	ErrPaused = errors.New("queue is paused")
	// ErrUnknown: no job of that ID is known.
	ErrUnknown = errors.New("no such job")
	// ErrState: what was asked for cannot be done in the job's state.
	ErrState = errors.New("its state does not allow that")
)

// Priority tells which of the three streams a job waits in.
type Priority int

// Priorities, as the scripts number the streams.
const (
	High Priority = iota + 1
	Normal
	Low
)

// Options of a queue. The zero value has the defaults.
type Options struct {
	Lease       time.Duration // how long a claim holds without renewal: 30 s
	Block       time.Duration // how long Claim waits for an entry, or up to a quarter less: 3 s, and twice as long in a crowd of idle ones; then it pauses for up to a hundredth of it. See Wake
	MaxAttempts int           // of a job that does not say: 3
	ResultTTL   time.Duration // how long a job's hash stays once it has ended: 24 h

	// How long a failed job is delayed: RetryMin, 1 s, after its first attempt,
	// twice as long each time up to RetryMax, 5 min, of which a random half is
	// taken off.
	RetryMin, RetryMax time.Duration
}

// A Queue is one queue of jobs. It is safe for concurrent use.
type Queue struct {
	redis  redis.UniversalClient
	base   string
	shared []string // KEYS 1 to 11 of the scripts
	room   int      // atStreams
	opts   Options
}

// New returns the queue name below prefix ("gpuherd"). It sends nothing.
func New(client redis.UniversalClient, prefix, name string, opts Options) (*Queue, error) {
	for what, s := range map[string]string{"queue": name, "prefix": prefix} {
		if s == "" || strings.ContainsAny(s, "{}") || strings.ContainsFunc(s, unicode.IsControl) {
			return nil, fmt.Errorf("%s %q: want a name without braces and control characters", what, s)
		}
	}
	if opts.Lease <= 0 {
		opts.Lease = 30 * time.Second
	}
	if opts.Block <= 0 {
		opts.Block = 3 * time.Second
	}
	if opts.MaxAttempts <= 0 {
		opts.MaxAttempts = 3
	}
	if opts.ResultTTL <= 0 {
		opts.ResultTTL = 24 * time.Hour
	}
	if opts.RetryMin <= 0 {
		opts.RetryMin = time.Second
	}
	if opts.RetryMax <= 0 {
		opts.RetryMax = 5 * time.Minute
	}
	q := &Queue{redis: client, base: prefix + ":queue:{" + name + "}", room: atStreams, opts: opts}
	for _, name := range []string{"jobs:high", "jobs", "jobs:low", "dead", "paused", "delayed", "ended", "counts"} {
		q.shared = append(q.shared, q.Key(name))
	}
	q.shared = append(q.shared, q.JobKey(""), q.Key("idle"), q.Key("standby"))
	return q, nil
}

// Key returns a key of the queue: Key("jobs"), Key("dead").
func (q *Queue) Key(name string) string { return q.base + ":" + name }

// JobKey returns the key of a job's hash.
func (q *Queue) JobKey(id string) string { return q.base + ":job:" + id }

// Lease returns how long a claim holds without renewal.
func (q *Queue) Lease() time.Duration { return q.opts.Lease }

func (q *Queue) stream(p Priority) string { return q.shared[p-1] }

// keys returns what every script about one job has as KEYS.
func (q *Queue) keys(id string) []string {
	return append(q.shared[:len(q.shared):len(q.shared)], q.JobKey(id))
}

// Pause makes all workers claim nothing until Resume. Running jobs go on.
func (q *Queue) Pause(ctx context.Context) error {
	if err := q.redis.Set(ctx, q.Key("paused"), "1", 0).Err(); err != nil {
		return fmt.Errorf("cannot pause queue: %w", err)
	}
	return nil
}

// Resume ends a Pause.
func (q *Queue) Resume(ctx context.Context) error {
	if err := q.redis.Del(ctx, q.Key("paused")).Err(); err != nil {
		return fmt.Errorf("cannot resume queue: %w", err)
	}
	return nil
}

// createGroups makes the group in each stream, from its beginning: jobs may
// have been put in before the first worker came.
func (q *Queue) createGroups(ctx context.Context) error {
	for _, stream := range q.shared[:3] {
		err := q.redis.XGroupCreateMkStream(ctx, stream, Group, "0").Err()
		if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
			return fmt.Errorf("cannot create group of %s: %w", stream, err)
		}
	}
	return nil
}
