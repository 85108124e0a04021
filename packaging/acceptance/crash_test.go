//go:build acceptance

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"gpuherd/monitor/state"
)

// A killed worker is back as a new process, told once, and its successor
// finishes the job that it held.
func TestKilled(t *testing.T) {
	h := open(t)
	h.jobs()
	id := jobID(t)
	h.redis.enqueue(id, task{Do: "hold", Mark: id}.String())
	eventually(t, "the job has begun", func() error { _, err := os.Stat(filepath.Join(jobDir, id)); return err })
	worker := h.owner(h.redis.waitJob(id, "running"))
	told := h.told(worker)
	mark := h.redis.mark()

	before := h.kill(worker)
	eventually(t, worker+" is back", func() error { return h.replaced(before) })
	job := h.redis.waitJob(id, "succeeded")
	h.healthy()

	after := h.mustUnit(worker)
	if after.Restarts != before.Restarts+1 {
		t.Errorf("systemd restarted %s %d times, want once", worker, after.Restarts-before.Restarts)
	}
	if got := h.told(worker); got != told+1 {
		t.Errorf("redis counts %d restarts of %s, want %d", got, worker, told+1)
	}
	events := h.redis.mustSince(mark)
	wantInOrder(t, events)
	wantPhases(t, events, worker, state.Failed, state.Starting, state.Running)
	for _, e := range of(events, worker) {
		if e.Unit.Event == state.Failed && (e.Unit.Result != "signal" || e.Unit.ExitCode != "killed" || e.Unit.ExitStatus != 9) {
			t.Errorf("the crash is told as %v, want SIGKILL", e.Data)
		}
	}
	// The worker reads its own pending entries first, so the successor is
	// the same worker, and the answer comes from the new invocation of it.
	if got := h.owner(job); got != worker {
		t.Errorf("the job was finished by %s, want %s", got, worker)
	}
	if got := answerOf(t, job).Invocation; got != after.Invocation {
		t.Errorf("the job was finished by invocation %s, want the successor's %s (before: %s)", got, after.Invocation, before.Invocation)
	}
}

