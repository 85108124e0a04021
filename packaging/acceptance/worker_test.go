//go:build acceptance

package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gpuherd/units/queue"
)

// configure adds to gpuherd.conf for one test, and restarts the workers, which
// read it when they start.
func (h *herd) configure(text string) {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(jobConf), "91-test.conf")
	restart := func() {
		for _, worker := range h.workers() {
			h.restart(worker)
		}
	}
	h.t.Cleanup(func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Error(err)
		}
		restart()
	})
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	restart()
	h.healthy()
}

// stopTimeout changes TimeoutStopSec= of all workers for one test, while they run.
func (h *herd) stopTimeout(d time.Duration) {
	h.t.Helper()
	dir := "/run/systemd/system/redis-worker@.service.d"
	h.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			h.t.Error(err)
		}
		h.reload()
	})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "90-test.conf"), fmt.Appendf(nil, "[Service]\nTimeoutStopSec=%v\n", d), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.reload()
	h.healthy()
}

// processes lists those that run a job, or did so before they were orphans.
func processes(t *testing.T, job string) []int {
	t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range environs {
		data, _ := os.ReadFile(path) // it may have ended
		if slices.ContainsFunc(bytes.Split(data, []byte{0}), func(v []byte) bool { return string(v) == "JOB_ID="+job }) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// released counts the jobs that were handed back since ever.
func (h *herd) released() (n int) {
	h.t.Helper()
	ctx, cancel := brief()
	defer cancel()
	counts, err := h.redis.db.HGetAll(ctx, "gpuherd:queue:{gpu}:counts").Result()
	if err != nil {
		h.t.Fatal(err)
	}
	for name, value := range counts {
		if what, _, _ := strings.Cut(name, ":"); what == "released" {
			i, _ := strconv.Atoi(value)
			n += i
		}
	}
	return n
}

// begin enqueues a job and waits until its program runs.
func (h *herd) begin(k task) (id, worker string) {
	h.t.Helper()
	id = jobID(h.t)
	k.Mark = id
	h.redis.enqueue(id, k.String())
	eventually(h.t, "the job's process", func() error {
		if len(processes(h.t, id)) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	return id, h.owner(h.redis.waitJob(id, "running"))
}

func (h *herd) wantAttempts(job map[string]string, want string) {
	h.t.Helper()
	if job["attempts"] != want {
		h.t.Errorf("%s attempts of the job are counted, want %s: %v", job["attempts"], want, job)
	}
}

// A job that ends in time is finished by the worker that is stopped.
func TestStopLetsTheJobFinish(t *testing.T) {
	h := open(t)
	h.jobs()
	released := h.released()
	id, worker := h.begin(task{Do: "sleep", MS: 5000})
	t.Cleanup(func() { h.start(worker) })
	h.stop(worker)
	job, err := h.redis.jobState(id)
	if err != nil {
		t.Fatal(err)
	}
	if job["state"] != "succeeded" || h.owner(job) != worker {
		t.Errorf("when %s had stopped the job was %v", worker, job)
	}
	h.wantAttempts(job, "1")
	if n := h.released() - released; n != 0 {
		t.Errorf("%d jobs were handed back", n)
	}
	if u := h.mustUnit(worker); u.Result != "success" {
		t.Errorf("%s stopped with %s", worker, u.Result)
	}
}

// One that does not is ended, gone, and done elsewhere, at no cost: the worker
// knows how long systemd waits, also where that was changed under it.
func TestStopHandsTheJobBack(t *testing.T) {
	h := open(t)
	h.jobs()
	released := h.released()
	id, worker := h.begin(task{Do: "hold"})
	h.stopTimeout(8 * time.Second)
	t.Cleanup(func() { h.start(worker) })
	begin := time.Now()
	h.stop(worker)
	stopped := time.Now()
	if took := stopped.Sub(begin); took < 4*time.Second {
		t.Errorf("the job was given %v, of 8 s", took)
	}
	job := h.redis.waitJob(id, "succeeded")
	t.Logf("stopped in %v, done elsewhere %v later", stopped.Sub(begin).Round(time.Millisecond), time.Since(stopped).Round(time.Millisecond))
	if other := h.owner(job); other == worker {
		t.Errorf("it was done by %s, which is stopped", worker)
	}
	h.wantAttempts(job, "1")
	if n := h.released() - released; n != 1 {
		t.Errorf("%d jobs were handed back", n)
	}
	if pids := processes(t, id); len(pids) > 0 {
		t.Errorf("processes %v of the job are left", pids)
	}
	if u := h.mustUnit(worker); u.Result != "success" {
		t.Errorf("%s stopped with %s", worker, u.Result)
	}
}

// DrainMax= gives a job longer than TimeoutStopSec= would.
func TestLongDrain(t *testing.T) {
	h := open(t)
	h.jobs()
	h.configure("[Worker]\nDrainMax=1min\n")
	h.stopTimeout(3 * time.Second)
	id, worker := h.begin(task{Do: "sleep", MS: 8000})
	t.Cleanup(func() { h.start(worker) })
	h.stop(worker)
	job, err := h.redis.jobState(id)
	if err != nil {
		t.Fatal(err)
	}
	if job["state"] != "succeeded" || h.owner(job) != worker {
		t.Errorf("when %s had stopped the job was %v", worker, job)
	}
	h.wantAttempts(job, "1")
}

func TestCancelEndsTheJob(t *testing.T) {
	h := open(t)
	h.jobs()
	id, worker := h.begin(task{Do: "hold"})
	before := h.mustUnit(worker)
	q, err := queue.New(h.redis.db, "gpuherd", "gpu", queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	state, err := q.Cancel(context.Background(), id)
	if err != nil || state != queue.Running {
		t.Fatalf("the job that runs is %s, %v", state, err)
	}
	begin := time.Now()
	h.redis.waitJob(id, "cancelled")
	t.Logf("cancelled in %v", time.Since(begin).Round(time.Millisecond))
	if pids := processes(t, id); len(pids) > 0 {
		t.Errorf("processes %v of the job are left", pids)
	}
	if after := h.mustUnit(worker); after.PID != before.PID {
		t.Errorf("%s is %+v, before %+v", worker, after, before)
	}
}

// `journalctl JOB_ID=…` has all that was said of a job, and by it.
func TestJobInTheJournal(t *testing.T) {
	const lines, length = 3, 60
	h := open(t)
	h.jobs()
	id := jobID(t)
	h.redis.enqueue(id, task{Do: "print", Lines: lines, Bytes: length}.String())
	worker := h.owner(h.redis.waitJob(id, "succeeded"))
	want := []string{"job begins"}
	for i := range lines {
		want = append(want, "["+id+"] "+numbered(i, length))
	}
	want = append(want, "job finished")
	// That is told once Redis has heard it.
	eventually(t, "the journal tells of the job", func() error {
		out, stderr, _ := run(t, "journalctl", "--output=cat", "--no-pager", "JOB_ID="+id, "_SYSTEMD_UNIT="+worker)
		got := strings.Split(strings.TrimSpace(out), "\n")
		if len(got) != len(want) {
			return fmt.Errorf("it has %q, %s", got, stderr)
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				return fmt.Errorf("it has %q, want %q", got[i], want[i])
			}
		}
		return nil
	})
	if out, _, _ := run(t, "journalctl", "--output=cat", "--no-pager", "JOB_ID="+id, "PRIORITY=5"); strings.Count(out, "\n") != lines {
		t.Errorf("notices of the job: %s", out)
	}
}

// A worker whose jobs fail looks whether its GPU works, and ends with a status
// that says so where it does not. It is back when the GPU is.
func TestUnfitGPU(t *testing.T) {
	h := open(t)
	h.jobs()
	broken := filepath.Join(jobDir, "broken")
	h.configure("[Worker]\nFitness=/bin/sh -c 'if test -e " + broken + "; then echo it is broken >&2; exit 1; fi'\n")
	t.Cleanup(func() { _ = os.Remove(broken) })
	if err := os.WriteFile(broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	workers := h.workers()
	for i := range 10 * len(workers) {
		h.redis.enqueue(fmt.Sprintf("%s-%d", jobID(t), i), task{Do: "fail"}.String())
	}
	for _, worker := range workers {
		eventually(t, worker+" ends with 69", func() error {
			ctx, cancel := brief()
			defer cancel()
			properties, err := h.conn.GetAllPropertiesContext(ctx, worker)
			if err != nil {
				return err
			}
			status, text := properties["ExecMainStatus"], properties["StatusText"]
			if status != int32(69) || text != "GPU is not fit: /bin/sh: exit status 1: it is broken" {
				return fmt.Errorf("its status is %v, and it says %q", status, text)
			}
			return nil
		})
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	h.healthy()
}

// A worker that has run its number of jobs begins anew, and no job notices.
func TestWorkersBeginAnew(t *testing.T) {
	const each, jobs = 2, 12
	h := open(t)
	h.jobs()
	h.configure("[Worker]\nMaxJobs=" + strconv.Itoa(each) + "\n")
	before := uint32(0)
	for _, worker := range h.workers() {
		before += h.mustUnit(worker).Restarts
	}
	var ids []string
	for i := range jobs {
		id := fmt.Sprintf("%s-%d", jobID(t), i)
		h.redis.enqueue(id, task{Do: "sleep"}.String())
		ids = append(ids, id)
	}
	for _, id := range ids {
		h.wantAttempts(h.redis.waitJob(id, "succeeded"), "1")
	}
	h.healthy()
	after := uint32(0)
	for _, worker := range h.workers() {
		after += h.mustUnit(worker).Restarts
	}
	if n, least := int(after-before), jobs/each-len(h.workers())+1; n < least {
		t.Errorf("workers began anew %d times, want %d or more", n, least)
	}
}

// A restart says what the worker waits for, with the mend, while systemd's job
// goes on, and is done once that is mended.
func TestRestartTellsWhatIsWaitedFor(t *testing.T) {
	h := open(t)
	worker := strings.TrimSuffix(h.workers()[0], ".service")
	stranger := map[string]string{
		"/etc/gpuherd/gpuherd.conf.d/91-test.conf": "[Redis]\nURL=redis://stranger@127.0.0.1:6379\n",
		"/etc/credstore/gpuherd.redis-password":    "wrong",
	}
	t.Cleanup(func() {
		for path := range stranger {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
		h.gpuherd(0, "restart", worker)
		h.healthy()
	})
	for path, text := range stranger {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const waits, mend = "Redis at redis://xxxxx@127.0.0.1:6379 refuses the user or password", "check the user in [Redis] URL="
	said := h.gpuherd(1, "restart", worker, "--timeout", "15s")
	for _, want := range []string{
		worker + " is not ready yet: " + waits + "; " + mend,
		worker + " not yet restarted: the time is up; the job goes on; it says: " + waits,
		"1 of 1 units did not restart; " + mend,
	} {
		if !strings.Contains(said, want) {
			t.Errorf("restart does not say %q:\n%s", want, said)
		}
	}
}
