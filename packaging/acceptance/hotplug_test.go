//go:build acceptance

package acceptance

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml/nvmltest"
)

const (
	rescanUnit  = "gpuherd-rescan.service"
	pathUnit    = "gpuherd-rescan.path"
	requestsDir = "/" + gpu.RescanDir
)

// A hotplug is a herd on GPUs of a scenario.
type hotplug struct {
	*herd
	boot  nvmltest.Scenario // with which the machine booted
	now   nvmltest.Scenario
	blind bool // nothing tells of MIG
}

// openHotplug connects to the herd, and sees to it that the test leaves the
// hardware as it found it.
func openHotplug(t *testing.T) *hotplug {
	t.Helper()
	boot, err := readScenario()
	if err != nil {
		t.Fatal(err)
	}
	h := &hotplug{herd: open(t), boot: boot, now: boot}
	inventory, err := gpu.ReadInventory("/")
	if err != nil {
		t.Fatal(err)
	}
	h.blind = inventory.Source == gpu.SourcePCI
	h.wantDevices()
	t.Cleanup(func() {
		h.change(boot)
		h.wantDevices()
	})
	return h
}

// copyOf returns a scenario whose lists can be changed.
func copyOf(s nvmltest.Scenario) nvmltest.Scenario {
	s.GPUs = slices.Clone(s.GPUs)
	for i := range s.GPUs {
		s.GPUs[i].MIGDevices = slices.Clone(s.GPUs[i].MIGDevices)
	}
	return s
}

func (h *hotplug) change(s nvmltest.Scenario) {
	h.t.Helper()
	if err := changeHardware(s); err != nil {
		h.t.Fatalf("cannot change the hardware: %v", err)
	}
	h.now = s
}

// rescan asks for a rescan as an operator does, and waits for its end.
func (h *hotplug) rescan() {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(requestsDir, "operator"), nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "a rescan", h.rescanned)
}

// rescanned returns nil once every rescan that was asked for has ended. That
// need not be another run of the unit: the one that runs, which the monitor
// may have asked for, looks again. A request is gone before it is served, so
// the folder is looked at first.
func (h *herd) rescanned() error {
	if left, err := os.ReadDir(requestsDir); err != nil || len(left) > 0 {
		return fmt.Errorf("%s has %v (%w)", requestsDir, left, err)
	}
	u, err := h.unit(rescanUnit)
	if err != nil {
		return err
	}
	if u.Active != "inactive" || u.Result != "success" {
		return fmt.Errorf("%s is %s/%s: %s", rescanUnit, u.Active, u.Sub, u.Result)
	}
	return nil
}

// rescannedSince is rescanned for who cannot tell when the request was made.
func (h *herd) rescannedSince(invocation string) error {
	if err := h.rescanned(); err != nil {
		return err
	}
	if h.mustUnit(rescanUnit).Invocation == invocation {
		return errors.New("no rescan has run")
	}
	return nil
}

// A part is what one unit runs on.
type part struct {
	unit string
	gpu  nvmltest.GPU
	mig  *nvmltest.MIG // nil: the whole GPU
}

// environment is what a worker is told of it.
func (p part) environment() map[string]string {
	uuid, model := p.gpu.UUID, p.gpu.Name
	if p.mig != nil {
		uuid, model = p.mig.UUID, model+" MIG "+p.mig.Profile
	}
	return map[string]string{"GPU_PCI_BUS_ID": p.gpu.PCI, "GPU_UUID": uuid, "CUDA_VISIBLE_DEVICES": uuid, "GPU_MODEL": model}
}

// on returns the units on one GPU.
func on(parts []part, uuid string) []string {
	var units []string
	for _, p := range parts {
		if p.gpu.UUID == uuid {
			units = append(units, p.unit)
		}
	}
	return units
}

// parts are the units that there should be, in order: by number, the GPUs are
// those of the boot, in the order of their bus.
func (h *hotplug) parts() []part {
	order := slices.Clone(h.boot.GPUs)
	slices.SortFunc(order, func(a, b nvmltest.GPU) int { return cmp.Compare(a.PCI, b.PCI) })
	var all []part
	for n, g := range order {
		i := slices.IndexFunc(h.now.GPUs, func(now nvmltest.GPU) bool { return now.UUID == g.UUID })
		if i < 0 || h.now.GPUs[i].Lost || h.now.GPUs[i].Silent {
			continue
		}
		g = h.now.GPUs[i]
		if g.MIG == nvmltest.MIGEnabled && len(g.MIGDevices) == 0 && !h.blind {
			continue // programs would find nothing to run on
		}
		all = append(all, part{unit: fmt.Sprintf("probe@%d.service", n), gpu: g})
		for m := range g.MIGDevices {
			d := &g.MIGDevices[m]
			all = append(all, part{unit: fmt.Sprintf("slice@%d:%d.service", n, d.Place), gpu: g, mig: d})
		}
	}
	return all
}

