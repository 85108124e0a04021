package queue

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// TestNobodyIsForgottenOnStandby lets the workers of a crowd and the world take
// their steps in every order, by the real scripts in a real Redis. As long as
// nobody dies, a job that waits has somebody who is about to take it: a worker
// that is awake, or one that waits at the streams, or one on standby that is
// called.
func TestNobodyIsForgottenOnStandby(t *testing.T) {
	t.Parallel()
	for _, room := range []int{1, 2} {
		t.Run(fmt.Sprintf("room for %d", room), func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, "--appendonly", "no").Client(t, redisclient.WithPoolSize(2))
			q, err := New(client, "gpuherd", "gpu", Options{Lease: modelLease, Block: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			q.room = room
			c := &crowd{t: t, q: q, redis: client, seen: map[string]bool{}}
			c.explore(3)
		})
	}
}

// crowdJobs is how many jobs come to the crowd.
const crowdJobs = 3

// A crowd is some workers of one queue.
type crowd struct {
	t     *testing.T
	q     *Queue
	redis redis.UniversalClient
	seen  map[string]bool
	steps int
}

// A moment is one state of the crowd. What is in Redis is a copy of its keys.
type moment struct {
	keys    map[string]string
	members []member
	jobs    int // that there may yet be
	path    []string

	unread bool // there is an entry that nobody was given
	calls  int64
	seats  []string
}

// A member is a worker of a crowd.
type member struct {
	does  string // awake, at the streams, on standby, has read, works, is gone
	seat  seat
	read  []*entry
	claim *Claim
}

func (c *crowd) explore(members int) {
	start := moment{jobs: crowdJobs}
	c.must(c.q.createGroups(c.t.Context()))
	for i := range members {
		start.members = append(start.members, member{does: "awake", seat: noSeat})
		c.must(c.redis.XGroupCreateConsumer(c.t.Context(), c.q.Key("jobs"), Group, memberName(i)).Err())
	}
	c.check(&start)
	for level := []moment{start}; len(level) > 0; {
		var next []moment
		for _, m := range level {
			for _, step := range c.stepsOf(m) {
				n := m
				n.members, n.path = slices.Clone(m.members), append(slices.Clone(m.path), step.name)
				c.restore(m)
				step.take(&n)
				c.steps++
				if key := c.check(&n); !c.seen[key] {
					c.seen[key] = true
					next = append(next, n)
				}
				if c.t.Failed() {
					return
				}
			}
		}
		level = next
	}
	c.t.Logf("%d states, %d steps", len(c.seen), c.steps)
}

func memberName(i int) string { return string(rune('a' + i)) }

type crowdStep struct {
	name string
	take func(*moment)
}

