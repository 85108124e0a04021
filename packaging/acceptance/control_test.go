//go:build acceptance

package acceptance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// gpuherd runs the CLI, which has to end with that status, and returns what it
// printed.
func (h *herd) gpuherd(status int, args ...string) string {
	h.t.Helper()
	stdout, stderr, got := run(h.t, "gpuherd", args...)
	if got != status {
		h.t.Fatalf("gpuherd %s ended with %d, want %d:\n%s%s", strings.Join(args, " "), got, status, stdout, stderr)
	}
	return stdout + stderr
}

// invocations tells which start each worker runs since.
func (h *herd) invocations(workers []string) map[string]string {
	h.t.Helper()
	of := map[string]string{}
	for _, worker := range workers {
		of[worker] = h.mustUnit(worker).Invocation
	}
	return of
}

// A rolling reload under load takes one worker away at a time, no job fails, and
// jobs are done all the while; where a worker does not come up it stops, and the
// others run on.
func TestRollingReload(t *testing.T) {
	h := open(t)
	h.jobs()
	workers := h.workers()
	before := h.invocations(workers)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	load := make(chan error, 1)
	var done atomic.Int64
	go func() { load <- h.redis.load(ctx, jobID(t), len(workers)+4, &done) }()
	watched := make(chan rolled, 1)
	go func() { watched <- h.watchRolling(ctx, workers, &done) }()

	h.gpuherd(0, "reload", "redis-worker", "--settle", "200ms")
	stop()
	if err := <-load; err != nil {
		t.Fatal(err)
	}
	r := <-watched
	if r.away > 1 {
		t.Errorf("%d workers were away at once", r.away)
	}
	if len(r.done) != len(workers) {
		t.Errorf("%d workers were seen away, want %d", len(r.done), len(workers))
	}
	for i := 1; i < len(r.done); i++ {
		if r.done[i] == r.done[i-1] {
			t.Errorf("from one worker to the next no job was done: %v", r.done)
		}
	}
	for worker, now := range h.invocations(workers) {
		if now == before[worker] {
			t.Errorf("%s was not restarted", worker)
		}
	}
	h.healthy()

	// The second one is never ready.
	before = h.invocations(workers)
	broken := filepath.Join("/etc/systemd/system", workers[1]+".d", "90-broken.conf")
	if err := os.MkdirAll(filepath.Dir(broken), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Dir(broken)); err != nil {
			t.Error(err)
		}
		h.reload()
		h.restart(workers[1])
	})
	if err := os.WriteFile(broken, []byte("[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nTimeoutStartSec=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	said := h.gpuherd(1, "reload", "redis-worker", "--settle", "200ms")
	short := func(i int) string { return strings.TrimSuffix(workers[i], ".service") }
	for _, want := range []string{
		"stopped at " + short(1), "run as before: " + short(2), "to go back, undo your change, then: gpuherd reload " + short(1) + " " + short(0),
	} {
		if !strings.Contains(said, want) {
			t.Errorf("reload does not say %q:\n%s", want, said)
		}
	}
	after := h.invocations(workers)
	for i, worker := range workers {
		if i == 1 {
			continue
		}
		if u := h.mustUnit(worker); u.Active != "active" {
			t.Errorf("%s is %s/%s", worker, u.Active, u.Sub)
		}
		if restarted := after[worker] != before[worker]; restarted != (i == 0) {
			t.Errorf("%s was restarted: %v", worker, restarted)
		}
	}
}

// rolled is what a rolling reload did.
type rolled struct {
	away int     // most workers that were not active at once
	done []int64 // jobs, whenever a worker was back
}

// watchRolling watches workers until ctx ends.
func (h *herd) watchRolling(ctx context.Context, workers []string, done *atomic.Int64) rolled {
	var r rolled
	was := map[string]bool{} // away
	for ctx.Err() == nil {
		statuses, err := h.conn.ListUnitsByNamesContext(context.WithoutCancel(ctx), workers)
		if err != nil {
			r.away = len(workers)
			return r
		}
		away := 0
		for _, status := range statuses {
			if status.ActiveState != "active" {
				away++
			} else if was[status.Name] {
				r.done = append(r.done, done.Load())
			}
			was[status.Name] = status.ActiveState != "active"
		}
		r.away = max(r.away, away)
		time.Sleep(5 * time.Millisecond)
	}
	return r
}

// scale starts and stops the difference, and touches nobody else.
func TestScale(t *testing.T) {
	h := open(t)
	workers := h.workers()
	before := h.invocations(workers)
	conf := "/etc/gpuherd/gpuherd.conf.d/90-redis-worker.conf"

	said := h.gpuherd(0, "scale", "redis-worker", "2")
	if !strings.Contains(said, conf) || !strings.Contains(said, "gpuherd scale redis-worker 1") {
		t.Errorf("scale names no file or no way back:\n%s", said)
	}
	if got := h.workers(); len(got) != 2*len(workers) {
		t.Errorf("workers are %v, want two for each of %v", got, workers)
	}
	for _, worker := range h.workers() {
		if u := h.mustUnit(worker); u.Active != "active" {
			t.Errorf("%s is %s/%s", worker, u.Active, u.Sub)
		}
	}
	h.healthy()
	h.gpuherd(0, "scale", "redis-worker", "1")
	if got := h.workers(); !slices.Equal(got, workers) {
		t.Errorf("workers are %v, want %v", got, workers)
	}
	if _, err := os.Stat(conf); err == nil {
		t.Errorf("%s is left behind", conf)
	}
	for worker, now := range h.invocations(workers) {
		if now != before[worker] {
			t.Errorf("%s was restarted", worker)
		}
	}
}

// A service of the operator comes, goes with its file kept, and comes back.
func TestDeleteAndEnable(t *testing.T) {
	h := open(t)
	const name = "acceptance-own"
	file := filepath.Join(servicesDir, name+".service")
	unit := name + "@0.service"
	text := "[Unit]\nDescription=Takes its time to end\n[X-GPU]\nPer=gpu\nEnabled=no\n[Service]\nExecStart=/bin/sleep infinity\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, path := range []string{file, file + ".deleted", "/etc/gpuherd/gpuherd.conf.d/90-" + name + ".conf"} {
			if err := os.RemoveAll(path); err != nil {
				t.Error(err)
			}
		}
		h.reload()
	})
	is := func(active string) {
		t.Helper()
		if u := h.mustUnit(unit); u.Active != active {
			t.Errorf("%s is %s/%s (%s), want %s", unit, u.Active, u.Sub, u.Load, active)
		}
	}
	h.gpuherd(0, "enable", name)
	is("active")
	h.gpuherd(0, "delete", name)
	is("inactive")
	if kept, err := os.ReadFile(file + ".deleted"); err != nil || string(kept) != text {
		t.Errorf("the operator's file is not kept: %v", err)
	}
	if names, err := h.herd(); err != nil || slices.Contains(names, unit) {
		t.Errorf("%s still wants it: %v, %v", target, names, err)
	}
	h.gpuherd(0, "verify")
	h.gpuherd(0, "enable", name)
	is("active")

	// Without its file it runs on, which is told, and stop ends it.
	aside := file + ".aside"
	t.Cleanup(func() { _ = os.Remove(aside) }) // it was put back
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		h.reload()
	}
	move(file, aside)
	is("active")
	if said := h.gpuherd(0, "list"); !strings.Contains(said, "not configured any more, but running: "+unit) {
		t.Errorf("list does not tell of %s:\n%s", unit, said)
	}
	if said, _, _ := run(t, "gpuherd", "doctor"); !strings.Contains(said, unit+" runs, but nothing configures it") {
		t.Errorf("doctor does not tell of %s:\n%s", unit, said)
	}
	h.gpuherd(0, "stop", strings.TrimSuffix(unit, ".service"))
	is("inactive")
	move(aside, file)
	h.gpuherd(0, "delete", name)
	is("inactive")
}

