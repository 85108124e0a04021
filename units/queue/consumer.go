package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/redisclient"
)

// A Consumer claims jobs, one after the other. It is for one goroutine.
//
// Its name must be that of no other living consumer, and should be the same
// after a restart: then the successor of a killed worker goes on at once with
// the job that was left, instead of waiting for the lease to run out.
type Consumer struct {
	// Duplicate, unless nil, is called by Claim for an entry that went without
	// being run, as its ID has a result already or runs by another entry.
	Duplicate func(id string)

	q    *Queue
	name string

	look    bool      // entries may be there, so ask before waiting
	own     bool      // entries may be held that were never seen, or by a predecessor
	expired time.Time // when leases that ran out are to be looked for
	read    *entry    // read, and not known to have begun
}

// Consumer returns the consumer name of the queue.
func (q *Queue) Consumer(name string) *Consumer {
	return &Consumer{q: q, name: name, look: true, own: true}
}

// Name returns the consumer's name.
func (c *Consumer) Name() string { return c.name }

// Leave makes Redis forget the consumer's name, unless it holds entries. It is
// for names that nobody will have again.
func (c *Consumer) Leave(ctx context.Context) error {
	if err := leaveScript.Run(ctx, c.q.redis, c.q.shared[:3], c.name).Err(); err != nil {
		return fmt.Errorf("cannot leave queue: %w", err)
	}
	return nil
}

type entry struct {
	stream     Priority
	id         string
	deliveries int64
	bytes      int64 // of all fields, where they are above the limit
	fields     map[string]string
}

// Claim waits up to Options.Block for a job, and returns nil without an error
// where none came; what is no job is on its way to Q:dead then, and what is a
// job's second entry is gone. ErrPaused comes at once. After any other error the consumer goes on with what it may
// have been given without hearing of it.
//
// Order: what the consumer holds already, what another's lease ran out on
// (looked for every sixth of a lease), then new jobs by priority.
func (c *Consumer) Claim(ctx context.Context) (*Claim, error) {
	claim, err := c.claim(ctx)
	if redisclient.Code(err) == "NOGROUP" {
		if err = c.q.createGroups(ctx); err == nil {
			claim, err = c.claim(ctx)
		}
	}
	if err != nil && !errors.Is(err, ErrPaused) {
		c.look, c.own = true, true
		return nil, fmt.Errorf("cannot claim a job: %w", err)
	}
	return claim, err
}

func (c *Consumer) claim(ctx context.Context) (*Claim, error) {
	if c.read != nil {
		return c.begin(ctx)
	}
	if c.look || c.own || time.Now().After(c.expired) {
		if err := c.take(ctx); err != nil {
			return nil, err
		}
		if c.read != nil {
			c.look = true
			return c.begin(ctx)
		}
		c.look = false
	}
	if err := c.wait(ctx); err != nil || c.read == nil {
		return nil, err
	}
	c.look = true
	return c.begin(ctx)
}

// take asks for an entry that is there now.
func (c *Consumer) take(ctx context.Context) error {
	own, lease := "0", int64(0)
	if c.own {
		own = "1"
	}
	look := time.Now().After(c.expired)
	if look {
		lease = max(c.q.opts.Lease.Milliseconds(), 1)
	}
	keys := slices.Concat(c.q.shared[:3], []string{c.q.Key("paused")})
	r, err := takeScript.Run(ctx, c.q.redis, keys, c.name, own, lease, maxEntry, maxFields).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	if r == "paused" {
		return ErrPaused
	}
	if err == nil {
		if c.read, err = answer(r); err != nil {
			return err
		}
	}
	if c.read == nil || c.read.deliveries == 1 {
		// Nothing was left of what the consumer held and what ran out.
		c.own = false
		if look {
			// Not all workers at once.
			sixth := c.q.opts.Lease / 6
			c.expired = time.Now().Add(sixth*3/4 + rand.N(sixth/2+1))
		}
	}
	return nil
}