// wantDevices waits until just the units run that there should be, all else
// being well.
func (h *hotplug) wantDevices() {
	h.t.Helper()
	var want []string
	for _, p := range h.parts() {
		want = append(want, p.unit)
	}
	slices.Sort(want)
	eventually(h.t, "workers on the GPUs that there are", func() error {
		names, err := h.herd.herd()
		if err != nil {
			return err
		}
		names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "probe@") && !strings.HasPrefix(n, "slice@") })
		if !slices.Equal(names, want) {
			return fmt.Errorf("there are %v, want %v", names, want)
		}
		return cmp.Or(h.rescanned(), h.sick())
	})
}

// gone fails unless the units are stopped, well and not failed.
func (h *hotplug) gone(units ...string) {
	h.t.Helper()
	for _, name := range units {
		if u := h.mustUnit(name); u.Active != "inactive" || u.Result != "success" {
			h.t.Errorf("%s is %s/%s: %s", name, u.Active, u.Sub, u.Result)
		}
	}
}

// steady notes the units that run now, but for some; the function that it
// returns fails where one of them was restarted.
func (h *hotplug) steady(except ...string) (check func()) {
	h.t.Helper()
	before := map[string]unit{}
	for _, p := range h.parts() {
		if !slices.Contains(except, p.unit) {
			before[p.unit] = h.mustUnit(p.unit)
		}
	}
	for _, name := range []string{monitorUnit, setupUnit} {
		before[name] = h.mustUnit(name)
	}
	if len(before) < 4 {
		h.t.Fatalf("only %d units are to stay: that shows nothing", len(before))
	}
	return func() {
		h.t.Helper()
		for name, was := range before {
			if is := h.mustUnit(name); is.PID != was.PID || is.Invocation != was.Invocation || is.Restarts != was.Restarts {
				h.t.Errorf("%s was restarted: %+v, before %+v", name, is, was)
			}
		}
	}
}

// told fails unless the journal of the rescans has a line with all the words.
func (h *hotplug) told(since time.Time, words ...string) {
	h.t.Helper()
	eventually(h.t, "a line in the journal", func() error {
		stdout, stderr, status := run(h.t, "journalctl", "--boot", "--output=cat", "--no-pager", "-u", rescanUnit, fmt.Sprintf("--since=@%d", since.Unix()))
		for line := range strings.Lines(stdout) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return nil
			}
		}
		return fmt.Errorf("journalctl ended with %d; nothing says %q:\n%s%s", status, words, stdout, stderr)
	})
}

// Each worker runs on its own GPU, whatever NVML's order and the minors are.
func TestWorkersKnowTheirGPU(t *testing.T) {
	h := openHotplug(t)
	for _, p := range h.parts() {
		wantEnvironment(t, p.unit, p.environment())
		// Setup made the difference before the first start.
		if n := starts(t, p.unit); n != 1 {
			t.Errorf("%s was started %d times in this boot, want once", p.unit, n)
		}
	}
}

