package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short lets leases and waits pass quickly.
var short = queue.Options{Lease: 2 * time.Second, Block: 50 * time.Millisecond, RetryMin: 20 * time.Millisecond}

type fixture struct {
	*queue.Queue
	t     testing.TB
	name  string // of the queue
	form  *redistest.Deployment
	ctx   context.Context
	redis redis.UniversalClient // may do everything
	srv   *redistest.Server     // of the test alone, or nil
}

// setup starts a server for one test alone.
func setup(t testing.TB, opts queue.Options, server ...string) *fixture {
	t.Helper()
	srv := redistest.Start(t, server...)
	f := on(t, redistest.Alone(srv), opts)
	f.srv = srv
	return f
}

var queues atomic.Int64

// on makes a queue of its own in a Redis that other tests use, too.
func on(t testing.TB, d *redistest.Deployment, opts queue.Options) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	f := &fixture{t: t, form: d, name: fmt.Sprint("gpu", queues.Add(1)), ctx: ctx, redis: d.Admin(t)}
	var err error
	if f.Queue, err = queue.New(d.Client(t), "gpuherd", f.name, opts); err != nil {
		t.Fatal(err)
	}
	return f
}

// worker is a consumer with connections of its own, as each worker has, and
// with other options.
func (f *fixture) worker(name string, room int, opts queue.Options) *queue.Consumer {
	f.t.Helper()
	q, err := queue.New(f.form.Client(f.t), "gpuherd", f.name, opts)
	f.must(err)
	q.SetRoom(room)
	return q.Consumer(name)
}

// add is what a producer without this package sends.
func (f *fixture) add(fields ...any) {
	f.t.Helper()
	f.put("jobs", fields...)
}

func (f *fixture) put(stream string, fields ...any) {
	f.t.Helper()
	f.must(f.redis.XAdd(f.ctx, &redis.XAddArgs{Stream: f.Key(stream), Values: fields}).Err())
}

// claim wants a job.
func (f *fixture) claim(c *queue.Consumer) *queue.Claim {
	f.t.Helper()
	for f.ctx.Err() == nil {
		claim, err := c.Claim(f.ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		if claim != nil {
			return claim
		}
	}
	f.t.Fatal("no job came")
	return nil
}

// none wants that no job comes in a few tries.
func (f *fixture) none(c *queue.Consumer) {
	f.t.Helper()
	for range 3 {
		claim, err := c.Claim(f.ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		if claim != nil {
			f.t.Fatalf("claimed %q, attempt %d", claim.ID, claim.Attempt)
		}
	}
}

func (f *fixture) record(id string) queue.Record {
	f.t.Helper()
	r, ok, err := f.Get(f.ctx, id)
	if err != nil || !ok {
		f.t.Fatalf("record of %s: %v, %v", id, ok, err)
	}
	return r
}

func (f *fixture) want(id string, want queue.Record) {
	f.t.Helper()
	if diff := cmp.Diff(want, f.record(id), cmpopts.IgnoreTypes(time.Time{})); diff != "" {
		f.t.Errorf("record of %s (-want +got):\n%s", id, diff)
	}
}

// empty wants that no stream and no pending list holds anything.
func (f *fixture) empty() {
	f.t.Helper()
	for _, name := range []string{"jobs:high", "jobs", "jobs:low"} {
		if n := f.redis.XLen(f.ctx, f.Key(name)).Val(); n != 0 {
			f.t.Errorf("%s holds %d entries", name, n)
		}
		p, err := f.redis.XPending(f.ctx, f.Key(name), queue.Group).Result()
		if err != nil || p.Count != 0 {
			f.t.Errorf("%s has %d pending, %v", name, p.Count, err)
		}
	}
}

func (f *fixture) dead() []redis.XMessage {
	f.t.Helper()
	m, err := f.redis.XRange(f.ctx, f.Key("dead"), "-", "+").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) lost(what string, err error) {
	f.t.Helper()
	if !errors.Is(err, queue.ErrLost) {
		f.t.Errorf("%s by who lost the lease: %v", what, err)
	}
}

func (f *fixture) until(what string, ok func() bool) {
	f.t.Helper()
	for !ok() {
		if f.ctx.Err() != nil {
			f.t.Fatalf("it does not come to %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// blocked waits until n clients sit in a blocking read.
func (f *fixture) blocked(n int) {
	f.t.Helper()
	for f.ctx.Err() == nil {
		info, err := f.redis.Info(f.ctx, "clients").Result()
		f.must(err)
		if strings.Contains(info, fmt.Sprintf("blocked_clients:%d\r", n)) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatal("nobody waits")
}
