//go:build cgo

package gpuhealth

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/generator/gpu/nvml/nvmltest"
	"gpuherd/monitor/state"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if path, err := library(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		os.Exit(code)
	}))
}

// library builds NVML once: a process cannot load another one.
var library = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nvml")
	if err != nil {
		return "", err
	}
	return nvmltest.Build(dir)
})

// A machine is a scenario, the inventory that goes with it, and a Watch.
type machine struct {
	t        *testing.T
	root     string
	path     string // of the scenario
	scenario nvmltest.Scenario
	watch    *Watch
	stop     func() // returns once Run has

	mu   sync.Mutex
	log  bytes.Buffer
	told []state.GPU
}

// start watches a machine. Tests with one cannot be parallel: the scenario's
// path is in the environment.
func start(t *testing.T, scenario nvmltest.Scenario, change ...func(*machine)) *machine {
	t.Helper()
	m := &machine{t: t, root: newRoot(t), path: filepath.Join(t.TempDir(), "scenario"), scenario: scenario}
	t.Setenv(nvmltest.ScenarioVariable, m.path)
	m.put()
	m.inventory("")
	path, err := library()
	if err != nil {
		t.Fatal(err)
	}
	m.watch = &Watch{
		Root: m.root, Set: m.set, Log: slog.New(slog.NewTextHandler(m, nil)),
		Open:      func() (*nvml.Session, error) { return nvml.Open(path) },
		LookEvery: 5 * time.Millisecond, SampleEvery: 20 * time.Millisecond, RetryAfter: 20 * time.Millisecond,
		ReopenEvery: 50 * time.Millisecond,
	}
	for _, f := range change {
		f(m)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.watch.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Logf("logged:\n%s", &m.log)
		}
	})
	return m
}

func (m *machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.Write(p)
}

func (m *machine) set(gpus []state.GPU) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = gpus
}

func (m *machine) put() {
	m.t.Helper()
	if err := m.scenario.Write(m.path); err != nil {
		m.t.Fatal(err)
	}
}

// inventory writes what setup finds; fault is that of GPU 0.
func (m *machine) inventory(fault string) {
	m.t.Helper()
	var gpus []gpu.GPU
	for _, g := range m.scenario.GPUs {
		gpus = append(gpus, gpu.GPU{PCI: g.PCI, UUID: g.UUID, Name: g.Name, Minor: g.Minor, NUMANode: g.NUMANode, MemoryBytes: g.MemoryBytes})
	}
	gpus[0].Fault = fault
	writeInventory(m.t, m.root, bootID, gpus...)
}

func (m *machine) happen(gpu int, kind, data uint64) {
	m.t.Helper()
	if err := nvmltest.AppendEvent(m.path, gpu, kind, data); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.t.Fatalf("it does not come about that %s; told %+v", what, m.told)
		}
	}
}

// is waits until the GPUs are as described: health and reasons of each.
func (m *machine) is(want ...string) {
	m.t.Helper()
	m.until(strings.Join(want, ", "), func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		var got []string
		for _, g := range m.told {
			got = append(got, strings.TrimSpace(g.Health+" "+strings.Join(g.Reasons, "; ")))
		}
		return slices.Equal(got, want)
	})
}

// requested waits for a request for a rescan, and takes it.
func (m *machine) requested() {
	m.t.Helper()
	request := filepath.Join(m.root, gpu.RescanDir, "monitor")
	m.until("a rescan is asked for", func() bool { return os.Remove(request) == nil })
}

func (m *machine) unrequested() {
	m.t.Helper()
	if _, err := os.Stat(filepath.Join(m.root, gpu.RescanDir, "monitor")); err == nil {
		m.t.Error("a rescan was asked for")
	}
}

// held reports whether NVML is open.
func (m *machine) held() bool {
	m.t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		m.t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		// A scenario that was replaced is held all the same.
		return err == nil && strings.TrimSuffix(target, " (deleted)") == m.path
	})
}

func (m *machine) touch(path string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.root, path), nil, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(path string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.root, path)); err != nil {
		m.t.Fatal(err)
	}
}

// h100 returns a DGX H100 with fewer GPUs.
func h100(n int) nvmltest.Scenario {
	s := nvmltest.EightH100()
	s.GPUs = s.GPUs[:n]
	return s
}

func TestFigures(t *testing.T) {
	s := h100(2)
	s.GPUs[1].Utilisation = nil
	m := start(t, s)
	m.is("healthy", "healthy")
	figures := func(want string) {
		t.Helper()
		m.until(want, func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			var got []string
			for _, g := range m.told {
				line := fmt.Sprintf("GPU %d", g.Index)
				if g.Temperature != nil {
					line += fmt.Sprintf(" %d °C", *g.Temperature)
				}
				if g.Utilisation != nil {
					line += fmt.Sprintf(" %d %%", *g.Utilisation)
				}
				got = append(got, line)
			}
			return strings.Join(got, ", ") == want
		})
	}
	figures("GPU 0 31 °C 0 %, GPU 1 32 °C")
	m.scenario.GPUs[0].Temperature, m.scenario.GPUs[0].Utilisation = new(77), new(98)
	m.put()
	figures("GPU 0 77 °C 98 %, GPU 1 32 °C")
}

