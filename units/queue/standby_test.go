package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

// crowded makes of the queue one with a single seat at the streams, which who
// never takes a job has for good.
func (f *fixture) crowded() {
	f.t.Helper()
	f.SetRoom(1)
	f.waits(f.worker("first", 1, short)) // which makes the group
	for i := range 3 {
		f.must(f.redis.XGroupCreateConsumer(f.ctx, f.Key("jobs"), queue.Group, fmt.Sprint("ghost-", i)).Err())
	}
	f.must(f.redis.Del(f.ctx, f.Key("standby")).Err())
	f.must(f.redis.ZAdd(f.ctx, f.Key("idle"), redis.Z{Score: 1e15, Member: "ghost-0"}).Err())
}

// seated returns the consumer that has the seat of such a queue, and soon looks
// for leases that ran out.
func (f *fixture) seated() *queue.Consumer {
	f.t.Helper()
	f.crowded()
	f.must(f.redis.Del(f.ctx, f.Key("idle")).Err())
	w := f.worker("w", 1, queue.Options{Lease: 100 * time.Millisecond, Block: time.Second})
	f.waits(w)
	f.must(f.redis.ZScore(f.ctx, f.Key("idle"), "w").Err())
	return w
}

// leftSeat wants that nobody has the seat, and that one was called to it.
func (f *fixture) leftSeat() {
	f.t.Helper()
	if f.redis.ZCard(f.ctx, f.Key("idle")).Val() != 0 || f.redis.LLen(f.ctx, f.Key("standby")).Val() != 1 {
		f.t.Error("it has its seat still, or calls nobody")
	}
}

// waits lets a consumer wait once, for nothing.
func (f *fixture) waits(c *queue.Consumer) {
	f.t.Helper()
	if claim, err := c.Claim(f.ctx); err != nil || claim != nil {
		f.t.Fatalf("claimed %v, %v", claim, err)
	}
}

// A crowd of idle workers is called from standby one after the other, so that
// no job waits while a worker does. No wait comes to its end here.
func crowdIsCalled(f *fixture) {
	const crowd = 8
	have := make(chan *queue.Claim)
	failed := make(chan error, crowd)
	for i := range crowd {
		c := f.worker(fmt.Sprint("w", i), 2, queue.Options{Block: time.Hour})
		go func() {
			for {
				claim, err := c.Claim(f.ctx)
				if err != nil {
					failed <- err
					return
				}
				if claim != nil {
					have <- claim
					return
				}
			}
		}()
	}
	f.until("a crowd", func() bool {
		groups, err := f.redis.XInfoGroups(f.ctx, f.Key("jobs")).Result()
		return err == nil && len(groups) == 1 && groups[0].Consumers == crowd && f.redis.ZCard(f.ctx, f.Key("idle")).Val() == 2
	})
	for i := range crowd {
		f.add("id", fmt.Sprint("j", i))
		select {
		case c := <-have:
			f.must(c.Finish(f.ctx, nil))
		case err := <-failed:
			f.t.Fatal(err)
		case <-f.ctx.Done():
			f.t.Fatalf("job %d of %d is not claimed", i, crowd)
		}
	}
	f.empty()
}

// Those who have the seats are dead: who stands by finds the job, has one of
// their seats, and calls the others.
func deadHaveTheSeats(f *fixture) {
	f.crowded()
	w := f.Consumer("w")
	f.waits(w)
	f.add("id", "j")
	f.must(f.claim(w).Finish(f.ctx, nil))
	if n := f.redis.LLen(f.ctx, f.Key("standby")).Val(); n < 2 {
		f.t.Errorf("%d are called", n)
	}
	f.waits(w)
	if has := f.redis.ZRange(f.ctx, f.Key("idle"), 0, -1).Val(); len(has) != 1 || has[0] != "w" {
		f.t.Errorf("%q have seats", has)
	}
	f.empty()
}