// A worker can open the nodes of its own GPU and MIG device, and of no other,
// also once systemd has read its units again or is another process.
func TestOwnDevicesOnly(t *testing.T) {
	h := openHotplug(t)
	s := copyOf(h.boot)
	divided := slices.IndexFunc(s.GPUs, func(g nvmltest.GPU) bool { return g.MIG == nvmltest.MIGEnabled })
	if divided < 0 {
		t.Fatal("no GPU has MIG")
	}
	s.GPUs[divided].MIGDevices = twoDevices(s.GPUs[divided])
	h.change(s)
	h.wantDevices()
	check := func(when string) {
		t.Helper()
		own := map[string][]string{}
		var all []string
		for _, p := range h.parts() {
			nodes := []string{gpuNode(p.gpu.Minor)}
			devices := p.gpu.MIGDevices
			if p.mig != nil {
				devices = []nvmltest.MIG{*p.mig}
			}
			for _, m := range devices {
				for _, ci := range []int{-1, m.ComputeInstance} {
					minor, err := capability(p.gpu.Minor, m.GPUInstance, ci)
					if err != nil {
						t.Fatal(err)
					}
					nodes = append(nodes, capNode(minor))
				}
			}
			own[p.unit] = nodes
			all = append(all, nodes...)
		}
		slices.Sort(all)
		all = slices.Compact(all)
		for unit, may := range own {
			mayNot := slices.DeleteFunc(slices.Clone(all), func(node string) bool { return slices.Contains(may, node) })
			wantOpen(t, unit, append(may, "/dev/nvidiactl"), mayNot)
			if t.Failed() {
				t.Fatal(when)
			}
		}
	}
	steady := h.steady()
	check("once started")
	h.reload()
	h.healthy()
	check("after daemon-reload")
	if _, stderr, status := run(t, "systemctl", "daemon-reexec"); status != 0 {
		t.Fatalf("systemctl daemon-reexec ended with %d: %s", status, stderr)
	}
	h.healthy()
	check("after daemon-reexec")
	steady()
}

// twoDevices are MIG devices that a GPU could be divided into.
func twoDevices(g nvmltest.GPU) []nvmltest.MIG {
	return []nvmltest.MIG{
		{Place: 0, GPUInstance: 2, UUID: strings.Replace(g.UUID, "GPU-", "MIG-1", 1), Profile: "3g.40gb", MemoryBytes: g.MemoryBytes / 2},
		{Place: 1, GPUInstance: 9, UUID: strings.Replace(g.UUID, "GPU-", "MIG-2", 1), Profile: "1g.10gb", MemoryBytes: g.MemoryBytes / 8},
	}
}

// MIG devices that are made after boot, which no event tells of, get workers of
// their own and one of the whole GPU, and lose them when they are deleted.
// Nobody else notices.
func TestMIGComesAndGoes(t *testing.T) {
	h := openHotplug(t)
	s := copyOf(h.boot)
	g := &s.GPUs[slices.IndexFunc(s.GPUs, func(g nvmltest.GPU) bool {
		return g.MIG == nvmltest.MIGEnabled && len(g.MIGDevices) == 0
	})]
	steady := h.steady()
	g.MIGDevices = twoDevices(*g)
	since := time.Now()
	h.change(s)
	h.wantDevices()
	made := on(h.parts(), g.UUID)
	for _, p := range h.parts() {
		if p.gpu.UUID == g.UUID {
			wantEnvironment(t, p.unit, p.environment())
		}
	}
	for _, unit := range made {
		h.told(since, "starting", unit)
	}
	steady()

	// One goes, and the other stays. The worker of the whole GPU may open both.
	last := made[len(made)-1]
	steadyToo := h.steady(made[0], last)
	s = copyOf(h.now)
	g = &s.GPUs[indexOf(s, g.UUID)]
	g.MIGDevices = g.MIGDevices[:1]
	since = time.Now()
	h.change(s)
	h.wantDevices()
	h.gone(last)
	h.told(since, "stopping", last)
	steadyToo()

	h.change(h.boot)
	h.wantDevices()
	h.gone(made...)
	steady()
}

func indexOf(s nvmltest.Scenario, uuid string) int {
	return slices.IndexFunc(s.GPUs, func(g nvmltest.GPU) bool { return g.UUID == uuid })
}

// A GPU that leaves the bus, or is lost on it, takes its workers along, and
// gives them back. Nobody else is restarted or renumbered.
func TestGPULostAndBack(t *testing.T) {
	h := openHotplug(t)
	first := h.parts()[0].gpu.UUID // so that all the others could be renumbered
	units := on(h.parts(), first)
	for name, lose := range map[string]func(*nvmltest.Scenario){
		"unplugged": func(s *nvmltest.Scenario) {
			i := indexOf(*s, first)
			s.GPUs = slices.Delete(s.GPUs, i, i+1)
		},
		"off the bus": func(s *nvmltest.Scenario) { s.GPUs[indexOf(*s, first)].Lost = true },
	} {
		steady := h.steady(units...)
		s := copyOf(h.boot)
		lose(&s)
		since := time.Now()
		h.change(s)
		h.rescan()
		h.wantDevices()
		h.gone(units...)
		for _, unit := range units {
			h.told(since, "stopping", unit)
		}
		steady()

		h.change(h.boot)
		began := time.Now()
		h.rescan()
		h.wantDevices()
		t.Logf("%s and back: %v from the request to %d workers running; systemd alone takes %v", name,
			time.Since(began).Round(time.Millisecond), len(units), h.startAgain(units).Round(time.Millisecond))
		for _, p := range h.parts() {
			if p.gpu.UUID == first {
				wantEnvironment(t, p.unit, p.environment())
			}
		}
		steady()
		if t.Failed() {
			t.Fatalf("with a GPU %s", name)
		}
	}
}

