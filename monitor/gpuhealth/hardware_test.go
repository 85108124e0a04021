package gpuhealth

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu"
)

// A fakeRoot is a machine's file system as far as a Hardware looks at it.
type fakeRoot struct {
	t   testing.TB
	dir string
}

func newFakeRoot(t testing.TB) fakeRoot {
	t.Helper()
	r := fakeRoot{t: t, dir: t.TempDir()}
	r.write("proc/sys/kernel/random/boot_id", bootID)
	r.write("dev/nvidiactl", "")
	r.write("dev/nvidia-uvm", "")
	r.write("dev/null", "")
	r.write("proc/driver/nvidia/capabilities/mig/config", "")
	r.mkdir(gpu.RescanDir)
	return r
}

func (r fakeRoot) mkdir(name string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Join(r.dir, name), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func (r fakeRoot) write(name, text string) {
	r.t.Helper()
	r.mkdir(filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text+"\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r fakeRoot) remove(name string) {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

func address(n int) string { return fmt.Sprintf("0000:%02x:00.0", n) }

func (r fakeRoot) pci(address, class, vendor string) {
	r.write("sys/bus/pci/devices/"+address+"/class", class)
	r.write("sys/bus/pci/devices/"+address+"/vendor", vendor)
}

// gpu adds GPU n with that minor, as a loaded driver shows it.
func (r fakeRoot) gpu(n, minor int) {
	r.pci(address(n), "0x030200", "0x10de")
	r.write("proc/driver/nvidia/gpus/"+address(n)+"/information", "")
	r.write(fmt.Sprintf("dev/nvidia%d", minor), "")
}

func (r fakeRoot) mig(minor, gi, ci int) {
	r.write(fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%d/mig/gi%d/ci%d/access", minor, gi, ci), "")
}

func (r fakeRoot) tell(source string, gpus ...gpu.GPU) {
	r.t.Helper()
	for i := range gpus {
		gpus[i].Index = i
	}
	inv := gpu.Inventory{Version: gpu.InventoryVersion, BootID: bootID, Source: source, GPUs: gpus}
	if err := inv.Write(r.dir); err != nil {
		r.t.Fatal(err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	r := newFakeRoot(t)
	r.gpu(0x17, 1)
	r.gpu(0x0a, 0)
	r.mig(1, 2, 0)
	r.mig(1, 11, 1)
	r.mkdir("proc/driver/nvidia/capabilities/gpu0")
	r.pci("0000:00:02.0", "0x030000", "0x8086") // another vendor's
	r.pci("0000:0a:00.1", "0x040300", "0x10de") // the GPU's sound
	r.write("dev/nvidia-modeset", "")
	r.write("dev/nvidia07", "")
	r.write("dev/dxg", "")
	want := []string{
		"driver 0000:0a:00.0", "driver 0000:17:00.0",
		"mig gpu1", "mig gpu1/gi11/ci1", "mig gpu1/gi2/ci0",
		"node dxg", "node nvidia0", "node nvidia1",
		"pci 0000:0a:00.0", "pci 0000:17:00.0",
	}
	l := lister{root: r.dir}
	for range 2 { // the second time without reading what is known
		got, errs := l.list()
		if diff := cmp.Diff(want, got); diff != "" || len(errs) > 0 {
			t.Errorf("list() (-want +got):\n%s\nerrors: %v", diff, errs)
		}
		r.pci("0000:00:02.0", "0x030000", "0x10de")
	}
	r.remove("sys/bus/pci/devices/0000:00:02.0")
	r.remove("sys/bus/pci/devices/0000:17:00.0")
	if got, _ := l.list(); slices.Contains(got, "pci 0000:17:00.0") {
		t.Errorf("a device that is gone is still listed: %v", got)
	}
	r.pci("0000:00:02.0", "0x030000", "0x10de")
	if got, _ := l.list(); !slices.Contains(got, "pci 0000:00:02.0") {
		t.Errorf("another device at a known place was not looked at: %v", got)
	}

	if got, errs := (&lister{root: t.TempDir()}).list(); len(got) > 0 || len(errs) > 0 {
		t.Errorf("an empty root lists %v, errors %v", got, errs)
	}
	r.remove("dev")
	r.write("dev", "")
	if _, errs := l.list(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "dev") {
		t.Errorf("a /dev that is no folder gives the errors %v", errs)
	}
}

func TestDiffer(t *testing.T) {
	t.Parallel()
	one := gpu.GPU{Index: 0, PCI: "0000:17:00.0", Minor: 1}
	faulty := one
	faulty.Fault = "it left the bus"
	simulated := gpu.GPU{Index: 0, PCI: "0000:00:00.0", Minor: 0, Simulated: true}
	withMIG := one
	withMIG.MIG = []gpu.MIG{{Index: 0, GPUInstance: 2, ComputeInstance: 0}}
	windows := gpu.GPU{Index: 0, Node: gpu.WSLNode, NUMANode: -1}
	given := gpu.GPU{Index: 0, Node: "/dev/nvidia1", Minor: 1, NUMANode: -1}
	all := []string{"driver 0000:17:00.0", "node nvidia1", "pci 0000:17:00.0"}
	for name, test := range map[string]struct {
		shown     []string
		gpus      []gpu.GPU
		source    string
		container bool
		want      []string
	}{
		"the same":            {shown: all, gpus: []gpu.GPU{one}},
		"gone":                {gpus: []gpu.GPU{one}, want: []string{"GPU 0 at 0000:17:00.0 is gone"}},
		"no PCI bus":          {shown: all[:2], gpus: []gpu.GPU{one}},
		"node gone":           {shown: []string{all[0], all[2]}, gpus: []gpu.GPU{one}, want: []string{"the device node of GPU 0 at 0000:17:00.0 is gone"}},
		"nothing, simulated":  {gpus: []gpu.GPU{simulated}, source: gpu.SourceSimulation},
		"real one, simulated": {shown: all, gpus: []gpu.GPU{simulated}, source: gpu.SourceSimulation, want: []string{"driver 0000:17:00.0 is new", "node nvidia1 is new"}},
		"reserved on the bus": {shown: append(all[:3:3], "pci 0000:18:00.0"), gpus: []gpu.GPU{one}},
		"another":             {shown: []string{"driver 0000:17:00.0", "driver 0000:18:00.0", "node nvidia0", "node nvidia1"}, gpus: []gpu.GPU{one}, want: []string{"driver 0000:18:00.0 is new", "node nvidia0 is new"}},
		"the host's":          {shown: []string{"driver 0000:17:00.0", "driver 0000:18:00.0", "node nvidia1"}, gpus: []gpu.GPU{one}, container: true},
		"given to it":         {shown: []string{"driver 0000:17:00.0", "driver 0000:18:00.0", "node nvidia0", "node nvidia1"}, gpus: []gpu.GPU{one}, container: true, want: []string{"node nvidia0 is new"}},
		"faulty and gone":     {gpus: []gpu.GPU{faulty}},
		"faulty on the bus":   {shown: all[2:], gpus: []gpu.GPU{faulty}},
		"faulty and back":     {shown: all, gpus: []gpu.GPU{faulty}, want: []string{"GPU 0 at 0000:17:00.0 is there, but it left the bus"}},
		"driver came later":   {shown: all, gpus: []gpu.GPU{one}, source: gpu.SourcePCI, want: []string{"GPU 0 at 0000:17:00.0 is there, but NVML did not answer"}},
		"no driver":           {shown: all[2:], gpus: []gpu.GPU{one}, source: gpu.SourcePCI},
		"WSL":                 {shown: []string{"node dxg"}, gpus: []gpu.GPU{windows}},
		"WSL, gone":           {gpus: []gpu.GPU{windows}, want: []string{"GPU 0 at /dev/dxg is gone"}},
		"a node alone":        {shown: all[:2], gpus: []gpu.GPU{given}, container: true},
		"a node alone, gone":  {shown: all[:1], gpus: []gpu.GPU{given}, container: true, want: []string{"GPU 0 at /dev/nvidia1 is gone"}},
		"MIG, the same":       {shown: []string{all[0], "mig gpu1", "mig gpu1/gi2/ci0", all[1]}, gpus: []gpu.GPU{withMIG}},
		"MIG device gone":     {shown: []string{all[0], "mig gpu1", all[1]}, gpus: []gpu.GPU{withMIG}, want: []string{"MIG device 0 of GPU 0 is gone"}},
		"MIG cannot be seen":  {shown: all, gpus: []gpu.GPU{withMIG}},
		"MIG device new":      {shown: []string{all[0], "mig gpu1", "mig gpu1/gi2/ci0", "mig gpu1/gi3/ci0", all[1]}, gpus: []gpu.GPU{withMIG}, want: []string{"mig gpu1/gi3/ci0 is new"}},
		"MIG of another's":    {shown: []string{all[0], "mig gpu0/gi2/ci0", "mig gpu1", "mig gpu1/gi2/ci0", all[1]}, gpus: []gpu.GPU{withMIG}, want: []string{"mig gpu0/gi2/ci0 is new"}},
		"MIG without devices": {shown: []string{all[0], "mig gpu1", all[1]}, gpus: []gpu.GPU{one}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !slices.IsSorted(test.shown) {
				t.Fatalf("%v is not sorted", test.shown)
			}
			inv := &gpu.Inventory{Source: test.source, GPUs: test.gpus}
			if inv.Source == "" {
				inv.Source = gpu.SourceNVML
			}
			if diff := cmp.Diff(test.want, differ(test.shown, inv, test.container)); diff != "" {
				t.Errorf("differ() (-want +got):\n%s", diff)
			}
		})
	}
}

// A watch is a Hardware with a clock of its own.
type watch struct {
	fakeRoot
	*Hardware
	now   time.Time
	asked int
	fails error
	log   bytes.Buffer
}

func newWatch(t *testing.T) *watch {
	w := &watch{fakeRoot: newFakeRoot(t), now: time.Unix(1e9, 0)}
	w.Hardware = &Hardware{Root: w.dir, Log: slog.New(slog.NewTextHandler(&w.log, nil)), Request: func() error {
		if w.fails == nil {
			w.asked++
		}
		return w.fails
	}}
	return w
}

// after looks once after that time and wants so many requests from it.
func (w *watch) after(d time.Duration, want int) {
	w.t.Helper()
	w.now = w.now.Add(d)
	w.asked = 0
	w.look(w.now)
	if w.asked != want {
		w.t.Fatalf("after %v: %d requests, want %d\n%s", d, w.asked, want, &w.log)
	}
}

func TestAsksWhereSomethingChanges(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.gpu(0x17, 0)
	w.after(0, 0) // setup has not run yet
	w.gpu(0x18, 1)
	w.after(Every, 0)
	both := []gpu.GPU{{PCI: address(0x17), Minor: 0, NUMANode: -1}, {PCI: address(0x18), Minor: 1, NUMANode: -1}}
	w.tell(gpu.SourceNVML, both...)
	w.after(Every, 0)

	w.remove("sys/bus/pci/devices/" + address(0x18))
	w.after(Every, 1)
	w.after(Every, 0)
	w.remove("proc/driver/nvidia/gpus/" + address(0x18))
	w.remove("dev/nvidia1")
	w.after(Every, 1)
	gone := slices.Clone(both)
	gone[1].Fault = "it left the bus"
	w.tell(gpu.SourceNVML, gone...)
	w.after(time.Hour, 0)

	w.gpu(0x18, 1)
	w.after(Every, 1)
	w.tell(gpu.SourceNVML, both...)
	w.after(time.Hour, 0)

	w.mig(1, 2, 0)
	w.after(Every, 1)
	both[1].MIG = []gpu.MIG{{GPUInstance: 2}}
	w.tell(gpu.SourceNVML, both...)
	w.after(time.Hour, 0)
	w.after(time.Hour, 0)
	if log := w.log.String(); !strings.Contains(log, `came="mig gpu1, mig gpu1/gi2/ci0"`) || strings.Contains(log, "WARN") {
		t.Errorf("logged %s", log)
	}
}

func TestAsksAgainWithinBounds(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.gpu(0x17, 0)
	w.gpu(0x18, 1)
	w.tell(gpu.SourceNVML, gpu.GPU{PCI: address(0x17), NUMANode: -1})
	w.after(0, 1) // at its start
	var waited []time.Duration
	asked := w.now
	for range 3 * 3600 / 2 {
		w.now, w.asked = w.now.Add(Every), 0
		w.look(w.now)
		if w.asked > 0 {
			waited = append(waited, w.now.Sub(asked))
			asked = w.now
		}
	}
	want := []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute}
	if diff := cmp.Diff(want, waited); diff != "" {
		t.Errorf("in three hours it asked again after (-want +got):\n%s", diff)
	}
	if n := strings.Count(w.log.String(), "rescans did not change that"); n != 1 {
		t.Errorf("it gave up %d times:\n%s", n, &w.log)
	}
	// The next change is worth as much as the first.
	w.remove("dev/nvidia1")
	w.after(Every, 1)
	w.after(time.Minute, 1)
}

// Where a reload of systemd loses the units, since the generator had no time,
// another one brings them back.
func TestAsksWhereUnitsAreLost(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.gpu(0x17, 0)
	w.tell(gpu.SourceNVML, gpu.GPU{PCI: address(0x17), NUMANode: -1})
	w.after(0, 0) // none yet: setup will see to it
	w.after(Every, 0)
	w.after(Every, 0)
	const units = "run/systemd/generator/gpuherd.target.wants"
	w.mkdir(units)
	w.after(Every, 0)
	w.remove(units) // by a reload
	w.after(Every, 0)
	w.mkdir(units)
	w.after(Every, 0)
	w.remove(units)
	w.after(Every, 0)
	w.after(Every, 1)
	w.after(Every, 0)
	w.after(time.Minute, 1)
	w.mkdir(units)
	w.after(time.Hour, 0)
	w.remove(units)
	w.after(Every, 0)
	w.after(Every, 1)
}

func TestRequestFails(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.tell(gpu.SourceNVML)
	w.after(0, 0)
	w.fails = errors.New("no folder")
	w.gpu(0x17, 0)
	w.after(Every, 0)
	w.after(Every, 0)
	if n := strings.Count(w.log.String(), "no folder"); n != 1 {
		t.Errorf("the error was logged %d times:\n%s", n, &w.log)
	}
	w.fails = nil
	w.after(Every, 1) // the change is not forgotten
	w.after(Every, 0)
}

func TestRequestRescan(t *testing.T) {
	t.Parallel()
	r := newFakeRoot(t)
	for range 2 { // the second finds a request waiting
		if err := RequestRescan(r.dir); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, gpu.RescanDir))
	if err != nil || len(entries) != 1 || entries[0].Name() != "monitor" {
		t.Errorf("the folder has %v, error %v", entries, err)
	}
	r.remove(gpu.RescanDir)
	if err := RequestRescan(r.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the folder the error is %v", err)
	}
}

// One look at the largest machine: 16 GPUs with 7 MIG devices each, among 300
// PCI devices.
func BenchmarkLook(b *testing.B) {
	r := newFakeRoot(b)
	for n := range 300 {
		r.pci(fmt.Sprintf("%04x:%02x:1f.7", n/256, n%256), "0x060400", "0x8086")
	}
	var gpus []gpu.GPU
	for n := range 16 {
		r.gpu(0x10+n, n)
		g := gpu.GPU{PCI: address(0x10 + n), Minor: n, NUMANode: -1}
		for gi := range 7 {
			r.mig(n, gi, 0)
			g.MIG = append(g.MIG, gpu.MIG{Index: gi, GPUInstance: gi})
		}
		gpus = append(gpus, g)
	}
	r.tell(gpu.SourceNVML, gpus...)
	h := &Hardware{Root: r.dir, Log: slog.New(slog.DiscardHandler), Request: func() error {
		b.Fatal("it asks for a rescan")
		return nil
	}}
	for b.Loop() {
		h.look(time.Now())
	}
}
