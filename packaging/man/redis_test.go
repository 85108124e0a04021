package man

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

const redisPage = "gpuherd-redis.7"

// gpuherd-redis(7) gives each user the rights of the file that we ship for it,
// which tests of those who use them keep.
func TestRightsAreDocumented(t *testing.T) {
	t.Parallel()
	page := read(t, "packaging/man/"+redisPage)
	found := regexp.MustCompile(`(?s)ACL SETUSER ([a-z]+) reset on >PASSWORD (.*?)\n\.fi`).FindAllStringSubmatch(page, -1)
	if len(found) != 3 {
		t.Fatalf("%s has %d users", redisPage, len(found))
	}
	for _, m := range found {
		got := strings.Join(strings.Fields(m[2]), " ")
		if want := redistest.Rights(t, root+"/packaging/redis/"+m[1]+".rights"); got != want {
			t.Errorf("%s gives %s\n%s\nand the file\n%s", redisPage, m[1], got, want)
		}
	}
}

// The page has each key that a monitor writes, and each field of those that are
// no JSON; and no other.
func TestKeysOfAHostAreDocumented(t *testing.T) {
	t.Parallel()
	c, page := redistest.Start(t).Client(t), open(t, redisPage)
	r := relay.New(c, slog.New(slog.DiscardHandler), relay.Config{
		Prefix: "gpuherd", Host: "H", BootID: "boot", Epoch: 1, Version: "1",
		Alive: func() bool { return true }, Uptime: func() time.Duration { return time.Hour },
	})
	h := state.NewHerd(r.Push, time.Now)
	r.From(h)
	h.SetGPUs([]state.GPU{{}})
	h.Sync([]state.Observation{{Name: "a@0.service", Active: "active", Sub: "running", Result: "success", ChangedMonoUS: 1}}, "connected")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var keys []string
	within(t, "the monitor's keys are there", func() bool {
		keys = c.Keys(t.Context(), "*").Val()
		return len(keys) >= len(page.terms("KEYS OF A HOST"))-1 && slices.Contains(keys, "gpuherd:hosts")
	})
	page.same(t, "KEYS OF A HOST", append(keys, relay.Key("gpuherd", "H", "notify")))
	page.same(t, "FENCE", c.HKeys(t.Context(), relay.Key("gpuherd", "H", "fence")).Val())
	events := c.XRange(t.Context(), relay.Key("gpuherd", "H", "events"), "-", "+").Val()
	if len(events) == 0 {
		t.Fatal("no events")
	}
	page.same(t, "EVENTS", slices.Collect(maps.Keys(events[0].Values)))
}

// The page has each key of a queue, and each field that a job may have at some
// time of its life, in the stream, in its hash and where the dead are; and no
// other.
func TestKeysOfAQueueAreDocumented(t *testing.T) {
	t.Parallel()
	l := &lives{t: t, redis: redistest.Start(t).Client(t), keys: map[string]bool{}, job: map[string]bool{}}
	var err error
	if l.Queue, err = queue.New(l.redis, "gpuherd", "NAME", queue.Options{Block: time.Second}); err != nil {
		t.Fatal(err)
	}
	l.live()

	page := open(t, redisPage)
	l.keys["Q:cancel"] = true // a channel
	page.same(t, "KEYS OF A QUEUE", slices.Collect(maps.Keys(l.keys)))
	page.same(t, "JOBS", slices.Collect(maps.Keys(l.job)))
	dead := map[string]bool{}
	for _, e := range l.redis.XRange(t.Context(), l.Key("dead"), "-", "+").Val() {
		for name := range e.Values {
			dead[strings.TrimSuffix(name, "_bytes")] = true
		}
	}
	page.same(t, "DEAD JOBS", slices.Collect(maps.Keys(dead)))
	// What an entry may have is what is read of it.
	read := regexp.MustCompile(`fields\["([a-z_]+)"\]`).FindAllStringSubmatch(read(t, "units/queue/job.go"), -1)
	var names []string
	for _, m := range read {
		names = append(names, m[1])
	}
	page.same(t, "ENTRIES", names)
	for _, state := range []string{queue.Waiting, queue.Delayed, queue.Running, queue.Succeeded, queue.Dead, queue.Cancelled} {
		if !strings.Contains(page.text, state) {
			t.Errorf("%s lacks the state %s", redisPage, state)
		}
	}
}

// lives are jobs that go through all that can happen to one, and what Redis had
// of them after each step.
type lives struct {
	*queue.Queue
	t     *testing.T
	redis redis.UniversalClient

	keys map[string]bool // of the queue, with Q before the colon
	job  map[string]bool // fields of a job's hash
}

func (l *lives) live() {
	ctx := l.t.Context()
	full := queue.Job{Payload: []byte("{}"), Timeout: time.Minute, MaxAttempts: 2, Trace: "t"}
	add := func(id string, notBefore time.Time) {
		j := full
		j.ID, j.NotBefore = id, notBefore
		added, err := l.Enqueue(ctx, j)
		l.look(err)
		if !added {
			l.t.Fatalf("%s is known", id)
		}
	}
	w := l.Consumer("w")
	claim := func() (c *queue.Claim) {
		l.t.Helper()
		within(l.t, "a job is claimed", func() bool {
			var err error
			c, err = w.Claim(ctx)
			l.look(err)
			return c != nil
		})
		return c
	}
	fail := func(c *queue.Claim, f queue.Failure) {
		_, err := c.Fail(ctx, f)
		l.look(err)
	}
	add("cancelled", time.Time{})
	c := claim()
	_, err := l.Cancel(ctx, "cancelled")
	l.look(err)
	l.look(c.Release(ctx))
	add("good", time.Time{})
	c = claim()
	l.look(c.Renew(ctx, "40%"))
	fail(c, queue.Failure{Error: "e", Stderr: "s", Delay: time.Millisecond})
	c = claim()
	l.look(c.Finish(ctx, []byte("r")))
	add("bad", time.Time{})
	fail(claim(), queue.Failure{Error: "e", Permanent: true})
	add("later", time.Now().Add(time.Hour))
	if c, err := w.Claim(ctx); c != nil || err != nil { // which puts it where the delayed are
		l.t.Fatalf("claimed %v, %v", c, err)
	}
	l.look(nil)
	for i := range 100 {
		l.look(l.redis.XGroupCreateConsumer(ctx, l.Key("jobs"), queue.Group, fmt.Sprint("idle-", i)).Err())
	}
	w = l.Consumer("one of a crowd")
	if c, err := w.Claim(ctx); c != nil || err != nil {
		l.t.Fatalf("claimed %v, %v", c, err)
	}
	l.look(nil)
	add("called for", time.Time{})
	l.look(claim().Finish(ctx, nil))
	l.look(l.Pause(ctx))
	if _, err := w.Claim(ctx); !errors.Is(err, queue.ErrPaused) {
		l.t.Fatal(err)
	}
	l.look(nil)
}

// look notes what Redis has after a step, which must not have gone wrong.
func (l *lives) look(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, key := range l.redis.Keys(l.t.Context(), "*").Val() {
		key = strings.TrimPrefix(key, "gpuherd:queue:{NAME}:")
		if id, ok := strings.CutPrefix(key, "job:"); ok {
			for _, name := range l.redis.HKeys(l.t.Context(), l.JobKey(id)).Val() {
				l.job[name] = true
			}
			key = "job:ID"
		}
		l.keys["Q:"+key] = true
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}
