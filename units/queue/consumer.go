package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"gpuherd/units/redisclient"
)

// A Consumer claims jobs. It is for one goroutine, but for Listen and Wake.
//
// Its name must be that of no other living consumer, and should be the same
// after a restart: then the successor of a killed worker goes on at once with
// the job that was left, instead of waiting for the lease to run out.
type Consumer struct {
	// Duplicate, unless nil, is called by Claim and Finish for an entry that went without
	// being run, as its ID has a result already or waits or runs by another
	// entry.
	Duplicate func(id string)

	q    *Queue
	name string

	look    bool      // entries may be there, so ask before waiting
	own     bool      // entries may be held that were never seen, or by a predecessor
	expired time.Time // when leases that ran out are to be looked for
	due     time.Time // when the next delayed job is to be looked for; zero: none is known
	read    []*entry  // read, and not known to have begun
	seat    seat      // where to wait
	renew   time.Time // when the seat is to be asked for again
	nonce   string    // of this consumer alone
	claims  int       // how many claims the caller was given

	current atomic.Pointer[[]*Claim] // those that it was given last, for Listen
	waits   atomic.Int64             // by the connection with this ID; 0: it does not, or Wake cannot know
	woken   atomic.Bool              // Wake was called since a wait ended
	fixed   bool                     // Redis does not let anybody end a wait
	streams bool                     // it is to wait at the streams only, as Redis refuses standby
}

// Consumer returns the consumer name of the queue.
func (q *Queue) Consumer(name string) *Consumer {
	return &Consumer{q: q, name: name, look: true, own: true, nonce: strconv.FormatUint(rand.Uint64(), 36)}
}

// Name returns the consumer's name.
func (c *Consumer) Name() string { return c.name }

// Leave is GiveUpSeat, and makes Redis forget the consumer's name unless it
// holds entries. It is for names that nobody will have again.
func (c *Consumer) Leave(ctx context.Context) error {
	if err := c.GiveUpSeat(ctx); err != nil {
		return err
	}
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
	if claim != nil {
		c.given(claim)
	}
	return claim, err
}

// given notes that the caller has claims.
func (c *Consumer) given(claims ...*Claim) {
	c.claims += len(claims)
	c.current.Store(&claims)
}

func (c *Consumer) claim(ctx context.Context) (*Claim, error) {
	if len(c.read) > 0 {
		return c.begin(ctx, false)
	}
	now := time.Now()
	if c.look || c.own || now.After(c.expired) || c.seat == hasSeat && now.After(c.renew) || !c.due.IsZero() && !now.Before(c.due) {
		claim, none, err := c.take(ctx)
		if c.look = !none; c.look || err != nil {
			return claim, err
		}
	}
	if err := c.wait(ctx); err != nil || len(c.read) == 0 {
		return nil, err
	}
	c.look = true
	return c.begin(ctx, false)
}

// Finish is FinishAll of one, and claims one.
func (c *Consumer) Finish(ctx context.Context, claim *Claim, result []byte) (next *Claim, err error) {
	all, lost, err := c.FinishAll(ctx, []Done{{claim, result}}, 1)
	if len(lost) > 0 {
		return nil, claim.outcome("finish", 0, nil)
	}
	if len(all) > 0 {
		next = all[0]
	}
	return next, err
}

// A Done is a claim whose job has come to its end well.
type Done struct {
	Claim  *Claim
	Result []byte
}

// FinishAll ends claims of the consumer as Claim.Finish does, and claims up to
// most jobs in the same round trip, as far as they can be run at once. Those
// that it begins together are for jobs that take less time than a round trip is
// worth: the caller has them one after the other, each with a lease that began
// with the first. Should the caller be lost then, that costs none of them an
// attempt but those that were renewed, as nobody knows which of them it was, and
// each is then given alone.
//
// lost are those of done whose lease is lost, and if there are any nothing is
// claimed. After an error the same may be called again. Where next is empty,
// Claim tells why.
func (c *Consumer) FinishAll(ctx context.Context, done []Done, most int) (next []*Claim, lost []*Claim, err error) {
	if len(c.read) > 0 {
		most = 0 // those come first
	}
	t := c.asking(most)
	list, lost, err := c.q.finish(ctx, c.name, done, t)
	if redisclient.Code(err) == "NOGROUP" {
		if err = c.q.createGroups(ctx); err == nil {
			list, lost, err = c.q.finish(ctx, c.name, done, t)
		}
	}
	if err != nil {
		c.look, c.own = true, true
		return nil, nil, err
	}
	if most == 0 || len(lost) > 0 {
		return nil, lost, nil
	}
	next, none, trouble := c.taken(t, list)
	c.look = !none
	switch {
	case trouble != nil: // Claim will tell
		c.own = true
	case len(next) > 0:
		c.given(next...)
	}
	return next, nil, nil
}

// Unbegun is how many entries the consumer holds of which FinishAll made no
// claims: they are for Claim to begin, one after the other.
func (c *Consumer) Unbegun() int { return len(c.read) }

// PutBack hands back what is unbegun. Those jobs are the next that anybody
// claims. After an error it may be called again.
func (c *Consumer) PutBack(ctx context.Context) error {
	for len(c.read) > 0 {
		if _, err := c.begin(ctx, true); err != nil && !errors.Is(err, ErrPaused) {
			c.look, c.own = true, true
			return fmt.Errorf("cannot hand back %d entries: %w", len(c.read), err)
		}
	}
	return nil
}