// stepsOf returns what may happen next.
func (c *crowd) stepsOf(m moment) (steps []crowdStep) {
	ctx := c.t.Context()
	for i := range m.members {
		step := func(what string, do func(*member, *Consumer)) {
			steps = append(steps, crowdStep{memberName(i) + " " + what, func(m *moment) {
				a := &m.members[i]
				w := &Consumer{q: c.q, name: memberName(i), seat: a.seat, read: a.read, nonce: memberName(i), expired: time.Now().Add(time.Hour)}
				do(a, w)
				a.seat, a.read = w.seat, w.read
			}})
		}
		// begins goes on with a claim, or to where to wait.
		begins := func(a *member, w *Consumer, claim *Claim) {
			switch a.claim = claim; {
			case claim != nil:
				a.does = "works"
			case w.standsBy():
				a.does = "on standby"
				if n := c.redis.LLen(ctx, c.q.Key("standby")).Val(); n > 0 {
					c.t.Errorf("after %s:\n%s is to stand by, and %d are called", strings.Join(m.path, ", "), w.name, n)
				}
			default:
				a.does = "at the streams"
			}
		}
		if does := m.members[i].does; i == 0 && (does == "awake" || does == "at the streams") {
			step("stops", func(a *member, w *Consumer) {
				c.must(w.GiveUpSeat(ctx))
				a.seat, a.does = w.seat, "is gone"
			})
		}
		switch m.members[i].does {
		case "awake":
			step("looks", func(a *member, w *Consumer) {
				claim, _, err := w.take(ctx)
				c.must(err)
				begins(a, w, claim)
			})
		case "at the streams":
			if m.unread {
				step("reads", func(a *member, w *Consumer) {
					c.must(w.wait(ctx))
					a.does = "has read"
				})
			}
			step("looks again", func(a *member, _ *Consumer) { a.does = "awake" })
		case "has read":
			step("begins", func(a *member, w *Consumer) {
				claim, err := w.begin(ctx, false)
				c.must(err)
				begins(a, w, claim)
			})
		case "on standby":
			if m.calls > 0 {
				step("is called", func(a *member, w *Consumer) {
					c.must(w.wait(ctx))
					a.does = "awake"
				})
			}
		case "works":
			step("finishes", func(a *member, w *Consumer) {
				next, err := w.Finish(ctx, a.claim, nil)
				c.must(err)
				begins(a, w, next)
			})
			step("finishes, and looks later", func(a *member, _ *Consumer) {
				c.must(a.claim.Finish(ctx, nil))
				a.claim, a.does = nil, "awake"
			})
		}
	}
	if m.jobs > 0 {
		steps = append(steps, crowdStep{"a job comes", func(m *moment) {
			c.must(c.redis.XAdd(ctx, &redis.XAddArgs{Stream: c.q.Key("jobs"), ID: fmt.Sprint(10-m.jobs, "-1"), Values: []any{"id", fmt.Sprint("j", m.jobs)}}).Err())
			m.jobs--
		}})
	}
	return steps
}

// check wants that no job waits for nobody, and returns what tells the moment
// from others.
func (c *crowd) check(m *moment) string {
	ctx := c.t.Context()
	var b strings.Builder
	wakeful := false
	for _, a := range m.members {
		fmt.Fprint(&b, a.does, " ", a.seat, ", ")
		wakeful = wakeful || a.does != "on standby" && a.does != "works" && a.does != "is gone"
	}
	m.keys = dump(c.t, c.redis, c.keys())
	m.unread, m.calls = c.unread(), c.redis.LLen(ctx, c.q.Key("standby")).Val()
	m.seats = c.redis.ZRange(ctx, c.q.Key("idle"), 0, -1).Val()
	slices.Sort(m.seats)
	if len(m.seats) > c.q.room {
		c.t.Errorf("after %s:\n%q have seats", strings.Join(m.path, ", "), m.seats)
	}
	if m.unread && !wakeful && m.calls == 0 && strings.Contains(b.String(), "on standby") {
		c.t.Errorf("after %s:\na job waits, and nobody is called: %s seats %q", strings.Join(m.path, ", "), &b, m.seats)
	}
	fmt.Fprint(&b, m.jobs, m.calls, m.seats, c.redis.XLen(ctx, c.q.Key("jobs")).Val(), m.unread)
	return b.String()
}

// unread tells whether there is an entry that nobody was given.
func (c *crowd) unread() bool {
	ctx := c.t.Context()
	groups, err := c.redis.XInfoGroups(ctx, c.q.Key("jobs")).Result()
	c.must(err)
	last, err := c.redis.XRevRangeN(ctx, c.q.Key("jobs"), "+", "-", 1).Result()
	c.must(err)
	return len(last) > 0 && last[0].ID > groups[0].LastDeliveredID // they differ in one digit
}

func (c *crowd) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) keys() []string {
	keys := slices.Clone(c.q.shared)
	for i := range crowdJobs {
		keys = append(keys, c.q.JobKey(fmt.Sprint("j", i+1)))
	}
	return keys
}

// restore makes the moment that of Redis again. No seat's time runs out.
func (c *crowd) restore(m moment) {
	ctx := c.t.Context()
	restore(c.t, c.redis, c.keys(), m.keys)
	for _, name := range m.seats {
		c.must(c.redis.ZAdd(ctx, c.q.Key("idle"), redis.Z{Score: 1e15, Member: name}).Err())
	}
}
