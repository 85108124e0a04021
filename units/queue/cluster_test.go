package queue_test

import (
	"net"
	"strconv"
	"testing"
	"time"

	"gpuherd/generator/config"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// TestCluster: all keys of a script are in one slot, and all are named in KEYS.
func TestCluster(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	for ; port+10000 > 65535; port -= 10000 { // the bus is 10000 above
	}
	l.Close()
	addr := "127.0.0.1:" + strconv.Itoa(port)
	f := &fixture{t: t, ctx: t.Context()}
	f.srv = redistest.Start(t, "--cluster-enabled", "yes", "--port", strconv.Itoa(port), "--bind", "127.0.0.1")
	f.must(f.srv.Client(t).Do(f.ctx, "cluster", "addslotsrange", 0, 16383).Err())
	f.redis, err = redisclient.Open(config.Redis{URL: "redis://" + addr + "?addr=" + addr}, "")
	f.must(err)
	t.Cleanup(func() { f.redis.Close() })
	for end := time.Now().Add(20 * time.Second); f.redis.Ping(f.ctx).Err() != nil || f.redis.Set(f.ctx, "x", 1, 0).Err() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the cluster does not come up")
		}
	}
	f.Queue, err = queue.New(f.redis, "gpuherd", "gpu", short)
	f.must(err)

	w := f.Consumer("a")
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
	f.want("2", queue.Record{State: queue.Dead, Attempts: 1, Worker: "a", Error: "e", Reason: queue.Permanent})
	if n := len(f.dead()); n != 2 {
		t.Errorf("%d entries in dead", n)
	}
	f.must(w.Leave(f.ctx))
	f.empty()
}
