//go:build acceptance

package acceptance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

// systemd cuts its own connections when it re-executes itself. `gpuherd list`
// waits for it, then, and fails no more than it does while nothing happens.
func TestListDuringReexec(t *testing.T) {
	const reexecs = 5
	h := open(t)
	workers := h.workers()
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range reexecs {
			if out, err := exec.Command("systemctl", "daemon-reexec").CombinedOutput(); err != nil {
				t.Errorf("systemctl daemon-reexec: %v: %s", err, out)
			}
		}
	}()
	defer func() { <-over }()
	lists := 0
	for going := true; going; lists++ {
		out := h.gpuherd(0, "list")
		for _, worker := range workers {
			if name := strings.TrimSuffix(worker, ".service"); !strings.Contains(out, name) {
				t.Errorf("%s is missing:\n%s", name, out)
			}
		}
		select {
		case <-over:
			going = false
		default:
		}
	}
	t.Logf("%d lists during %d re-executions", lists, reexecs)
	h.healthy()
}

// systemctl daemon-reload during load changes nothing: no worker restarts, no
// event is made up, the generator writes the same bytes, and every job is done.
func TestReloadUnderLoad(t *testing.T) {
	const reloads = 5
	h := open(t)
	h.jobs()
	workers := h.workers()
	before := map[string]unit{}
	for _, worker := range workers {
		before[worker] = h.mustUnit(worker)
	}
	files := generated(t)
	mark := h.redis.mark()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	load := make(chan error, 1)
	var done atomic.Int64
	go func() { load <- h.redis.load(ctx, jobID(t), 2*len(workers), &done) }()
	for i := range reloads {
		h.reload()
		if diff := cmp.Diff(files, generated(t)); diff != "" {
			t.Errorf("reload %d changed the generator's output (-before +after):\n%s", i+1, diff)
		}
	}
	stop()
	if err := <-load; err != nil {
		t.Fatal(err)
	}
	if done := done.Load(); done < reloads {
		t.Errorf("only %d jobs were done during %d reloads: that is no load", done, reloads)
	}
	h.healthy()

	for _, worker := range workers {
		after := h.mustUnit(worker)
		if after.PID != before[worker].PID || after.Invocation != before[worker].Invocation || after.Restarts != before[worker].Restarts {
			t.Errorf("%s was restarted: %+v, before %+v", worker, after, before[worker])
		}
	}
	events := h.redis.mustSince(mark)
	wantInOrder(t, events)
	for _, e := range events {
		if e.Type != state.TypeSnapshot {
			t.Errorf("nothing happened, but it is told that%v", e)
		}
	}
}

// A mistake in one service file costs that file only, and is shown with its
// place by verify and in the journal.
func TestBrokenServiceFile(t *testing.T) {
	h := open(t)
	workers := h.workers()
	before := map[string]unit{}
	for _, worker := range workers {
		before[worker] = h.mustUnit(worker)
	}
	files := generated(t)
	since := time.Now()

	broken := filepath.Join(servicesDir, "acceptance-broken.service")
	text := "[Unit]\nDescription=A file with a mistake\n[X-GPU]\nPer=gpu\nInstancez=2\n[Service]\nExecStart=/bin/true\n"
	if err := os.WriteFile(broken, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(broken); err != nil {
			t.Error(err)
		}
		h.reload()
	})
	h.reload()

	after := generated(t)
	maps.DeleteFunc(after, func(path, _ string) bool { return strings.Contains(path, "acceptance-broken") })
	if diff := cmp.Diff(files, after); diff != "" {
		t.Errorf("the mistake changed the other services (-before +after):\n%s", diff)
	}
	for _, worker := range workers {
		if u := h.mustUnit(worker); u.Active != "active" || u.PID != before[worker].PID {
			t.Errorf("%s is %+v, before %+v", worker, u, before[worker])
		}
	}
	// A restart proves that the units on disk still work, not only the
	// processes that were there before.
	h.restart(workers[0])

	place := broken + ":5"
	stdout, stderr, status := run(t, "gpuherd", "verify")
	if all := stdout + stderr; status != 1 || !strings.Contains(all, place) || !strings.Contains(all, "Instancez") {
		t.Errorf("gpuherd verify ended with %d, want 1, and names no %s Instancez:\n%s", status, place, all)
	}
	eventually(t, "the mistake is in the journal", func() error {
		journal, errs, status := run(t, "journalctl", "--boot", "--output=cat", "--no-pager", fmt.Sprintf("--since=@%d", since.Unix()))
		if status != 0 || !strings.Contains(journal, place) || !strings.Contains(journal, "Instancez") {
			return fmt.Errorf("journalctl ended with %d: %s%s", status, journal, errs)
		}
		return nil
	})
}
