package queue_test

import (
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"

	"gpuherd/units/queue"
)

// ids returns the ids and attempts of claims.
func ids(claims []*queue.Claim) (of []string) {
	for _, c := range claims {
		of = append(of, fmt.Sprint(c.ID, " ", c.Attempt))
	}
	return of
}

func dones(claims []*queue.Claim) (of []queue.Done) {
	for _, c := range claims {
		of = append(of, queue.Done{Claim: c, Result: []byte("r" + c.ID)})
	}
	return of
}

func severalAreClaimedAndFinishedAtOnce(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	finish := func(claims []*queue.Claim, most int, want ...string) []*queue.Claim {
		t.Helper()
		next, lost, err := w.FinishAll(f.ctx, dones(claims), most)
		f.must(err)
		if diff := cmp.Diff(want, ids(next)); diff != "" || len(lost) > 0 {
			t.Fatalf("lost %v, claimed (-want +got):\n%s", ids(lost), diff)
		}
		return next
	}
	for _, id := range []string{"1", "2", "3", "4", "5"} {
		f.add("id", id)
	}
	held := finish([]*queue.Claim{f.claim(w)}, 3, "2 1", "3 1", "4 1")
	f.want("1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r1"})
	f.want("4", queue.Record{State: queue.Running, Attempts: 1, Worker: "a"})

	// What is urgent comes first, and nothing else with it.
	f.put("jobs:high", "id", "urgent")
	held = finish(held, 3, "urgent 1")
	f.want("3", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r3"})

	// Some are not to be run, and some are not for the script to judge.
	f.add("payload", "no id")
	f.add("id", "1")
	f.add("id", "ü")
	f.add("id", "6")
	held = finish(held, 5, "5 1", "6 1")
	f.add("id", "late")
	finish(held[:1], 5) // what was read comes first
	f.must(held[1].Release(f.ctx))
	var rest []string
	for range 3 {
		c := f.claim(w)
		rest = append(rest, ids([]*queue.Claim{c})...)
		f.must(c.Finish(f.ctx, nil))
	}
	if diff := cmp.Diff([]string{"ü 1", "6 1", "late 1"}, rest); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	if n := len(f.dead()); n != 1 {
		t.Errorf("%d entries in dead", n)
	}
	f.must(f.Pause(f.ctx))
	f.add("id", "7")
	finish(nil, 5)
	f.must(f.Resume(f.ctx))
	finish(finish(nil, 5, "7 1"), 0)
	f.empty()
}

// Each of them is fenced for itself.
func oneOfSeveralIsLost(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	for i := range 4 {
		f.add("id", fmt.Sprint(i))
	}
	held, _, err := w.FinishAll(f.ctx, dones([]*queue.Claim{f.claim(w)}), 2)
	f.must(err)
	entries, err := f.redis.XRange(f.ctx, f.Key("jobs"), "-", "+").Result()
	f.must(err)
	f.must(f.redis.Do(f.ctx, "XCLAIM", f.Key("jobs"), queue.Group, "b", 0, entries[0].ID).Err())
	for range 2 { // the answer may have been lost
		next, lost, err := w.FinishAll(f.ctx, dones(held), 2)
		f.must(err)
		if len(next) > 0 || !slices.Equal(ids(lost), []string{"1 1"}) {
			t.Errorf("claimed %v, lost %v", ids(next), ids(lost))
		}
	}
	if p, err := f.redis.XPending(f.ctx, f.Key("jobs"), queue.Group).Result(); err != nil || p.Count != 1 {
		t.Errorf("%+v are held, %v", p, err)
	}
	f.want("1", queue.Record{State: queue.Running, Attempts: 1, Worker: "a"})
	f.want("2", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r2"})
	if _, _, err := w.FinishAll(f.ctx, []queue.Done{{Claim: f.claim(w), Result: make([]byte, queue.MaxPayload+1)}}, 2); err == nil {
		t.Error("a result above the limit is taken")
	}
}

// Nobody knows which of them took the worker along: it costs none an attempt,
// once. Alone each answers for itself.
func severalLoseTheirWorker(f *fixture) {
	t := f.t
	w := f.Consumer("a")
	for _, id := range []string{"first", "kills", "innocent"} {
		f.add("id", id, "max_attempts", "2")
	}
	held, _, err := w.FinishAll(f.ctx, dones([]*queue.Claim{f.claim(w)}), 2)
	f.must(err)
	if diff := cmp.Diff([]string{"kills 1", "innocent 1"}, ids(held)); diff != "" {
		t.Fatalf("claimed (-want +got):\n%s", diff)
	}
	for life, want := range []string{"kills 1", "kills 2"} {
		// The successor is given one, however many it asks for.
		next, _, err := f.Consumer("a").FinishAll(f.ctx, nil, 2)
		f.must(err)
		if diff := cmp.Diff([]string{want}, ids(next)); diff != "" {
			t.Fatalf("life %d, claimed (-want +got):\n%s", life+1, diff)
		}
	}
	last := f.Consumer("a")
	c := f.claim(last)
	if diff := cmp.Diff([]string{"innocent 1"}, ids([]*queue.Claim{c})); diff != "" {
		t.Fatalf("claimed (-want +got):\n%s", diff)
	}
	f.must(c.Finish(f.ctx, nil))
	f.want("kills", queue.Record{State: queue.Dead, Attempts: 2, Worker: "a", Error: "worker was lost while the job ran", Reason: queue.Lost})
	f.none(last)
	f.empty()
	stats, err := f.Stats(f.ctx)
	f.must(err)
	if stats.Total.Lost != 4 {
		t.Errorf("%d attempts were lost", stats.Total.Lost)
	}
}

// What is renewed runs alone by now: where its worker is lost then, that is an
// attempt of it.
func oneOfSeveralIsRenewed(f *fixture) {
	w := f.Consumer("a")
	for _, id := range []string{"first", "long", "other"} {
		f.add("id", id, "max_attempts", "1")
	}
	held, _, err := w.FinishAll(f.ctx, dones([]*queue.Claim{f.claim(w)}), 2)
	f.must(err)
	f.must(held[1].Release(f.ctx))
	f.must(held[0].Renew(f.ctx, "50"))
	last := f.Consumer("a")
	c := f.claim(last)
	if diff := cmp.Diff([]string{"other 1"}, ids([]*queue.Claim{c})); diff != "" {
		f.t.Errorf("claimed (-want +got):\n%s", diff)
	}
	f.want("long", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "worker was lost while the job ran", Reason: queue.Lost})
	f.must(c.Finish(f.ctx, nil))
	f.empty()
}