// What was stopped when it was saved does not start with the target, and does
// by hand.
func TestSaveAndResurrect(t *testing.T) {
	h := open(t)
	workers := h.workers()
	last := workers[len(workers)-1]
	number := instance(last)
	defer func() {
		h.start(target)
		h.gpuherd(0, "start", "all")
		h.gpuherd(0, "save")
	}()
	is := func(active string) {
		t.Helper()
		eventually(t, last+" "+active, func() error {
			if u := h.mustUnit(last); u.Active != active {
				return fmt.Errorf("it is %s/%s", u.Active, u.Sub)
			}
			return nil
		})
	}
	h.gpuherd(0, "stop", number)
	if said := h.gpuherd(0, "save"); !strings.Contains(said, "stopped stay redis-worker ("+number+")") {
		t.Errorf("save says:\n%s", said)
	}

	// Start by hand, also before the target comes up anew.
	h.gpuherd(0, "start", number)
	is("active")
	h.gpuherd(0, "resurrect")
	is("inactive")

	// What a boot does.
	h.stop(target)
	for _, worker := range append([]string{monitorUnit, "gpuherd-up.service"}, workers...) {
		eventually(t, worker+" stops", func() error {
			if u := h.mustUnit(worker); u.Active != "inactive" {
				return fmt.Errorf("it is %s/%s", u.Active, u.Sub)
			}
			return nil
		})
	}
	h.start(target)
	for _, worker := range append([]string{monitorUnit, "gpuherd-up.service"}, workers[:len(workers)-1]...) {
		eventually(t, worker+" starts", func() error {
			if u := h.mustUnit(worker); u.Active != "active" {
				return fmt.Errorf("it is %s/%s", u.Active, u.Sub)
			}
			return nil
		})
	}
	is("inactive")
	h.gpuherd(0, "start", number)
	is("active")

	h.gpuherd(0, "save")
	if _, err := os.Stat("/etc/gpuherd/gpuherd.conf.d/90-redis-worker.conf"); err == nil {
		t.Error("nothing is stopped, and a file says what is")
	}
}