// An error makes a GPU unhealthy, and only the driver makes it well again.
func TestErrors(t *testing.T) {
	m := start(t, h100(2))
	m.is("healthy", "healthy")
	for range 3 {
		m.happen(0, nvmltest.EventXID, 31)
	}
	m.happen(1, nvmltest.EventXID, 48)
	m.is("healthy", "unhealthy XID 48: uncorrectable memory error")
	m.scenario.GPUs[1].Recovery = new(1)
	m.put()
	m.happen(1, nvmltest.EventRecovery, 0)
	m.is("healthy", "unhealthy needs reset of the GPU; XID 48: uncorrectable memory error")
	m.scenario.GPUs[1].Recovery = new(0)
	m.put()
	m.happen(1, nvmltest.EventRecovery, 0)
	m.is("healthy", "healthy")

	want := []XIDErrors{{GPU: 0, UUID: m.scenario.GPUs[0].UUID, XID: 31, Count: 3}, {GPU: 1, UUID: m.scenario.GPUs[1].UUID, XID: 48, Count: 1}}
	if got := m.watch.XIDErrors(); !slices.Equal(got, want) {
		t.Errorf("errors are %+v, want %+v", got, want)
	}
	m.unrequested()
}

// What setup should know of is asked for once, and again when it changes.
func TestLostAndBack(t *testing.T) {
	m := start(t, h100(2))
	m.is("healthy", "healthy")
	m.scenario.GPUs[0].Lost = true
	m.put()
	m.requested()
	// NVML opened anew does not have it at all.
	m.is("unhealthy does not answer NVML", "healthy")
	m.inventory("lost")
	m.is("unhealthy lost", "healthy")
	m.unrequested()
	m.scenario.GPUs[0].Lost = false
	m.put()
	m.requested()
	m.inventory("")
	m.is("healthy", "healthy")
	m.unrequested()
}

// A lost GPU keeps NVML from telling of events, but not for long.
func TestErrorBesideALostGPU(t *testing.T) {
	m := start(t, h100(2), func(m *machine) { m.watch.ReopenEvery = time.Hour })
	m.is("healthy", "healthy")
	m.scenario.GPUs[0].Lost = true
	m.put()
	m.is("unhealthy fell off the bus", "healthy")
	m.until("the error is heard", func() bool {
		m.happen(1, nvmltest.EventXID, 48)
		return len(m.watch.XIDErrors()) > 0
	})
	m.is("unhealthy fell off the bus", "unhealthy XID 48: uncorrectable memory error")
}

func TestRelease(t *testing.T) {
	m := start(t, h100(1))
	m.is("healthy")
	if !m.held() {
		t.Error("the GPU is not held")
	}
	m.touch(ReleasePath)
	m.is("unknown released, since /run/gpuherd/release-gpus exists")
	m.until("the GPU is let go", func() bool { return !m.held() })
	m.happen(0, nvmltest.EventXID, 48) // unheard
	m.remove(ReleasePath)
	m.is("healthy")
}

func TestHang(t *testing.T) {
	m := start(t, h100(2), func(m *machine) { m.watch.HangAfter = 200 * time.Millisecond })
	m.is("healthy", "healthy")
	m.scenario.Hang = []nvmltest.Rule{{Function: "nvmlDeviceGetUtilizationRates"}}
	m.put()
	m.is("unknown NVML does not answer", "unknown NVML does not answer")
	// A GPU cannot be let go of while NVML hangs, and is afterwards.
	m.touch(ReleasePath)
	m.is("unknown released, since /run/gpuherd/release-gpus exists", "unknown released, since /run/gpuherd/release-gpus exists")
	m.scenario.Hang = nil
	m.put()
	m.until("the GPUs are let go", func() bool { return !m.held() })
	m.remove(ReleasePath)
	m.is("healthy", "healthy")
}

// A monitor that ends does not wait for an NVML that hangs.
func TestEndsWhileNVMLHangs(t *testing.T) {
	m := start(t, h100(1), func(m *machine) { m.watch.HangAfter = 200 * time.Millisecond })
	m.is("healthy")
	m.scenario.Hang = []nvmltest.Rule{{Function: "nvmlEventSetWait_v2"}}
	m.put()
	m.is("unknown NVML does not answer")
	m.stop()
	m.scenario.Hang = nil
	m.put()
	m.until("NVML is closed all the same", func() bool { return !m.held() })
}

func TestDriverComesLate(t *testing.T) {
	var installed atomic.Bool
	m := start(t, h100(1), func(m *machine) {
		open := m.watch.Open
		m.watch.Open = func() (*nvml.Session, error) {
			if !installed.Load() {
				return nil, fmt.Errorf("%w: no such file", nvml.ErrAbsent)
			}
			return open()
		}
		m.scenario.Fail = []nvmltest.Rule{{Function: "nvmlInit_v2", Code: 9}}
		m.put()
	})
	m.is("unknown NVML is not installed")
	installed.Store(true)
	m.is("unknown cannot start NVML: Driver Not Loaded")
	m.scenario.Fail = nil
	m.put()
	m.is("healthy")
}

// NVML is opened anew for a GPU that setup found later.
func TestGPUComes(t *testing.T) {
	m := start(t, h100(1))
	m.is("healthy")
	m.scenario = h100(2)
	m.put()
	m.inventory("")
	m.is("healthy", "healthy")
	m.scenario = h100(1)
	m.put()
	m.inventory("")
	m.is("healthy")
}

// Without hardware NVML is not touched.
func TestSimulated(t *testing.T) {
	m := start(t, nvmltest.Scenario{GPUs: []nvmltest.GPU{{PCI: "0000:01:00.0"}}}, func(m *machine) {
		writeInventory(t, m.root, bootID, gpu.Simulated(2)...)
		m.watch.Open = func() (*nvml.Session, error) {
			t.Error("NVML is opened")
			return nil, nvml.ErrAbsent
		}
	})
	m.is("unknown", "unknown")
}