// Who has a seat takes the job of a worker that was lost, and calls another.
func seatIsLeftForALostJob(f *fixture) {
	w := f.seated()
	f.add("id", "j")
	f.must(f.redis.XReadGroup(f.ctx, &redis.XReadGroupArgs{Group: queue.Group, Consumer: "ghost-1", Streams: []string{f.Key("jobs"), ">"}}).Err())
	f.must(f.claim(w).Finish(f.ctx, nil))
	f.leftSeat()
	f.empty()
}

// Who claims no more gives up its seat, and calls another. Who has none has
// nothing to give up.
func seatIsGivenUp(f *fixture) {
	f.crowded()
	w := f.worker("w", 1, queue.Options{Block: time.Second})
	f.waits(w)
	f.must(w.GiveUpSeat(f.ctx))
	if f.redis.Exists(f.ctx, f.Key("standby")).Val() != 0 || f.redis.ZCard(f.ctx, f.Key("idle")).Val() != 1 {
		f.t.Error("who stood by calls somebody, or takes a seat away")
	}
	f.must(f.redis.Del(f.ctx, f.Key("idle")).Err())
	f.waits(w)
	f.must(f.redis.ZScore(f.ctx, f.Key("idle"), "w").Err())
	for range 2 { // the second time there is none
		f.must(w.GiveUpSeat(f.ctx))
		f.leftSeat()
	}
	f.waits(w) // it goes on after all
	f.must(f.redis.ZScore(f.ctx, f.Key("idle"), "w").Err())
}

// A crowd of which many leave is none, where nobody calls others: those who are
// on standby still hear of it, and nobody has a seat any more.
func seatIsLeftWithTheCrowd(f *fixture) {
	w := f.seated()
	for _, name := range []string{"first", "ghost-0", "ghost-1", "ghost-2"} {
		f.must(f.redis.XGroupDelConsumer(f.ctx, f.Key("jobs"), queue.Group, name).Err())
	}
	f.waits(w) // which looks for leases that ran out
	f.leftSeat()
}

// TestWakeOnStandby: that wait can be ended, too.
func TestWakeOnStandby(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: time.Second})
	f.crowded()
	w := f.worker("w", 1, queue.Options{Block: time.Hour})
	f.wakes(w)
	if f.redis.ZScore(f.ctx, f.Key("idle"), "w").Err() == nil {
		t.Error("it has a seat")
	}
}

// TestDelayedJobOnStandby: who knows when the next job is due is there then.
func TestDelayedJobOnStandby(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{Block: time.Second})
	f.enqueue(queue.Job{ID: "j", NotBefore: time.Now().Add(time.Second)})
	f.crowded() // which delays it
	f.must(f.claim(f.worker("w", 1, queue.Options{Block: time.Hour})).Finish(f.ctx, nil))
	if f.redis.ZScore(f.ctx, f.Key("idle"), "ghost-0").Err() != nil || f.redis.Exists(f.ctx, f.Key("standby")).Val() != 0 {
		t.Error("that nobody else took it says nothing of those who have seats")
	}
	f.empty()
}

// TestStandbyRefused: jobs are run where Redis refuses all that a crowd needs.
func TestStandbyRefused(t *testing.T) {
	t.Parallel()
	old := strings.NewReplacer(" +lpush", "", " +ltrim", "", " +blpop", "").Replace(redistest.Rights(t, rights))
	for name, f := range map[string]*fixture{
		"rights":   on(t, redistest.ACL(t, old), queue.Options{Block: time.Second}),
		"commands": setup(t, queue.Options{Block: time.Second}, "--rename-command", "LPUSH", "", "--rename-command", "BLPOP", ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f.t = t
			refused(f)
		})
	}
}

func refused(f *fixture) {
	f.crowded()
	for _, spoilt := range [][]string{nil, {"standby"}, {"standby", "idle"}} {
		for _, key := range spoilt {
			f.must(f.redis.Set(f.ctx, f.Key(key), "x", 0).Err())
		}
		w := f.Consumer(fmt.Sprint("w", len(spoilt)))
		f.waits(w)
		f.add("id", fmt.Sprint("j", len(spoilt)))
		f.must(f.claim(w).Finish(f.ctx, nil))
		f.waits(w)
	}
	f.empty()
}
