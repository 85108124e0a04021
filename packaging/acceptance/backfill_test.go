//go:build acceptance

package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/journal"
	"gpuherd/monitor/state"
)

// zoo are units of every kind that comes to its end in another way.
var zoo = map[string]string{
	"zoo-simple.service":    "[Service]\nExecStart=/bin/sleep 1000\nRestart=always\nRestartSec=0\n",
	"zoo-notify.service":    "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'\nExecReload=/bin/true\nRestart=always\nRestartSec=50ms\n",
	"zoo-exits.service":     "[Service]\nExecStart=/bin/sh -c 'sleep 0.2; exit 3'\nRestart=always\nRestartSec=100ms\n",
	"zoo-ends.service":      "[Service]\nExecStart=/bin/sleep 0.3\nRestart=always\nRestartSec=100ms\n",
	"zoo-oneshot.service":   "[Service]\nType=oneshot\nExecStartPre=/bin/true\nExecStart=/bin/sleep 0.1\n",
	"zoo-remains.service":   "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
	"zoo-missing.service":   "[Service]\nExecStart=/nonexistent\nRestart=on-failure\nRestartSec=500ms\n",
	"zoo-pre.service":       "[Service]\nExecStartPre=/bin/sh -c 'exit 1'\nExecStart=/bin/sleep 1000\n",
	"zoo-slow.service":      "[Service]\nType=notify\nTimeoutStartSec=300ms\nExecStart=/bin/sleep 1000\nRestart=always\nRestartSec=1\n",
	"zoo-deaf.service":      "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'\nTimeoutStopSec=300ms\nRestart=always\nRestartSec=0\n",
	"zoo-direct.service":    "[Service]\nExecStart=/bin/sleep 1000\nRestart=always\nRestartMode=direct\nRestartSec=10ms\n",
	"zoo-limited.service":   "[Unit]\nStartLimitIntervalSec=10\nStartLimitBurst=3\n[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=0\n",
	"zoo-children.service":  "[Service]\nKillMode=mixed\nExecStart=/bin/sh -c '(trap \"\" TERM; sleep 1000) & sleep 1000; exit 4'\nTimeoutStopSec=400ms\nRestart=always\nRestartSec=0\n",
	"zoo-skipped.service":   "[Unit]\nConditionPathExists=/nonexistent\n[Service]\nExecStart=/bin/sleep 1000\n",
	"zoo-condition.service": "[Service]\nExecCondition=/bin/false\nExecStart=/bin/sleep 1000\n",
}

