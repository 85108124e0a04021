package queue

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

var modelDepth = flag.Int("model.depth", 5, "how many `steps` of two workers and the world TestEveryInterleaving takes")

// TestEveryInterleaving lets two workers and the world (time, who cancels, who
// kills) take their steps in every order, by the real scripts in a real Redis.
// Whatever happened, the job is not lost, ends once, and what it ended with
// stays. States that are alike are followed up once.
func TestEveryInterleaving(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		entries int // of the one job
		budget  budget
		options Options
	}{
		{"retried at once", 1, budget{crashes: 2, unheard: 1, cancels: 1, releases: 1}, Options{RetryMin: 1, RetryMax: 1}},
		{"retried later", 1, budget{crashes: 1, cancels: 1, releases: 1, retries: 2}, Options{RetryMin: time.Hour, RetryMax: time.Hour}},
		{"begun together with another", 1, budget{crashes: 2, unheard: 1, cancels: 1, others: 2}, Options{RetryMin: 1, RetryMax: 1}},
		{"the same id twice", 2, budget{crashes: 1, cancels: 1, deletes: 1}, Options{RetryMin: time.Hour, RetryMax: time.Hour}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.options.Lease, tt.options.Block, tt.options.MaxAttempts = modelLease, time.Millisecond, 2
			m := newModel(t, tt.options, tt.entries)
			m.explore(tt.budget, *modelDepth)
		})
	}
}

// modelLease never runs out by itself.
const modelLease = 24 * time.Hour

// A model is one job, and what two workers and the world may do to it.
type model struct {
	t     *testing.T
	q     *Queue
	redis redis.UniversalClient
	seen  map[string]bool
	steps int // taken

	others int // jobs that there were beside the one
}

// A world is one state of all. What is in Redis is a copy of its keys.
type world struct {
	keys   map[string]string // key → DUMP
	actors [2]actor
	budget budget
	path   []string

	fresh    bool   // there is an entry that nobody was given
	deleted  bool   // somebody has deleted an entry
	stopped  bool   // it was cancelled before it ended
	finishes int    // claims of which Finish said that it is done
	end      string // state and result, once it has ended
}

// A budget bounds what could go on for ever.
type budget struct{ crashes, unheard, cancels, releases, retries, deletes, others int }

// An actor is a worker, as far as it lives in its own process.
type actor struct {
	life    int      // how often it was started
	own     bool     // it may hold what it does not know of
	taken   int      // how many claims it was given
	read    []*entry // read, not begun
	claim   *Claim
	did     string // how it ended the claim; it may not have heard of it
	mayLose bool   // its lease ran out, or its entry was deleted
	ghost   *Claim // what it had when it was killed: its last command may still be on its way
}

func (a actor) consumer(m *model, name string) *Consumer {
	c := &Consumer{q: m.q, name: name, own: a.own, read: a.read, nonce: fmt.Sprint(name, a.life), claims: a.taken}
	if a.claim != nil {
		c.claims++
	}
	return c
}