// startAgain starts units that run anew, and returns how long that takes.
func (h *hotplug) startAgain(units []string) time.Duration {
	h.t.Helper()
	var took time.Duration
	for _, verb := range []string{"stop", "start"} {
		now := time.Now()
		if _, stderr, status := run(h.t, "systemctl", append([]string{verb}, units...)...); status != 0 {
			h.t.Errorf("systemctl %s ended with %d: %s", verb, status, stderr)
		}
		took = time.Since(now) // of the start, in the end
	}
	return took
}

// A rescan that NVML gives no answer stops nobody.
func TestNVMLInTrouble(t *testing.T) {
	h := openHotplug(t)
	kept := libraryPath + ".kept"
	if err := os.Rename(libraryPath, kept); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(kept, libraryPath); err != nil {
			t.Error(err)
		}
		h.rescan()
	})
	steady := h.steady()
	for _, trouble := range []struct {
		name  string
		cause func() error
	}{
		{"no library", func() error { return nil }},
		{"a symbol is missing", func() error { return copyFile(filepath.Join(oldDriver, nvmltest.Library), libraryPath, 0o644) }},
		{"no library but a text", func() error { return os.WriteFile(libraryPath, []byte("no library\n"), 0o644) }},
		{"slow", func() error {
			s := copyOf(h.boot)
			s.InitDelay = 300 * time.Millisecond // at boot there is TestSlowGPUs
			return errors.Join(copyFile(kept, libraryPath, 0o644), changeHardware(s))
		}},
	} {
		if err := os.Remove(libraryPath); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := trouble.cause(); err != nil {
			t.Fatal(err)
		}
		h.rescan()
		h.wantDevices()
		steady()
		if t.Failed() {
			t.Fatalf("with %s", trouble.name)
		}
	}
}

// A reload of systemd in which the generator wrote nothing, as on a host so
// busy that it ran out of time, is mended by the monitor: another one follows.
func TestUnitsLost(t *testing.T) {
	h := openHotplug(t)
	const inPlace = "/run/systemd/system-generators/gpuherd-generator"
	if err := os.MkdirAll(filepath.Dir(inPlace), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/false", inPlace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(inPlace) })
	unit := h.parts()[0].unit
	steady := h.steady()
	h.reload()
	if stdout, _, _ := run(t, "systemctl", "show", "--property=LoadState", "--value", unit); strings.TrimSpace(stdout) == "loaded" {
		t.Fatalf("%s is still loaded: that shows nothing", unit)
	}
	if err := os.Remove(inPlace); err != nil {
		t.Fatal(err)
	}
	h.wantDevices()
	steady()
}

// GPUs that need seconds to come up are waited for at boot, and each worker
// starts once, knowing its GPU.
func TestSlowGPUs(t *testing.T) {
	h := openHotplug(t)
	if h.boot.InitDelay == 0 {
		t.Fatal("the GPUs are not slow")
	}
	for _, p := range h.parts() {
		wantEnvironment(t, p.unit, p.environment())
		if n := starts(t, p.unit); n != 1 {
			t.Errorf("%s was started %d times in this boot, want once", p.unit, n)
		}
	}
}

// Without an NVML that can be used, workers run on what the PCI bus shows.
func TestNoNVML(t *testing.T) {
	h := openHotplug(t)
	if !h.blind {
		t.Fatal("the GPUs were not found on the PCI bus, but by something that knows more")
	}
	for _, p := range h.parts() {
		wantEnvironment(t, p.unit, map[string]string{"GPU_PCI_BUS_ID": p.gpu.PCI})
	}
	stdout, stderr, status := run(t, "systemctl", "status", "--no-pager", setupUnit)
	if status != 0 || !strings.Contains(stdout, "NVML") {
		t.Errorf("systemctl status ended with %d and does not tell of NVML:\n%s%s", status, stdout, stderr)
	}
}
