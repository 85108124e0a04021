package queue_test

import (
	"testing"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

// TestForms: the queue works in every form of Redis. In a Cluster all keys of a
// script have to be in one slot and named in KEYS, under an ACL all commands
// have to be those that the documented user may use.
func TestForms(t *testing.T) {
	t.Parallel()
	for _, form := range redistest.Forms(redistest.DocumentedRights(t, "../../packaging/man/gpuherd-monitor.8")) {
		t.Run(form.Name, func(t *testing.T) {
			t.Parallel()
			d := form.Start(t)
			f := &fixture{t: t, ctx: t.Context(), redis: d.Admin(t)}
			var err error
			f.Queue, err = queue.New(d.Client(t), "gpuherd", "gpu", short)
			f.must(err)

			w := f.Consumer("a")
			f.none(w) // makes the groups
			for _, id := range []string{"1", "2"} {
				_, err := f.Enqueue(f.ctx, queue.Job{ID: id})
				f.must(err)
			}
			f.add("payload", "no id")
			c := f.claim(w)
			f.must(c.Renew(f.ctx, "1"))
			f.must(c.Release(f.ctx))
			c = f.claim(w)
			f.must(c.Finish(f.ctx, []byte("r")))
			c = f.claim(w)
			if _, err := c.Fail(f.ctx, queue.Failure{Error: "e", Permanent: true}); err != nil {
				t.Error(err)
			}
			f.none(w)
			f.want("1", queue.Record{State: queue.Succeeded, Attempts: 1, Worker: "a", Result: "r"})
			f.want("2", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "e"})
			if n := len(f.dead()); n != 2 {
				t.Errorf("%d entries in dead", n)
			}
			f.must(f.Pause(f.ctx))
			f.must(f.Resume(f.ctx))
			f.must(w.Leave(f.ctx))
			f.empty()
		})
	}
}