func newModel(t *testing.T, opts Options, entries int) *model {
	client := redistest.Start(t, "--appendonly", "no").Client(t, redisclient.WithPoolSize(2))
	q, err := New(client, "gpuherd", "gpu", opts)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, q: q, redis: client, seen: map[string]bool{}}
	if err := q.createGroups(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range entries {
		if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: q.Key("jobs"), Values: []any{"id", "j", "payload", "p"}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// explore takes every step from every state, to a depth.
func (m *model) explore(b budget, depth int) {
	start := &world{fresh: true, budget: b}
	m.save(start)
	level := []*world{start}
	for range depth {
		var next []*world
		for _, w := range level {
			for name, step := range m.stepsOf(w) {
				n := *w
				n.path = append(slices.Clone(w.path), name)
				m.restore(w)
				step(&n)
				m.steps++
				m.save(&n)
				if key := m.check(&n); !m.seen[key] {
					m.seen[key] = true
					next = append(next, &n)
				}
				if m.t.Failed() {
					return
				}
			}
		}
		level = next
	}
	// From where it ended it must all come to a good end.
	for _, w := range level {
		m.restore(w)
		m.rescue(w)
		if m.t.Failed() {
			return
		}
	}
	m.t.Logf("%d states, %d steps, %d of them to the end", len(m.seen), m.steps, len(level))
}

// stepsOf returns what may happen next.
func (m *model) stepsOf(w *world) map[string]func(*world) {
	steps := map[string]func(*world){}
	for i := range w.actors {
		name := string(rune('a' + i))
		step := func(what string, do func(w *world, a *actor, c *Consumer)) {
			steps[name+" "+what] = func(w *world) {
				a := &w.actors[i]
				c := a.consumer(m, name)
				do(w, a, c)
				if a.read = c.read; a.claim == nil {
					a.own = c.own
				}
			}
		}
		a := w.actors[i]
		switch {
		case len(a.read) > 0:
			step("begins", func(w *world, a *actor, c *Consumer) {
				claim, err := c.begin(m.t.Context(), false)
				m.claimed(w, a, claim, err)
			})
		case a.claim == nil:
			step("takes", func(w *world, a *actor, c *Consumer) {
				claim, _, err := c.take(m.t.Context())
				m.claimed(w, a, claim, err)
			})
			if w.fresh { // else it only waits
				step("reads", func(_ *world, _ *actor, c *Consumer) { m.must(c.wait(m.t.Context())) })
			}
			if w.budget.others > 0 {
				step("takes it with another", func(w *world, a *actor, c *Consumer) {
					w.budget.others--
					claim := m.takeWithAnother(c)
					m.claimed(w, a, claim, nil)
				})
			}
			if w.budget.unheard > 0 && w.budget.others > 0 {
				step("takes it with another, and does not hear of it", func(w *world, _ *actor, c *Consumer) {
					w.budget.others--
					m.takeWithAnother(c)
					c.own, c.read, w.budget.unheard = true, nil, w.budget.unheard-1
				})
			}
			if w.budget.unheard > 0 {
				step("takes, and does not hear of it", func(w *world, _ *actor, c *Consumer) {
					_, _, err := c.take(m.t.Context())
					m.must(err)
					c.own, c.read, w.budget.unheard = true, nil, w.budget.unheard-1
				})
			}
		default:
			for what, do := range m.endings(w, a) {
				if a.did == "" || a.did == what {
					step(what, do)
				}
			}
			if a.did == "" {
				step("finishes, and takes the next", func(w *world, a *actor, c *Consumer) {
					next, err := c.Finish(m.t.Context(), a.claim, fmt.Append(nil, c.name, a.claim.Attempt))
					if !m.told(err) {
						m.lost(w, a)
						a.did = "finishes"
						return
					}
					w.finishes++
					*a = actor{life: a.life, taken: a.taken + 1, ghost: a.ghost}
					m.claimed(w, a, next, nil)
				})
				step("renews", func(w *world, a *actor, _ *Consumer) {
					if m.told(a.claim.Renew(m.t.Context(), "1")) {
						a.mayLose = false
					} else {
						m.lost(w, a)
					}
				})
			} else {
				step("goes on", func(_ *world, a *actor, _ *Consumer) {
					*a = actor{life: a.life, taken: a.taken + 1, ghost: a.ghost}
				})
			}
		}
		if w.budget.crashes > 0 && (a.claim != nil || len(a.read) > 0) {
			step("is killed", func(w *world, a *actor, c *Consumer) {
				ghost := a.claim
				if a.did != "" {
					ghost = nil
				}
				*a = actor{life: a.life + 1, own: true, ghost: ghost}
				c.own, c.read, w.budget.crashes = true, nil, w.budget.crashes-1
			})
		}
		if a.ghost != nil {
			step("had finished", func(w *world, a *actor, c *Consumer) {
				if m.told(a.ghost.Finish(m.t.Context(), fmt.Append(nil, "ghost", c.name))) {
					w.finishes++
				}
				a.ghost = nil
			})
			step("had failed", func(_ *world, a *actor, _ *Consumer) {
				_, err := a.ghost.Fail(m.t.Context(), Failure{Error: "e"})
				m.told(err)
				a.ghost = nil
			})
			step("had renewed", func(_ *world, a *actor, _ *Consumer) {
				m.told(a.ghost.Renew(m.t.Context(), "ghost"))
				a.ghost = nil
			})
		}
	}
	steps["leases run out"] = func(w *world) {
		m.expire()
		w.actors[0].mayLose, w.actors[1].mayLose = true, true
	}
	steps["time passes"] = func(*world) { m.pass() }
	if w.budget.cancels > 0 {
		steps["cancel"] = func(w *world) {
			w.budget.cancels--
			state, err := m.q.Cancel(m.t.Context(), "j")
			m.must(err)
			w.stopped = state == Running || state == Cancelled
		}
	}
	if w.budget.retries > 0 {
		steps["retry"] = func(w *world) {
			w.budget.retries--
			if err := m.q.Retry(m.t.Context(), "j"); err == nil {
				w.end = "" // it begins anew, if it was dead
			} else if !errors.Is(err, ErrState) && !errors.Is(err, ErrUnknown) {
				m.t.Fatal(err)
			}
		}
	}
	if w.budget.deletes > 0 {
		steps["an entry is deleted"] = func(w *world) {
			w.budget.deletes, w.deleted = w.budget.deletes-1, true
			w.actors[0].mayLose, w.actors[1].mayLose = true, true
			if v := m.view(); len(v.entries) > 0 {
				at := parsePlace(v.entries[0])
				m.must(m.redis.XDel(m.t.Context(), m.q.stream(at.stream), at.entry).Err())
			}
		}
	}
	return steps
}

// endings are the ways to end a claim.
func (m *model) endings(w *world, a actor) map[string]func(*world, *actor, *Consumer) {
	ways := map[string]func(*Claim, *Consumer) error{
		"finishes": func(c *Claim, w *Consumer) error {
			return c.Finish(m.t.Context(), fmt.Append(nil, w.name, c.Attempt))
		},
		"fails": func(c *Claim, _ *Consumer) error {
			_, err := c.Fail(m.t.Context(), Failure{Error: "e"})
			return err
		},
	}
	if w.budget.releases > 0 || a.did == "releases" {
		ways["releases"] = func(c *Claim, _ *Consumer) error { return c.Release(m.t.Context()) }
	}
	steps := map[string]func(*world, *actor, *Consumer){}
	for what, do := range ways {
		steps[what] = func(w *world, a *actor, c *Consumer) {
			before := m.view().hash
			settled := before["settled"] == a.claim.name()
			told := m.told(do(a.claim, c))
			if after := m.view().hash; told && after["state"] == Cancelled && after["attempts"] != before["attempts"] {
				m.t.Errorf("after %s:\nit is cancelled, and its attempts went from %s to %s", strings.Join(w.path, ", "), before["attempts"], after["attempts"])
			}
			switch {
			case a.did != "":
				if settled && !told {
					m.t.Errorf("after %s:\nit is done, and refused when it comes again", strings.Join(w.path, ", "))
				}
				return
			case !told:
				m.lost(w, a)
			case what == "finishes":
				w.finishes++
			}
			if what == "releases" {
				w.budget.releases--
			}
			a.did = what
		}
	}
	return steps
}

// name is how the scripts write the claim down.
func (c *Claim) name() string {
	return fmt.Sprintf("%v/%s/%d", place{c.entry.stream, c.entry.id}, c.consumer, c.entry.deliveries)
}

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) claimed(w *world, a *actor, c *Claim, err error) {
	m.t.Helper()
	m.must(err)
	if a.claim, a.mayLose = c, w.deleted; c != nil && w.stopped {
		m.t.Errorf("after %s:\nit was cancelled, and begins", strings.Join(w.path, ", "))
	}
}

// takeWithAnother takes the job together with another, where it is there to be
// taken so. The other comes to its end at once.
func (m *model) takeWithAnother(c *Consumer) (claim *Claim) {
	m.t.Helper()
	ctx := m.t.Context()
	m.others++
	other := fmt.Sprint("other-", m.others)
	entry, err := m.redis.XAdd(ctx, &redis.XAddArgs{Stream: m.q.Key("jobs"), Values: []any{"id", other}}).Result()
	m.must(err)
	claims, _, err := c.FinishAll(ctx, nil, 2)
	m.must(err)
	for _, one := range claims {
		if one.ID == "j" {
			claim = one
			continue
		}
		m.must(one.Finish(ctx, nil))
	}
	m.must(m.redis.XDel(ctx, m.q.Key("jobs"), entry).Err()) // unless it was taken
	return claim
}

// lost notes that an actor lost its lease.
func (m *model) lost(w *world, a *actor) {
	if !a.mayLose {
		m.t.Errorf("after %s:\na lease is lost that had not run out", strings.Join(w.path, ", "))
	}
}

// told is false where the lease was lost.
func (m *model) told(err error) bool {
	m.t.Helper()
	if errors.Is(err, ErrLost) {
		return false
	}
	m.must(err)
	return true
}

// expire makes all leases run out. XCLAIM may set the idle time, and leaves the
// rest as it is.
func (m *model) expire() {
	ctx := m.t.Context()
	for _, stream := range m.q.shared[:3] {
		held, err := m.redis.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: stream, Group: Group, Start: "-", End: "+", Count: 10}).Result()
		m.must(err)
		for _, p := range held {
			m.must(m.redis.Do(ctx, "XCLAIM", stream, Group, p.Consumer, 0, p.ID, "IDLE", 2*modelLease.Milliseconds(), "JUSTID").Err())
		}
	}
}