// Who listens on the channel hears of the end of a worker's process before
// systemd has said so, and never after it.
func TestEndIsTold(t *testing.T) {
	const tries = 20 // on a busy machine systemd may be faster
	h := open(t)
	worker := h.workers()[0]
	sub := h.redis.db.Subscribe(t.Context(), h.redis.key("notify"))
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range tries {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		before := h.kill(worker)
		var told []string
		for running := false; !running; {
			m, err := sub.ReceiveMessage(ctx)
			if err != nil {
				t.Fatalf("after %v: %v", told, err)
			}
			var e struct {
				Type string
				Data state.UnitEvent
			}
			if err := json.Unmarshal([]byte(m.Payload), &e); err != nil {
				t.Fatalf("%s: %v", m.Payload, err)
			}
			if e.Data.Name != worker || e.Type == state.TypeStatus {
				continue
			}
			if e.Type == state.TypeExit && e.Data.PID != before.PID {
				t.Errorf("the end of %d was told, killed was %d", e.Data.PID, before.PID)
			}
			told = append(told, e.Type+" "+e.Data.Event)
			running = e.Data.Event == state.Running
		}
		h.healthy()
		known := []string{"unit failed", "unit starting", "unit running"}
		if slices.Equal(told, known) {
			continue
		}
		if diff := cmp.Diff(append([]string{"exit exited"}, known...), told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		return
	}
	t.Errorf("of %d ends none was told before systemd told it", tries)
}

// A job that takes too much memory is killed by the kernel at the limit of its
// worker's unit. The worker tells of what it died, ends, and is back.
func TestOutOfMemory(t *testing.T) {
	const limit, wanted = 2 << 30, 3 << 30
	h := open(t)
	h.jobs()
	for _, worker := range h.workers() {
		if got := cgroupNumber(t, h.mustUnit(worker), "memory.max"); got != limit {
			t.Fatalf("%s may take %d bytes, want %d", worker, got, limit)
		}
	}
	told := map[string]uint64{}
	before := map[string]unit{}
	for _, worker := range h.workers() {
		told[worker], before[worker] = h.told(worker), h.mustUnit(worker)
	}
	mark := h.redis.mark()
	kernel := followKernel(t)

	id := jobID(t)
	h.redis.enqueue(id, task{Do: "allocate", Mark: id, Bytes: wanted}.String())
	// Whoever is free does it the second time.
	worker := h.owner(h.redis.waitJob(id, "running"))
	reason := ""
	// The cgroup goes away with its processes, so its peak is read until then.
	peaks := map[string]uint64{}
	eventually(t, "the job is finished by a successor", func() error {
		for name, u := range before {
			if data, err := os.ReadFile(cgroupFile(u, "memory.peak")); err == nil {
				peak, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
				peaks[name] = max(peaks[name], peak)
			}
		}
		job, err := h.redis.jobState(id)
		if job["reason"] != "" {
			reason = job["reason"]
		}
		if err == nil && job["state"] != "succeeded" {
			err = fmt.Errorf("it is %v", job)
		}
		return err
	})
	h.healthy()
	job, err := h.redis.jobState(id)
	if err != nil {
		t.Fatal(err)
	}
	if job["attempts"] != "2" || reason != "oom" {
		t.Errorf("it took %s attempts, the first one failed for %q, want oom", job["attempts"], reason)
	}

	// What a process needs while it is being killed, the kernel charges above the
	// limit rather than wait for it (try_charge_memcg in mm/memcontrol.c): pages,
	// which are seen where the kill takes a moment.
	const forced = 1 << 20
	if peak := peaks[worker]; peak > limit+forced || peak < limit/2 {
		t.Errorf("%s took %d bytes at its peak, want at most %d, and not much less", worker, peak, limit)
	}
	if log := kernel(); !strings.Contains(log, "Memory cgroup out of memory: Killed process") {
		t.Errorf("the kernel tells of no kill:\n%s", log)
	}
	after := h.mustUnit(worker)
	if after.Restarts != before[worker].Restarts+1 || after.Invocation == before[worker].Invocation {
		t.Errorf("%s is %+v, before %+v, want one restart", worker, after, before[worker])
	}
	events := h.redis.mustSince(mark)
	wantInOrder(t, events)
	// Where the kernel's killing takes a moment, systemd kills the rest, which
	// is a phase of its own.
	wantPhases(t, without(events, state.Stopping), worker, state.Failed, state.Starting, state.Running)
	told[worker]++
	for _, e := range of(events, worker) {
		if e.Unit.Event == state.Failed && e.Unit.Result != "oom-kill" {
			t.Errorf("the kill is told as %s, want result oom-kill", e.Data)
		}
	}
	for name, want := range told {
		if got := h.told(name); got != want {
			t.Errorf("redis counts %d restarts of %s, want %d", got, name, want)
		}
	}
}

// While Redis is away workers are killed and come back, nothing else dies,
// and every event is in Redis afterwards, in order.
func TestRedisAway(t *testing.T) {
	const away, kills = 20 * time.Second, 3
	h := open(t)
	workers := h.workers()
	names, err := h.herd()
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]unit{}
	told := map[string]uint64{}
	for _, name := range names {
		before[name], told[name] = h.mustUnit(name), h.told(name)
	}
	mark := h.redis.mark()

	h.stop(redisUnit)
	t.Cleanup(func() { h.start(redisUnit) })
	back := time.NewTimer(away)
	for range kills {
		for _, worker := range workers {
			killed := h.kill(worker)
			eventually(t, worker+" is started again", func() error {
				u, err := h.unit(worker)
				if err == nil && (u.PID == 0 || u.PID == killed.PID) {
					err = fmt.Errorf("it is %+v", u)
				}
				return err
			})
		}
	}
	<-back.C
	h.start(redisUnit)
	h.healthy()

	for _, name := range names {
		want := before[name]
		count := uint64(0)
		if slices.Contains(workers, name) {
			count = kills
		}
		after := h.mustUnit(name)
		if uint64(after.Restarts-want.Restarts) != count {
			t.Errorf("%s was restarted %d times, want %d", name, after.Restarts-want.Restarts, count)
		}
		if count == 0 && after.Invocation != want.Invocation {
			t.Errorf("%s died: %+v, before %+v", name, after, want)
		}
		if got := h.told(name) - told[name]; got != count {
			t.Errorf("redis counts %d restarts of %s, want %d", got, name, count)
		}
	}
	events := h.redis.mustSince(mark)
	wantInOrder(t, events)
	// A worker is ready once Redis answers, so that none runs before that.
	var phases []string
	for range kills {
		phases = append(phases, state.Failed, state.Starting)
	}
	for _, worker := range workers {
		wantPhases(t, events, worker, append(phases, state.Running)...)
	}
	if i := slices.IndexFunc(events, func(e event) bool { return e.Type == state.TypeGap }); i >= 0 {
		t.Errorf("events were lost: %s", events[i].Data)
	}
}

