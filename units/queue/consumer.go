package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/redisclient"
)

// A Consumer claims jobs, one after the other. It is for one goroutine, but
// for Listen.
//
// Its name must be that of no other living consumer, and should be the same
// after a restart: then the successor of a killed worker goes on at once with
// the job that was left, instead of waiting for the lease to run out.
type Consumer struct {
	// Duplicate, unless nil, is called by Claim for an entry that went without
	// being run, as its ID has a result already or waits or runs by another
	// entry.
	Duplicate func(id string)

	q    *Queue
	name string

	look    bool      // entries may be there, so ask before waiting
	own     bool      // entries may be held that were never seen, or by a predecessor
	expired time.Time // when leases that ran out are to be looked for
	due     time.Time // when the next delayed job is to be looked for; zero: none is known
	read    *entry    // read, and not known to have begun
	nonce   string    // of this consumer alone
	claims  int       // how many claims the caller was given

	current atomic.Pointer[Claim] // the last of them, for Listen
}

// Consumer returns the consumer name of the queue.
func (q *Queue) Consumer(name string) *Consumer {
	return &Consumer{q: q, name: name, look: true, own: true, nonce: strconv.FormatUint(rand.Uint64(), 36)}
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
// where none came: also where what came is no job, or not yet, or no more.
// ErrPaused comes at once. After any other error the consumer goes on with
// what it may have been given without hearing of it; that costs no attempt.
//
// Order: what the consumer holds already, what another's lease ran out on
// (looked for every sixth of a lease), then new jobs by priority.
//
// A delayed job is claimed when its time has come, or up to a sixth of a lease
// later where all workers that knew the time are busy.
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
	c.given(claim)
	return claim, err
}

// given notes that the caller has a claim, unless it is nil.
func (c *Consumer) given(claim *Claim) {
	if claim != nil {
		c.claims++
		c.current.Store(claim)
	}
}

func (c *Consumer) claim(ctx context.Context) (*Claim, error) {
	if c.read != nil {
		return c.begin(ctx)
	}
	now := time.Now()
	if c.look || c.own || now.After(c.expired) || !c.due.IsZero() && !now.Before(c.due) {
		claim, none, err := c.take(ctx)
		if c.look = !none; c.look || err != nil {
			return claim, err
		}
	}
	if err := c.wait(ctx); err != nil || c.read == nil {
		return nil, err
	}
	c.look = true
	return c.begin(ctx)
}

// Finish ends a claim as Claim.Finish does, and claims the next job in the same
// round trip where there is one that can be run at once. err is about the
// former alone: after one other than ErrLost the same may be called again.
// Where next is nil, Claim tells why.
func (c *Consumer) Finish(ctx context.Context, claim *Claim, result []byte) (next *Claim, err error) {
	n := 0
	defer func() { err = claim.outcome("finish", n, err) }()
	if err := fits(result); err != nil {
		return nil, err
	}
	t := c.asking()
	list, err := finishTakeScript.Run(ctx, c.q.redis, claim.keys(), claim.args(append(t.args, result)...)...).Slice()
	if err != nil {
		c.look, c.own = true, true
		return nil, err
	}
	if len(list) == 1 && list[0] == "lost" {
		return nil, nil
	}
	n = 1
	next, none, err := c.taken(ctx, t, list)
	c.look = !none
	if err != nil { // of what was taken, which Claim will tell
		c.own = true
		return nil, nil
	}
	c.given(next)
	return next, nil
}

// An asking is how takeScript is asked.
type asking struct {
	expired bool  // for leases that ran out, too
	args    []any // ARGV from 5
}

func (c *Consumer) asking() asking {
	own, lease := "0", int64(0)
	if c.own {
		own = "1"
	}
	t := asking{expired: time.Now().After(c.expired)}
	if t.expired {
		lease = max(c.q.opts.Lease.Milliseconds(), 1)
	}
	t.args = []any{c.q.opts.MaxAttempts, c.q.ttl(), c.token(), own, lease}
	return t
}

// take claims an entry that is there now; none says that there is none.
func (c *Consumer) take(ctx context.Context) (claim *Claim, none bool, err error) {
	t := c.asking()
	list, err := takeScript.Run(ctx, c.q.redis, c.q.shared, append([]any{"", "", c.name, ""}, t.args...)...).Slice()
	if err != nil {
		return nil, false, err
	}
	return c.taken(ctx, t, list)
}

