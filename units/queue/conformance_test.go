package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
	"gpuherd/units/redisclient"
)

// rights has those that a user of Redis needs.
const rights = "../../packaging/redis/gpuherd.rights"

// promises are what the queue keeps in every form of Redis.
var promises = []struct {
	name string
	opts queue.Options
	keep func(*fixture)
}{
	{"a plain XADD is claimed and finished", short, plainXADDIsClaimedAndFinished},
	{"finishing claims the next", short, finishingClaimsTheNext},
	{"several are claimed and finished at once", short, severalAreClaimedAndFinishedAtOnce},
	{"one of several is lost", queue.Options{Block: short.Block}, oneOfSeveralIsLost},
	{"several lose their worker", queue.Options{Block: short.Block}, severalLoseTheirWorker},
	{"one of several is renewed", queue.Options{Block: short.Block}, oneOfSeveralIsRenewed},
	{"a stream is deleted while another's job runs", short, streamIsDeletedWhileAnotherRuns},
	{"the hash of one of several is none", queue.Options{Block: short.Block}, hashOfOneOfSeveralIsNone},
	{"what has not begun is put back", queue.Options{Block: short.Block}, unbegunIsPutBack},
	{"enqueue is idempotent", short, enqueueIsIdempotent},
	{"an id that has ended is acknowledged without running", short, endedIDIsAcknowledgedWithoutRunning},
	{"the same id twice runs once", queue.Options{Block: short.Block}, sameIDTwiceRunsOnce},
	{"fencing: the lease ran out", queue.Options{Lease: 100 * time.Millisecond, Block: short.Block}, fencing("b")},
	{"fencing: the same name after a restart", queue.Options{Lease: time.Minute, Block: short.Block}, fencing("a")},
	{"fencing by owner", queue.Options{Block: short.Block}, fencingByOwner},
	{"a consumer leaves", short, leave},
	{"renewing keeps the lease", short, renewKeepsTheLease},
	{"a failed job is retried, then dies", short, failRetriesThenDies},
	{"a job that kills its worker dies", short, jobThatKillsItsWorkerDies},
	{"releasing costs no attempt and goes first", short, releaseCostsNoAttemptAndGoesFirst},
	{"a retry goes back to its priority", short, retryGoesBackToItsPriority},
	{"an entry is deleted while it runs", short, entryDeletedWhileItRuns},
	{"workers race", queue.Options{Block: short.Block}, twoWorkersRace},
	{"a crowd is called", short, crowdIsCalled},
	{"the dead have the seats", queue.Options{Block: time.Second}, deadHaveTheSeats},
	{"a seat is left for a lost job", short, seatIsLeftForALostJob},
	{"a seat is given up", queue.Options{Block: time.Second}, seatIsGivenUp},
	{"a seat is left with the crowd", short, seatIsLeftWithTheCrowd},
	{"a job waits for its time", short, notBefore},
	{"back-off grows with jitter", short, backsOff},
	{"cancelling ends what does not run", short, cancelEndsWhatDoesNotRun},
	{"cancelling, then released", short, cancelReachesTheWorker(false, "release")},
	{"cancelling, then failed", short, cancelReachesTheWorker(true, "fail")},
	{"cancelling, then failed for the last time", short, cancelReachesTheWorker(false, "last")},
	{"cancelling, then finished", short, cancelReachesTheWorker(true, "finish")},
	{"cancelling, then lost", short, cancelReachesTheWorker(false, "lost")},
	{"an attempt that was cancelled counts", short, cancelledAttemptCounts},
	{"dead and delayed are retried", short, retryOfDeadAndDelayed},
	{"the dead are retried and purged", short, deadAreRetriedAndPurged},
	{"list, find and stats", queue.Options{Block: short.Block}, listFindAndStats},
	{"a malformed twin leaves the job alone", short, malformedTwinLeavesTheJobAlone},
	{"a payload at the limit", short, payloadAtTheLimit},
	{"ids and payloads of every kind", short, oddIDsAndPayloads},
}

// TestConformance: in a Cluster all keys of a script have to be in one slot,
// with an ACL the commands those of the file that we ship, and by Sentinel all
// has to go to the master.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, form := range redistest.Forms(redistest.Rights(t, rights)) {
		t.Run(form.Name, func(t *testing.T) {
			t.Parallel()
			d := form.Start(t)
			for _, p := range promises {
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					p.keep(on(t, d, p.opts))
				})
			}
		})
	}
}

// A producer's user puts jobs in, by this package and without it, and reads
// what came of them: that, and nothing else.
func TestProducersRights(t *testing.T) {
	t.Parallel()
	d := redistest.ACL(t, redistest.Rights(t, "../../packaging/redis/producer.rights"))
	f := on(t, d, short)
	for _, j := range []queue.Job{{ID: "now"}, {ID: "later", NotBefore: time.Now().Add(time.Hour)}} {
		if added, err := f.Enqueue(f.ctx, j); !added || err != nil {
			t.Errorf("%s: %v, %v", j.ID, added, err)
		}
	}
	producer := d.Client(t)
	if err := producer.XAdd(f.ctx, &redis.XAddArgs{Stream: f.Key("jobs:high"), Values: []string{"id", "plain"}}).Err(); err != nil {
		t.Error(err)
	}
	worker, err := queue.New(f.redis, "gpuherd", f.name, short)
	if err != nil {
		t.Fatal(err)
	}
	c := f.claim(worker.Consumer("w"))
	if err := c.Finish(f.ctx, []byte("done")); err != nil || c.ID != "plain" {
		t.Errorf("%s: %v", c.ID, err)
	}
	if r, ok, err := f.Get(f.ctx, "plain"); err != nil || !ok || r.Result != "done" {
		t.Errorf("%+v, %v, %v", r, ok, err)
	}
	if all, err := producer.HGetAll(f.ctx, f.JobKey("plain")).Result(); err != nil || all["state"] != queue.Succeeded {
		t.Errorf("%v, %v", all, err)
	}
	for _, id := range []string{"now", "later", "plain", "unknown"} {
		if _, _, err := f.Find(f.ctx, id); err != nil && !errors.Is(err, queue.ErrUnknown) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, args := range [][]any{
		{"DEL", f.Key("jobs")}, {"SET", f.Key("paused"), "1"}, {"XTRIM", f.Key("jobs"), "MAXLEN", "0"}, {"PUBLISH", f.Key("cancel"), "now"},
		{"EVAL", "return redis.call('DEL', KEYS[1])", "1", f.Key("jobs")}, {"HGETALL", "gpuherd:{host}:units"}, {"KEYS", "*"},
	} {
		if err := producer.Do(f.ctx, args...).Err(); err == nil || redisclient.Diagnose(err).Reason != redisclient.Forbidden {
			t.Errorf("%v: %v", args, err)
		}
	}
}
