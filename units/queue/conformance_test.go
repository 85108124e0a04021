package queue_test

import (
	"testing"
	"time"

	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

// manual has the rights that a user of Redis needs.
const manual = "../../packaging/man/gpuherd-monitor.8"

// promises are what the queue keeps in every form of Redis.
var promises = []struct {
	name string
	opts queue.Options
	keep func(*fixture)
}{
	{"a plain XADD is claimed and finished", short, plainXADDIsClaimedAndFinished},
	{"finishing claims the next", short, finishingClaimsTheNext},
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
	{"a job waits for its time", short, notBefore},
	{"back-off grows with jitter", short, backsOff},
	{"cancelling ends what does not run", short, cancelEndsWhatDoesNotRun},
	{"cancelling, then released", short, cancelReachesTheWorker(false, "release")},
	{"cancelling, then failed", short, cancelReachesTheWorker(true, "fail")},
	{"cancelling, then failed for the last time", short, cancelReachesTheWorker(false, "last")},
	{"cancelling, then finished", short, cancelReachesTheWorker(true, "finish")},
	{"cancelling, then lost", short, cancelReachesTheWorker(false, "lost")},
	{"dead and delayed are retried", short, retryOfDeadAndDelayed},
	{"the dead are retried and purged", short, deadAreRetriedAndPurged},
	{"list, find and stats", queue.Options{Block: short.Block}, listFindAndStats},
	{"a malformed twin leaves the job alone", short, malformedTwinLeavesTheJobAlone},
	{"a payload at the limit", short, payloadAtTheLimit},
	{"ids and payloads of every kind", short, oddIDsAndPayloads},
}

// TestConformance: in a Cluster all keys of a script have to be in one slot,
// with an ACL the commands those that the manual names, and by Sentinel all
// has to go to the master.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, form := range redistest.Forms(redistest.DocumentedRights(t, manual)) {
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
