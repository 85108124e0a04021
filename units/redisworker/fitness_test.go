package redisworker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/units/queue"
)

var discard = slog.New(slog.DiscardHandler)

// newTick is a worker's tick that never comes.
func newTick(t *testing.T) *time.Ticker {
	tick := time.NewTicker(time.Hour)
	t.Cleanup(tick.Stop)
	return tick
}

func TestNodesFit(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	inv := gpu.Inventory{Version: gpu.InventoryVersion, BootID: "boot", Source: gpu.SourceNVML, GPUs: []gpu.GPU{
		{Index: 0, PCI: "0000:17:00.0", Minor: 3, NUMANode: -1},
		{Index: 1, PCI: "0000:18:00.0", Minor: 4, NUMANode: -1, Fault: "has left the bus"},
		{Index: 2, PCI: "ffff:02:00.0", Minor: 5, NUMANode: -1, Simulated: true},
		{Index: 3, PCI: "0000:19:00.0", Minor: 6, NUMANode: -1, MIGMode: true, MIG: []gpu.MIG{{Index: 1, GIMinor: 12, CIMinor: 13}}},
	}}
	data, err := json.Marshal(inv)
	if err != nil {
		t.Fatal(err)
	}
	fit := func(gpu, mig int) error {
		return NodesFit(root, service.Instance{GPU: gpu, MIG: mig, Worker: 1})(context.Background())
	}
	if err := fit(0, -1); err != nil {
		t.Errorf("without inventory: %v", err)
	}
	lay(t, root, map[string]string{
		"proc/sys/kernel/random/boot_id": "boot\n", gpu.InventoryPath: string(data),
		"dev/nvidiactl": "", "dev/nvidia-uvm": "", "dev/nvidia3": "", "dev/nvidia6": "", "dev/nvidia-caps/nvidia-cap12": "",
	})
	for _, tt := range []struct {
		gpu, mig int
		want     string
	}{
		{0, -1, ""},
		{1, -1, "GPU 1 at 0000:18:00.0: has left the bus"},
		{2, -1, ""},
		{3, -1, ""},
		{3, 1, "nvidia-cap13: no such file or directory"},
		{9, -1, ""},
	} {
		if err := fit(tt.gpu, tt.mig); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.want)) {
			t.Errorf("GPU %d, MIG device %d: %v, want %q", tt.gpu, tt.mig, err, tt.want)
		}
	}
	if err := os.Remove(filepath.Join(root, "dev/nvidia3")); err != nil {
		t.Fatal(err)
	}
	if err := fit(0, -1); err == nil {
		t.Error("fit without its node")
	}
	lay(t, root, map[string]string{gpu.InventoryPath: strings.Replace(string(data), `"boot"`, `"other"`, 1)})
	if err := fit(0, -1); err != nil {
		t.Errorf("with the inventory of another boot: %v", err)
	}
}

func TestProgramFit(t *testing.T) {
	t.Parallel()
	e, out := shell(`echo looking >&2; test -z "$JOB_ID"`)
	if err := ProgramFit(e)(context.Background()); err != nil {
		t.Error(err)
	}
	if want := "[fitness] looking\n"; out.String() != want {
		t.Errorf("log %q, want %q", out.String(), want)
	}
	e, _ = shell(`echo it is gone >&2; exit 3`)
	if err := ProgramFit(e)(context.Background()); err == nil || err.Error() != "/bin/sh: exit status 3: it is gone" {
		t.Errorf("error %v", err)
	}
}

func TestUnfitWorkerIsNotReady(t *testing.T) {
	t.Parallel()
	f := setup(t, queue.Options{})
	f.add("j")
	told := make(chan string, 10)
	o := Options{
		Consumer: "a", Fit: func(context.Context) error { return errors.New("gone") }, Notify: func(s string) { told <- s },
		Executor: script(func(context.Context, Attempt, func(string)) Outcome { return Outcome{} }),
	}
	_, stop := f.start(o)
	f.until("status", func() bool { return <-told == "STATUS=GPU is not fit: gone" })
	if err := stop(); !errors.Is(err, ErrUnfit) {
		t.Errorf("Run returned %v", err)
	}
	if r := f.record("j"); r.Attempts != 0 {
		t.Errorf("record %+v", r)
	}
}

func TestFailuresInARowHaveTheGPULookedAt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		jobs string // f: failed, o: out of memory, p: permanent, t: timed out, s: succeeded
		want int    // looks, the first one included
	}{
		"failed":      {"fff", 2},
		"between":     {"ffsff", 1},
		"permanent":   {"fppppf", 1},
		"not a cause": {"oooo", 1},
		"timed out":   {"tptt", 2},
		"twice":       {"ffffff", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var looks atomic.Int64
			w := New(Options{Queue: &queue.Queue{}, Log: discard, Fit: func(context.Context) error { looks.Add(1); return nil }})
			w.tick = newTick(t)
			if err := w.fit(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range tt.jobs {
				o := map[rune]Outcome{
					'f': {Verdict: Failed}, 'o': {Verdict: Failed, Reason: ReasonOOM}, 'p': {Verdict: Permanent},
					't': {Verdict: Failed, Reason: ReasonTimeout}, 's': {},
				}[c]
				if err := w.judge(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			if n := int(looks.Load()); n != tt.want {
				t.Errorf("%d looks, want %d", n, tt.want)
			}
		})
	}
}
