package queue_test

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
)

// losesAnswers lets each script run, and loses its answer the first time.
type losesAnswers struct{ lost map[string]bool }

var errLostAnswer = errors.New("answer is lost")

func (losesAnswers) DialHook(next redis.DialHook) redis.DialHook { return next }

func (losesAnswers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (l losesAnswers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		what := cmd.Name()
		if what == "eval" || what == "evalsha" {
			what = cmd.Args()[1].(string)
		}
		if err == nil && !l.lost[what] {
			l.lost[what] = true
			cmd.SetErr(errLostAnswer)
			return errLostAnswer
		}
		return err
	}
}

// TestLostAnswers: a command that timed out may have been done. Nothing is
// lost by it, nothing done twice, and it costs no attempt.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	f := setup(t, short)
	client := f.srv.Client(t)
	client.(*redis.Client).AddHook(losesAnswers{map[string]bool{}})
	q, err := queue.New(client, "gpuherd", f.name, short)
	f.must(err)

	// again repeats what failed for want of an answer.
	lost := 0
	again := func(do func() error) {
		t.Helper()
		for range 10 {
			err := do()
			if err == nil {
				return
			}
			if !errors.Is(err, errLostAnswer) {
				t.Fatal(err)
			}
			lost++
		}
		t.Fatal("it never got through")
	}
	w := q.Consumer("a")
	claim := func() (c *queue.Claim) {
		t.Helper()
		for c == nil && f.ctx.Err() == nil {
			again(func() (err error) { c, err = w.Claim(f.ctx); return })
		}
		return c
	}
	for _, id := range []string{"finishes", "is released", "fails"} {
		again(func() error {
			_, err := q.Enqueue(f.ctx, queue.Job{ID: id, MaxAttempts: 1})
			return err
		})
	}
	c := claim()
	again(func() error { return c.Renew(f.ctx, "") })
	again(func() error { return c.Finish(f.ctx, []byte("r")) })
	c = claim()
	again(func() error { return c.Release(f.ctx) })
	c = claim()
	if c.ID != "is released" || c.Attempt != 1 {
		t.Errorf("claimed %s, attempt %d", c.ID, c.Attempt)
	}
	again(func() error { return c.Finish(f.ctx, []byte("r")) })
	c = claim()
	again(func() error { _, err := c.Fail(f.ctx, queue.Failure{Error: "e"}); return err })

	f.want("finishes", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r"})
	f.want("is released", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r"})
	f.want("fails", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "e", Reason: queue.Failed})
	if n := len(f.dead()); n != 1 {
		t.Errorf("%d entries in dead", n)
	}
	f.empty()
	if lost < 6 {
		t.Errorf("only %d answers were lost", lost)
	}

	// Malformed entries, and the blocking read.
	f.add("payload", "no id")
	f.add("id", "last")
	c = claim()
	f.add("id", "the next")
	var next *queue.Claim
	again(func() (err error) { next, err = w.Finish(f.ctx, c, nil); return })
	if next == nil || next.ID != "the next" || next.Attempt != 1 {
		t.Fatalf("the next is %+v", next)
	}
	again(func() (err error) { next, err = w.Finish(f.ctx, next, nil); return })
	if next != nil {
		t.Errorf("%s is claimed", next.ID)
	}
	if n := len(f.dead()); n != 2 {
		t.Errorf("%d entries in dead", n)
	}

	// Several at once: those of which nothing was heard come one at a time.
	client.(*redis.Client).AddHook(losesAnswers{map[string]bool{}})
	for _, id := range []string{"one", "two", "three"} {
		f.add("id", id)
	}
	var several []*queue.Claim
	again(func() (err error) { several, _, err = w.FinishAll(f.ctx, nil, 3); return })
	if diff := cmp.Diff([]string{"one 1"}, ids(several)); diff != "" {
		t.Errorf("claimed (-want +got):\n%s", diff)
	}
	for _, want := range []string{"two 1", "three 1"} {
		again(func() (err error) { several, _, err = w.FinishAll(f.ctx, dones(several), 3); return })
		if diff := cmp.Diff([]string{want}, ids(several)); diff != "" {
			t.Errorf("claimed (-want +got):\n%s", diff)
		}
	}
	again(func() (err error) { several, _, err = w.FinishAll(f.ctx, dones(several), 3); return })
	f.empty()
}

// repeats sends each script twice, as a Cluster's client does where a node gave
// no answer the first time.
type repeats struct{ losesAnswers }

func (repeats) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && (cmd.Name() == "eval" || cmd.Name() == "evalsha") {
			return next(ctx, cmd)
		}
		return err
	}
}

// TestRepeatedCommands: what the first of two has taken is looked for at once,
// and not once its lease has run out.
func TestRepeatedCommands(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: short.Block})
	client := f.srv.Client(t)
	q, err := queue.New(client, "gpuherd", f.name, queue.Options{Block: short.Block})
	f.must(err)
	w := q.Consumer("a")
	f.add("id", "0")
	held := []*queue.Claim{f.claim(w)}
	for i := range 12 {
		f.add("id", strconv.Itoa(i+1))
	}
	client.(*redis.Client).AddHook(repeats{})
	next, _, err := w.FinishAll(f.ctx, dones(held), 4)
	f.must(err)
	run := map[string]int{"0": 1}
	for len(next) > 0 {
		for _, c := range next {
			run[c.ID] = c.Attempt
		}
		next, _, err = w.FinishAll(f.ctx, dones(next), 4)
		f.must(err)
	}
	for i := range 13 {
		if id := strconv.Itoa(i); run[id] != 1 {
			t.Errorf("%s: attempt %d; %+v", id, run[id], f.record(id))
		}
	}
	f.empty()
}