// pass makes all delayed jobs due.
func (m *model) pass() {
	ctx := m.t.Context()
	ids, err := m.redis.ZRange(ctx, m.q.Key("delayed"), 0, -1).Result()
	m.must(err)
	for _, id := range ids {
		m.must(m.redis.ZAdd(ctx, m.q.Key("delayed"), redis.Z{Score: 1, Member: id}).Err())
	}
}

// rescue is what happens to any job in the end: leases run out, time passes,
// and a third worker does what is left.
func (m *model) rescue(w *world) {
	ctx := m.t.Context()
	m.expire()
	m.pass()
	c := m.q.Consumer("c")
	for range 10 {
		c.expired = time.Time{}
		claim, none, err := c.take(ctx)
		m.must(err)
		if claim != nil {
			c.claims++
			m.must(claim.Finish(ctx, []byte("rescued")))
		}
		if none {
			break
		}
	}
	if w.deleted {
		return // and the job with it
	}
	s := m.view()
	if !ended(s.hash["state"]) || len(s.entries) > 0 || s.delayed != "" {
		m.t.Errorf("after %s:\nit comes to no end: %+v", strings.Join(w.path, ", "), s)
	}
}

func ended(state string) bool { return state == Succeeded || state == Dead || state == Cancelled }

// modelKeys are what of Redis makes a state.
func (m *model) modelKeys() []string {
	return append(m.q.shared[:7:7], m.q.JobKey("j"))
}