// answer reads what takeScript gives.
func answer(r any) (*entry, error) {
	a, ok := r.([]any)
	if !ok || len(a) != 5 {
		return nil, fmt.Errorf("script answered %v", r)
	}
	stream, ok1 := a[0].(int64)
	id, ok2 := a[1].(string)
	deliveries, ok3 := a[2].(int64)
	bytes, ok4 := a[3].(int64)
	list, ok5 := a[4].([]any)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return nil, fmt.Errorf("script answered %v", r)
	}
	e := &entry{stream: Priority(stream), id: id, deliveries: deliveries, bytes: bytes, fields: make(map[string]string, len(list)/2)}
	for i := 0; i+1 < len(list); i += 2 {
		name, _ := list[i].(string)
		value, _ := list[i+1].(string)
		e.fields[name] = value
	}
	return e, nil
}

// wait blocks until an entry comes. The three streams were empty a moment ago:
// should two get one in between, Redis gives both, and the later is put back.
func (c *Consumer) wait(ctx context.Context) error {
	// The block is Redis' to keep; a second more tells that it is away.
	ctx, cancel := context.WithTimeout(ctx, c.q.opts.Block+2*time.Second)
	defer cancel()
	streams, err := c.q.redis.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: Group, Consumer: c.name, Count: 1, Block: c.q.opts.Block,
		Streams: append(c.q.shared[:3:3], ">", ">", ">"),
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range streams {
		for _, m := range s.Messages {
			e := &entry{id: m.ID, deliveries: 1, fields: make(map[string]string, len(m.Values))}
			for i, key := range c.q.shared[:3] {
				if key == s.Stream {
					e.stream = Priority(i + 1)
				}
			}
			var bytes int64
			for name, value := range m.Values {
				v, _ := value.(string)
				e.fields[name] = v
				bytes += int64(len(name) + len(v))
			}
			if bytes > maxEntry || len(e.fields) > maxFields {
				e.bytes = bytes
			}
			if c.read == nil {
				c.read = e
				continue
			}
			if err := putBackScript.Run(ctx, c.q.redis, c.q.shared[:3], e.args(c.name)...).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// args returns ARGV 1 to 4 of the scripts.
func (e *entry) args(consumer string, more ...any) []any {
	return append([]any{int(e.stream), e.id, consumer, e.deliveries}, more...)
}

// begin makes a claim of what was read. Until Redis has answered the entry
// stays in c.read, for the next call.
func (c *Consumer) begin(ctx context.Context) (*Claim, error) {
	e := c.read
	job, err := parse(e.fields)
	if e.bytes > 0 && ValidID(job.ID) == nil {
		err = fmt.Errorf("entry of %d bytes in all, or of too many fields: at most %d and %d are allowed", e.bytes, maxEntry, maxFields)
	}
	if err != nil {
		return nil, c.bury(ctx, job.ID, err)
	}
	job.Priority = e.stream
	if job.MaxAttempts == 0 {
		job.MaxAttempts = c.q.opts.MaxAttempts
	}
	r, err := startScript.Run(ctx, c.q.redis, c.q.keys(job.ID), e.args(c.name, job.MaxAttempts, c.q.ttl())...).Slice()
	if err != nil {
		return nil, err
	}
	c.read = nil
	if len(r) != 2 {
		return nil, fmt.Errorf("script answered %v", r)
	}
	switch attempt, _ := r[1].(int64); r[0] {
	case "run":
		return &Claim{Job: job, Attempt: int(attempt), q: c.q, consumer: c.name, entry: *e}, nil
	case "paused":
		return nil, ErrPaused
	case "ended", "duplicate":
		if c.Duplicate != nil {
			c.Duplicate(job.ID)
		}
	}
	return nil, nil
}

func (c *Consumer) bury(ctx context.Context, id string, why error) error {
	valid := "0"
	key := "" // a key of the same slot that nothing is written to
	if ValidID(id) == nil {
		valid, key = "1", id
	}
	err := buryScript.Run(ctx, c.q.redis, c.q.keys(key), c.read.args(c.name, why.Error(), valid, c.q.ttl())...).Err()
	if err == nil {
		c.read = nil
	}
	return err
}

func (q *Queue) ttl() string {
	return strconv.FormatInt(max(q.opts.ResultTTL.Milliseconds(), 1), 10)
}