// taken makes of a script's answer what take returns.
func (c *Consumer) taken(ctx context.Context, t asking, list []any) (claim *Claim, none bool, err error) {
	a := answer{list: list}
	verdict := a.text()
	switch verdict {
	case "paused":
		return nil, false, ErrPaused
	case "none":
		none = true
		c.due = time.Time{}
		if ms := a.number(); ms >= 0 {
			c.due = time.Now().Add(time.Duration(ms) * time.Millisecond)
		}
		c.looked(1, t.expired)
	case "run", "read":
		e := &entry{stream: Priority(a.number()), id: a.text(), deliveries: a.number()}
		n := a.number()
		if e.fields = a.rest(); a.bad {
			break
		}
		c.looked(e.deliveries, t.expired)
		job, bad := parse(e.fields)
		if verdict == "run" && bad == nil {
			return c.begun(job, e, n), false, nil
		}
		if verdict == "read" {
			e.bytes = n
		}
		c.read = e
		claim, err = c.begin(ctx)
	default:
		c.looked(a.number(), t.expired)
		c.gone(verdict, a.text())
	}
	if a.bad {
		return nil, false, fmt.Errorf("script answered %.200v", list)
	}
	return claim, none, err
}

// looked notes what a take found. A first delivery says that nothing was left
// of what the consumer held, and of what ran out if that was looked for.
func (c *Consumer) looked(deliveries int64, expired bool) {
	if deliveries > 1 {
		return
	}
	c.own = false
	if expired {
		// Not all workers at once.
		sixth := c.q.opts.Lease / 6
		c.expired = time.Now().Add(sixth*3/4 + rand.N(sixth/2+1))
	}
}

// begun makes a claim of an entry whose attempt has begun.
func (c *Consumer) begun(job Job, e *entry, attempt int64) *Claim {
	job.Priority = e.stream
	if job.MaxAttempts == 0 {
		job.MaxAttempts = c.q.opts.MaxAttempts
	}
	return &Claim{Job: job, Attempt: int(attempt), q: c.q, consumer: c.name, entry: *e, cancelled: make(chan struct{})}
}

// gone notes what became of an entry that is not to be run.
func (c *Consumer) gone(verdict, id string) {
	if c.Duplicate != nil && (verdict == "ended" || verdict == "duplicate") {
		c.Duplicate(id)
	}
}

// token tells the scripts which of the consumer's claims an attempt is for.
// It changes once the caller has the claim.
func (c *Consumer) token() string { return c.nonce + "-" + strconv.Itoa(c.claims) }

// block returns how long to wait for an entry. It is not the same each time:
// consumers that began to wait together would all ask again together, and a job
// that comes then is held up by them.
func (c *Consumer) block() time.Duration {
	block := c.q.opts.Block - rand.N(c.q.opts.Block/4+1)
	if !c.due.IsZero() {
		block = max(min(block, time.Until(c.due)), 0).Truncate(time.Millisecond) + time.Millisecond
	}
	return block
}

// breath returns how long to do nothing after a wait that brought nothing.
func (c *Consumer) breath() time.Duration { return rand.N(c.q.opts.Block/100 + 1) }

// pause lets others go first. Redis ends waits that are over only when it is
// awake, and mostly it is the next job that wakes it: the end of all those waits
// goes out with the job, and were they all to ask again at once, the one who
// has the job would have to wait for them before it can begin.
func (c *Consumer) pause(ctx context.Context) {
	t := time.NewTimer(c.breath())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// wait blocks until an entry comes. The three streams were empty a moment ago:
// should two get one in between, Redis gives both, and the later is put back.
func (c *Consumer) wait(ctx context.Context) error {
	block := c.block()
	// The block is Redis' to keep; some more tells that it is away.
	ctx, cancel := context.WithTimeout(ctx, block+2*time.Second)
	defer cancel()
	streams, err := c.q.redis.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: Group, Consumer: c.name, Count: 1, Block: block,
		Streams: append(c.q.shared[:3:3], ">", ">", ">"),
	}).Result()
	if errors.Is(err, redis.Nil) {
		if c.due.IsZero() || time.Now().Before(c.due) {
			c.pause(ctx)
		}
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
			if err := putBackScript.Run(ctx, c.q.redis, c.q.shared, e.args(c.name)...).Err(); err != nil {
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
	limit := job.MaxAttempts
	if limit == 0 {
		limit = c.q.opts.MaxAttempts
	}
	r, err := startScript.Run(ctx, c.q.redis, c.q.keys(job.ID), e.args(c.name, limit, c.q.ttl(), c.token(), job.notBefore())...).Slice()
	if err != nil {
		return nil, err
	}
	c.read = nil
	a := answer{list: r}
	verdict, attempt := a.text(), a.number()
	switch {
	case a.bad:
		return nil, fmt.Errorf("script answered %.200v", r)
	case verdict == "run":
		return c.begun(job, e, attempt), nil
	case verdict == "paused":
		return nil, ErrPaused
	}
	c.gone(verdict, job.ID)
	return nil, nil
}

func (c *Consumer) bury(ctx context.Context, id string, why error) error {
	valid := "1"
	if ValidID(id) != nil {
		valid, id = "0", "" // a key that nothing is written to
	}
	err := buryScript.Run(ctx, c.q.redis, c.q.keys(id), c.read.args(c.name, why.Error(), valid, c.q.ttl())...).Err()
	if err == nil {
		c.read = nil
	}
	return err
}

func (q *Queue) ttl() string {
	return strconv.FormatInt(max(q.opts.ResultTTL.Milliseconds(), 1), 10)
}