// A killed monitor is back with the next epoch, and tells what happened
// without it.
func TestMonitorKilled(t *testing.T) {
	h := open(t)
	old, err := h.redis.heartbeat()
	if err != nil {
		t.Fatal(err)
	}
	worker := h.workers()[0]
	told := h.told(worker)
	mark := h.redis.mark()

	monitor := h.kill(monitorUnit)
	killed := h.kill(worker) // nobody sees it
	eventually(t, "the monitor is back", func() error { return h.replaced(monitor) })
	eventually(t, worker+" is back", func() error { return h.replaced(killed) })
	h.healthy()

	eventually(t, "the next epoch", func() error {
		beat, err := h.redis.heartbeat()
		if err == nil && beat.Epoch != old.Epoch+1 {
			err = fmt.Errorf("epoch is %d, was %d", beat.Epoch, old.Epoch)
		}
		return err
	})
	if got := h.told(worker); got != told+1 {
		t.Errorf("redis counts %d restarts of %s, want %d", got, worker, told+1)
	}
	events := h.redis.mustSince(mark)
	wantInOrder(t, events)
	if !slices.ContainsFunc(events, func(e event) bool { return e.Epoch == old.Epoch+1 }) {
		t.Errorf("no event of epoch %d: %v", old.Epoch+1, events)
	}
	wantPhases(t, events, worker, state.Failed, state.Starting, state.Running)
	for _, e := range of(events, worker) {
		if e.Unit.Event == state.Failed && (!e.Unit.Backfilled || e.Unit.ExitStatus != 9) {
			t.Errorf("the crash that nobody saw is told as %s", e.Data)
		}
	}
	for _, other := range h.workers()[1:] {
		if mine := of(events, other); len(mine) > 0 {
			t.Errorf("%s did nothing, but it is told that%v", other, mine)
		}
	}
}

// told is the count of restarts in Redis.
func (h *herd) told(unit string) uint64 {
	h.t.Helper()
	units, err := h.redis.units()
	if err != nil {
		h.t.Fatal(err)
	}
	return units[unit].Restarts
}

// replaced says why a unit does not yet run as another process.
func (h *herd) replaced(before unit) error {
	u, err := h.unit(before.Name)
	if err == nil && (u.Active != "active" || u.PID == 0 || u.PID == before.PID || u.Invocation == before.Invocation) {
		err = fmt.Errorf("it is %+v", u)
	}
	return err
}

func cgroupFile(u unit, name string) string {
	return filepath.Join("/sys/fs/cgroup", u.ControlGroup, name)
}

func cgroupNumber(t *testing.T, u unit, name string) uint64 {
	t.Helper()
	data, err := os.ReadFile(cgroupFile(u, name))
	if err != nil {
		t.Fatalf("this test wants cgroup v2: %v", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Fatalf("%s of %s: %v", name, u.Name, err)
	}
	return n
}

// followKernel starts at the end of the kernel's log; the function that it
// returns gives what has come since.
func followKernel(t *testing.T) func() string {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("cannot read the kernel's log: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatalf("cannot read the kernel's log: %v", err)
	}
	return func() string {
		var log bytes.Buffer
		record := make([]byte, 8<<10)
		for {
			n, err := unix.Read(fd, record)
			if errors.Is(err, unix.EPIPE) {
				continue // records were overwritten
			}
			if err != nil || n <= 0 {
				return log.String()
			}
			log.Write(record[:n])
		}
	}
}