func (m *model) save(w *world) { w.keys = dump(m.t, m.redis, m.modelKeys()) }

func (m *model) restore(w *world) { restore(m.t, m.redis, m.modelKeys(), w.keys) }

// dump returns what the keys hold, of those that there are.
func dump(t *testing.T, client redis.UniversalClient, keys []string) map[string]string {
	t.Helper()
	ctx := t.Context()
	pipe := client.Pipeline()
	dumps := map[string]*redis.StringCmd{}
	for _, key := range keys {
		dumps[key] = pipe.Dump(ctx, key)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	held := map[string]string{}
	for key, dump := range dumps {
		if dump.Err() == nil {
			held[key] = dump.Val()
		}
	}
	return held
}

// restore makes the keys hold again what dump returned.
func restore(t *testing.T, client redis.UniversalClient, keys []string, held map[string]string) {
	t.Helper()
	ctx := t.Context()
	pipe := client.Pipeline()
	for _, key := range keys {
		if dump, ok := held[key]; ok {
			pipe.RestoreReplace(ctx, key, 0, dump)
		} else {
			pipe.Del(ctx, key)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
}

// A view is what can be seen in Redis.
type view struct {
	entries []string          // places, in order
	holders map[string]string // place → consumer, deliveries, whether the lease ran out
	hash    map[string]string
	delayed string // "", due or later
	dead    int
}

func (m *model) view() view {
	ctx := m.t.Context()
	pipe := m.redis.Pipeline()
	var ranges [3]*redis.XMessageSliceCmd
	var held [3]*redis.XPendingExtCmd
	for i, stream := range m.q.shared[:3] {
		ranges[i] = pipe.XRange(ctx, stream, "-", "+")
		held[i] = pipe.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: stream, Group: Group, Start: "-", End: "+", Count: 10})
	}
	hash := pipe.HGetAll(ctx, m.q.JobKey("j"))
	delayed := pipe.ZRangeWithScores(ctx, m.q.Key("delayed"), 0, -1)
	dead := pipe.XLen(ctx, m.q.Key("dead"))
	if _, err := pipe.Exec(ctx); err != nil {
		m.t.Fatal(err)
	}
	v := view{holders: map[string]string{}, hash: hash.Val(), dead: int(dead.Val())}
	for i := range ranges {
		for _, e := range ranges[i].Val() {
			v.entries = append(v.entries, place{Priority(i + 1), e.ID}.String())
		}
		for _, p := range held[i].Val() {
			v.holders[place{Priority(i + 1), p.ID}.String()] = fmt.Sprint(p.Consumer, p.RetryCount, p.Idle >= modelLease)
		}
	}
	for _, z := range delayed.Val() {
		v.delayed = "later"
		if z.Score <= 1 {
			v.delayed = "due"
		}
	}
	return v
}

// check wants that the promises are kept, and returns what tells the state
// from others.
func (m *model) check(w *world) string {
	v := m.view()
	broken := func(what string) {
		m.t.Errorf("after %s:\n%s: %+v", strings.Join(w.path, ", "), what, v)
	}
	state := v.hash["state"]
	end := ""
	if ended(state) {
		end = state + " " + v.hash["result"]
	}
	attempts, _ := strconv.Atoi(v.hash["attempts"])
	_, held := v.holders[v.hash["entry"]]
	switch {
	case w.finishes > 1:
		broken("it was finished twice")
	case w.finishes == 1 && state != Succeeded:
		broken("it was finished, and has not succeeded")
	case w.end != "" && end != w.end:
		broken("it had ended otherwise: " + w.end)
	case end == "" && len(v.entries) == 0 && v.delayed == "" && !w.deleted:
		broken("it is lost")
	case state == Running && !held && !w.deleted:
		broken("it runs, and nobody has it")
	case end != "" && v.delayed != "":
		broken("it has ended, and is delayed")
	case attempts > 2:
		broken("it had too many attempts")
	case (state == Dead) != (v.dead == 1):
		broken("what is in Q:dead is not so")
	}
	w.end, w.fresh = end, len(v.holders) < len(v.entries)

	// Entries have their number in place of their time.
	var names []string
	for i, e := range v.entries {
		names = append(names, e, fmt.Sprint("#", i))
	}
	number := strings.NewReplacer(names...)
	var b strings.Builder
	for i, e := range v.entries {
		fmt.Fprint(&b, i, e[:2], v.holders[e], " ")
	}
	h := v.hash
	fmt.Fprint(&b, state, attempts, number.Replace(h["entry"]+" "+h["claim"]), h["token"], h["cancel"] != "", h["result"], v.delayed, v.dead, w.budget, w.deleted, w.stopped, w.finishes)
	for i, a := range w.actors {
		fmt.Fprint(&b, " actor", i, a.life, a.own, a.taken, a.did, a.mayLose)
		for _, e := range a.read {
			fmt.Fprint(&b, " reads ", number.Replace(place{e.stream, e.id}.String()), e.deliveries)
		}
		if c := a.claim; c != nil {
			fmt.Fprint(&b, " has ", number.Replace(c.name()), c.Attempt, h["claim"] == c.name(), h["settled"] == c.name())
		}
		if c := a.ghost; c != nil {
			fmt.Fprint(&b, " had ", number.Replace(c.name()), h["claim"] == c.name(), h["settled"] == c.name())
		}
	}
	return b.String()
}