// finish ends the claims of a consumer and takes others. It returns what of the
// script's answer is about the latter.
func (q *Queue) finish(ctx context.Context, consumer string, done []Done, t asking) (taken []any, lost []*Claim, err error) {
	keys := q.shared[:len(q.shared):len(q.shared)]
	args := append([]any{"", "", consumer, ""}, t.args(q)...)
	for _, d := range done {
		if err := fits(d.Result); err != nil {
			return nil, nil, d.Claim.outcome("finish", 0, err)
		}
		keys = append(keys, q.JobKey(d.Claim.ID))
		args = append(args, int(d.Claim.entry.stream), d.Claim.entry.id, d.Claim.entry.deliveries, d.Result)
	}
	list, err := takeScript.Run(ctx, q.redis, keys, args...).Slice()
	a := answer{list: list}
	told := a.text()
	if err == nil && (a.bad || len(told) != len(done)) {
		err = fmt.Errorf("script answered %.200v", list)
	}
	if err != nil {
		if len(done) == 1 {
			err = done[0].Claim.outcome("finish", 0, err)
		} else if len(done) > 1 {
			err = fmt.Errorf("cannot finish %d jobs: %w", len(done), err)
		}
		return nil, nil, err
	}
	for i, d := range done {
		if told[i] == '0' {
			lost = append(lost, d.Claim)
		}
	}
	return a.list, lost, nil
}

// An asking is how takeScript is asked for what is there. The zero value asks
// for nothing.
type asking struct {
	token string
	own   bool          // for what the consumer holds, too
	lease time.Duration // and for leases of this length that ran out, unless 0
	most  int
	room  int
	seat  seat
}

func (c *Consumer) asking(most int) asking {
	t := asking{token: c.token(), own: c.own, most: most, room: c.room(), seat: c.seat}
	if time.Now().After(c.expired) {
		t.lease = max(c.q.opts.Lease, time.Millisecond)
	}
	return t
}

// args returns ARGV 5 to 12.
func (t asking) args(q *Queue) []any {
	own := "0"
	if t.own {
		own = "1"
	}
	return []any{q.opts.MaxAttempts, q.ttl(), t.token, own, t.lease.Milliseconds(), t.most, t.room, string(t.seat)}
}

// take claims an entry that is there now; none says that there is none.
func (c *Consumer) take(ctx context.Context) (claim *Claim, none bool, err error) {
	t := c.asking(1)
	list, _, err := c.q.finish(ctx, c.name, nil, t)
	if err != nil {
		return nil, false, err
	}
	claims, none, err := c.taken(t, list)
	switch {
	case err != nil:
		return nil, false, err
	case len(claims) > 0:
		return claims[0], false, nil
	case len(c.read) > 0:
		claim, err = c.begin(ctx, false)
	}
	return claim, none, err
}

// taken makes of a script's answer claims, and entries that are read and not
// begun.
func (c *Consumer) taken(t asking, list []any) (claims []*Claim, none bool, err error) {
	for a := (answer{list: list}); len(a.list) > 0; {
		switch verdict := a.text(); verdict {
		case "paused":
			return nil, false, ErrPaused
		case "none":
			none = true
			c.due = time.Time{}
			if ms := a.number(); ms >= 0 {
				c.due = time.Now().Add(time.Duration(ms) * time.Millisecond)
			}
			c.seated(seat(a.text()))
			c.looked(1, t.lease > 0)
		case "run", "read":
			c.left()
			e := &entry{stream: Priority(a.number()), id: a.text(), deliveries: a.number()}
			n := a.number()
			e.fields = a.counted()
			if a.bad {
				break
			}
			c.looked(e.deliveries, t.lease > 0)
			if verdict == "run" {
				if job, err := parse(e.fields); err == nil {
					claims = append(claims, c.begun(job, e, n))
					continue
				}
			} else {
				e.bytes = n
			}
			c.read = append(c.read, e)
		default:
			c.left()
			c.looked(a.number(), t.lease > 0)
			c.gone(verdict, a.text())
		}
		if a.bad {
			return nil, false, fmt.Errorf("script answered %.200v", list)
		}
	}
	return claims, none, nil
}

// looked notes what a take found. A first delivery says that nothing was left
// of what the consumer held, and of what ran out if that was looked for.
func (c *Consumer) looked(deliveries int64, expired bool) {
	if deliveries > 1 {
		// The consumer held it, then, and may hold more.
		c.own = c.own || !expired
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

// args returns ARGV 1 to 4 of the scripts.
func (e *entry) args(consumer string, more ...any) []any {
	return append([]any{int(e.stream), e.id, consumer, e.deliveries}, more...)
}

// begin makes a claim of what was read first, or with back has it wait again as
// if the queue were paused. Until Redis has answered the entry stays in c.read,
// for the next call.
func (c *Consumer) begin(ctx context.Context, back bool) (*Claim, error) {
	e := c.read[0]
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
	wait := "0"
	if back {
		wait = "1"
	}
	r, err := startScript.Run(ctx, c.q.redis, c.q.keys(job.ID), e.args(c.name, limit, c.q.ttl(), c.token(), job.notBefore(), wait, string(c.seat))...).Slice()
	if err != nil {
		return nil, err
	}
	c.read = c.read[1:]
	c.left()
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
	err := buryScript.Run(ctx, c.q.redis, c.q.keys(id), c.read[0].args(c.name, why.Error(), valid, c.q.ttl())...).Err()
	if err == nil {
		c.read = c.read[1:]
	}
	return err
}

func (q *Queue) ttl() string {
	return strconv.FormatInt(max(q.opts.ResultTTL.Milliseconds(), 1), 10)
}