// Somebody deleted a stream: what runs is finished all the same.
func streamIsDeletedWhileAnotherRuns(f *fixture) {
	w := f.Consumer("a")
	f.put("jobs:high", "id", "runs")
	c := f.claim(w)
	f.must(f.redis.Del(f.ctx, f.Key("jobs")).Err())
	if _, _, err := w.FinishAll(f.ctx, dones([]*queue.Claim{c}), 2); err != nil {
		f.t.Error(err)
	}
	f.want("runs", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "rruns"})
}

// Somebody wrote over a job's hash: the others are finished, and the job is dead
// once its lease has run out.
func hashOfOneOfSeveralIsNone(f *fixture) {
	w := f.Consumer("a")
	for _, id := range []string{"first", "spoilt", "fine"} {
		f.add("id", id)
	}
	held, _, err := w.FinishAll(f.ctx, dones([]*queue.Claim{f.claim(w)}), 2)
	f.must(err)
	f.must(f.redis.Set(f.ctx, f.JobKey("spoilt"), "by whom?", 0).Err())
	_, lost, err := w.FinishAll(f.ctx, dones(held), 2)
	f.must(err)
	if diff := cmp.Diff([]string{"spoilt 1"}, ids(lost)); diff != "" {
		f.t.Errorf("lost (-want +got):\n%s", diff)
	}
	f.want("fine", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "rfine"})
	f.none(f.Consumer("a"))
	if n := len(f.dead()); n != 1 {
		f.t.Errorf("%d entries in dead", n)
	}
	f.empty()
}

// What is read and not begun can be put back: it is the next, and costs no
// attempt.
func unbegunIsPutBack(f *fixture) {
	w := f.Consumer("a")
	f.add("id", "first")
	c := f.claim(w)
	f.put("jobs:low", "id", "ü1", "payload", "p", "max_attempts", "1")
	f.put("jobs:low", "payload", "no id")
	f.put("jobs:low", "id", "ü2")
	f.put("jobs:low", "id", "ü3", "not_before", "4000000000")
	held, _, err := w.FinishAll(f.ctx, dones([]*queue.Claim{c}), 4)
	f.must(err)
	if len(held) > 0 || w.Unbegun() != 4 {
		f.t.Errorf("claimed %v, %d are unbegun", ids(held), w.Unbegun())
	}
	f.must(w.PutBack(f.ctx))
	if p, err := f.redis.XPending(f.ctx, f.Key("jobs:low"), queue.Group).Result(); err != nil || p.Count > 0 || w.Unbegun() > 0 {
		f.t.Errorf("%+v are held, %d unbegun, %v", p, w.Unbegun(), err)
	}
	f.add("id", "last")
	other := f.Consumer("b")
	var all []string
	for range 3 {
		c := f.claim(other)
		all = append(all, ids([]*queue.Claim{c})...)
		f.must(c.Finish(f.ctx, nil))
	}
	if diff := cmp.Diff([]string{"ü1 1", "ü2 1", "last 1"}, all); diff != "" {
		f.t.Errorf("claimed (-want +got):\n%s", diff)
	}
	if r := f.record("ü3"); r.State != queue.Delayed {
		f.t.Errorf("ü3: %+v", r)
	}
	if n := len(f.dead()); n != 1 {
		f.t.Errorf("%d entries in dead", n)
	}
	f.empty()
}