// join makes units members of the herd for the time of a test.
func (h *herd) join(units map[string]string) {
	h.t.Helper()
	const dir = "/run/systemd/system"
	wants := filepath.Join(dir, target+".wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		h.t.Fatal(err)
	}
	var paths []string
	for name, text := range units {
		file := filepath.Join(dir, name)
		if at := strings.Index(name, "@"); at >= 0 {
			file = filepath.Join(dir, name[:at+1]+".service")
		}
		link := filepath.Join(wants, name)
		if !strings.Contains(text, "StartLimitIntervalSec=") {
			text = "[Unit]\nStartLimitIntervalSec=0\n" + text
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Symlink(file, link); err != nil {
			h.t.Fatal(err)
		}
		paths = append(paths, link, file)
	}
	h.reload()
	h.t.Cleanup(func() {
		for name := range units {
			h.do("stop", name)
		}
		for _, path := range paths {
			_ = os.Remove(path)
		}
		h.reload()
		for name := range units {
			h.do("reset-failed", name)
		}
	})
}

// do does something to a unit as a person would, who does not mind whether it
// goes well, and waits for its end.
func (h *herd) do(verb, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan string, 1)
	var err error
	switch verb {
	case "start":
		_, err = h.conn.StartUnitContext(ctx, name, "replace", done)
	case "stop":
		_, err = h.conn.StopUnitContext(ctx, name, "replace", done)
	case "restart":
		_, err = h.conn.RestartUnitContext(ctx, name, "replace", done)
	case "reload":
		_, err = h.conn.ReloadUnitContext(ctx, name, "replace", done)
	case "reset-failed":
		_ = h.conn.ResetFailedUnitContext(ctx, name)
		return
	case "kill":
		_ = h.conn.KillUnitWithTarget(ctx, name, dbus.All, 9)
		return
	case "term":
		_ = h.conn.KillUnitWithTarget(ctx, name, dbus.All, 15)
		return
	}
	if err != nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// What happens while no monitor runs is read back from the journal: each phase
// once, with what is known of it, before anything that is seen live. Where
// Redis has forgotten what it was told, the monitor's own note of it does.
func TestBackfilled(t *testing.T) {
	h := open(t)
	h.join(map[string]string{
		"past-simple.service": zoo["zoo-simple.service"],
		"past-notify.service": zoo["zoo-notify.service"],
		"past-fails.service":  "[Service]\nExecStart=/bin/sh -c 'exit 3'\n",
		"past-quiet.service":  "[Service]\nExecStart=/bin/sleep 1000\n",
	})
	for _, name := range []string{"past-simple.service", "past-notify.service", "past-quiet.service"} {
		h.do("start", name)
	}
	for _, tt := range []struct {
		name   string
		killed bool // the monitor is, and Redis emptied
	}{{"stopped in good order", false}, {"killed, and Redis has forgotten", true}} {
		h.same()
		before, err := h.redis.units()
		if err != nil {
			t.Fatal(err)
		}
		if tt.killed {
			eventually(t, "the monitor has noted how far it told", func() error { return noted(before) })
			h.kill(monitorUnit)
		}
		h.do("stop", monitorUnit) // also where it waits for its restart
		mark := h.redis.mark()
		if tt.killed {
			ctx, cancel := brief()
			defer cancel()
			if err := h.redis.db.FlushAll(ctx).Err(); err != nil {
				t.Fatal(err)
			}
			mark = "0"
		}

		h.do("kill", "past-simple.service")
		eventually(t, "it is back", func() error {
			return h.replaced(unit{Name: "past-simple.service", Invocation: before["past-simple.service"].InvocationID})
		})
		h.do("restart", "past-notify.service")
		h.do("start", "past-fails.service")
		eventually(t, "it has failed", func() error {
			u, err := h.unit("past-fails.service")
			if err == nil && u.Active != "failed" {
				err = fmt.Errorf("it is %+v", u)
			}
			return err
		})
		h.do("start", monitorUnit)
		h.same()
		h.do("stop", "past-quiet.service") // seen live
		h.do("start", "past-quiet.service")
		h.same()

		events := h.redis.mustSince(mark)
		wantInOrder(t, events)
		got := map[string][]string{}
		for _, e := range events {
			if !strings.HasPrefix(e.Unit.Name, "past-") {
				continue
			}
			u := e.Unit
			line := fmt.Sprintf("%s %s restarts=%d", u.Event, u.Result, u.Restarts-before[u.Name].Restarts)
			if u.ExitCode != "" {
				line += fmt.Sprintf(" %s/%d", u.ExitCode, u.ExitStatus)
			}
			if u.Backfilled {
				line += " backfilled"
			}
			if u.Resynced {
				line += " resynced"
			}
			got[u.Name] = append(got[u.Name], line)
		}
		again := uint64(0)
		if tt.killed {
			again = 1 // it ran the time before
		}
		want := map[string][]string{
			"past-simple.service": {"failed signal restarts=0 killed/9 backfilled", "running success restarts=1 backfilled"},
			"past-notify.service": {"stopping success restarts=0 backfilled", "stopped success restarts=0 backfilled",
				"starting success restarts=1 backfilled", "running success restarts=1 backfilled"},
			"past-fails.service": {fmt.Sprintf("running success restarts=%d backfilled", again),
				fmt.Sprintf("failed exit-code restarts=%d exited/3 backfilled", again)},
			"past-quiet.service": {"stopping success restarts=0", "stopped success restarts=0 killed/15", "running success restarts=1"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s%v", tt.name, diff, events)
		}
		order := slices.IndexFunc(events, func(e event) bool { return strings.HasPrefix(e.Unit.Name, "past-") && !e.Unit.Backfilled })
		if i := order + slices.IndexFunc(events[order:], func(e event) bool { return e.Unit.Backfilled }); i >= order {
			t.Errorf("%s: after what was seen live comes%v", tt.name, events[i])
		}
	}
}

// same waits until Redis tells the same as systemd of every unit.
func (h *herd) same() {
	h.t.Helper()
	eventually(h.t, "Redis tells what systemd does", func() error {
		names, err := h.herd()
		if err == nil {
			err = h.differ(names)
		}
		if err == nil {
			_, err = h.redis.heartbeat()
		}
		return err
	})
}

// noted says what the monitor has not noted yet of what it told.
func noted(told map[string]state.Unit) error {
	data, err := os.ReadFile("/var/lib/gpuherd/position.json")
	if err != nil {
		return err
	}
	var p struct{ Units map[string]state.Seed }
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	for name, u := range told {
		if got := p.Units[name]; got.InvocationID != u.InvocationID || got.Restarts != u.Restarts {
			return fmt.Errorf("%s is noted as %+v, told as %+v", name, got, u)
		}
	}
	return nil
}

// What the journal tells of a time is what the monitor told of it live.
func TestJournalTellsTheSame(t *testing.T) {
	const actions = 150
	h := open(t)
	h.join(zoo)
	h.same()
	seeds := map[string]state.Seed{}
	units, err := h.redis.units()
	if err != nil {
		t.Fatal(err)
	}
	for name, u := range units {
		seeds[name] = state.NewSeed(u)
	}
	mark, from := h.redis.mark(), journal.Monotonic()
	var names []string
	for name := range zoo {
		names = append(names, name)
	}
	verbs := []string{"start", "start", "start", "stop", "restart", "reload", "kill", "kill", "term"}
	var done []string
	for range actions {
		verb, name := verbs[rand.N(len(verbs))], names[rand.N(len(names))]
		done = append(done, verb+" "+name)
		h.do(verb, name)
	}
	for _, name := range names {
		h.do("stop", name)
	}
	h.same()

	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	x := (&journal.Journal{BootID: strings.TrimSpace(string(boot))}).Since(t.Context(), from)
	if x.Short != nil {
		t.Fatal(x.Short)
	}
	got, stopping := map[string][]string{}, map[string]int{}
	ended := map[string]bool{}
	for _, p := range journal.Reduce(x.Records, true, journal.Since{Seeds: seeds, MonoUS: from}) {
		if p.Uncertain {
			t.Errorf("it doubts %+v", p)
		}
		got[p.Unit.Name] = told(got[p.Unit.Name], ended, stopping, state.UnitEvent{Unit: p.Unit, Event: p.Event})
	}
	live, liveStopping := map[string][]string{}, map[string]int{}
	clear(ended)
	for _, e := range h.redis.mustSince(mark) {
		if e.Type == state.TypeUnit && zoo[e.Unit.Name] != "" {
			live[e.Unit.Name] = told(live[e.Unit.Name], ended, liveStopping, e.Unit)
		}
	}
	phases := 0
	for _, name := range names {
		if diff := cmp.Diff(live[name], got[name]); diff != "" {
			t.Errorf("%s (-live +journal):\n%s", name, diff)
		}
		phases += len(got[name])
	}
	for invocation := range stopping {
		if liveStopping[invocation] == 0 {
			t.Errorf("only the journal tells that %s was stopping", invocation)
		}
	}
	t.Logf("%d phases, %d of stopping", phases, len(stopping))
	if t.Failed() {
		t.Logf("what was done: %q", done)
	}
}

// told appends a line for each phase that both sides can tell. Not all of
// stopping is logged, so that is counted apart; and an invocation may end
// twice: as failed, and once more when its restart is called off.
func told(lines []string, ended map[string]bool, stopping map[string]int, u state.UnitEvent) []string {
	switch u.Event {
	case state.Stopping:
		stopping[u.InvocationID]++
		return lines
	case state.Failed, state.Stopped:
		if ended[u.InvocationID] {
			return lines
		}
		ended[u.InvocationID] = true
	}
	line := fmt.Sprintf("%s %s %s restarts=%d", u.Event, u.InvocationID[:4], u.Result, u.Restarts)
	// An end that systemd takes for a good one is logged without its status.
	if u.Event == state.Failed && (u.Result == "exit-code" || u.Result == "signal") {
		line += fmt.Sprintf(" %s/%d", u.ExitCode, u.ExitStatus)
	}
	return append(lines, line)
}

// readBack waits until the monitor says that it has read back from the journal,
// and fails where that did not tell all.
func (h *herd) readBack(since time.Time) {
	h.t.Helper()
	var said string
	eventually(h.t, "the monitor reads from the journal", func() error {
		stdout, stderr, _ := run(h.t, "journalctl", "--output=cat", "--no-pager", "-u", monitorUnit, fmt.Sprintf("--since=@%d", since.Unix()))
		if !strings.Contains(stdout, "read back from the journal") {
			return fmt.Errorf("it says\n%s%s", stdout, stderr)
		}
		said = stdout
		return nil
	})
	if strings.Contains(said, "the journal does not tell") {
		h.t.Errorf("it says\n%s", said)
	}
}
