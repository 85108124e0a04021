//go:build cgo

package nvml

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu/nvml/nvmltest"
)

// sampled is what a Session of another process tells.
type sampled struct {
	Err     string
	Samples []Sample
	Faults  []Fault
	Unheard []string
}

func sampleAll(library string) (out sampled) {
	s, err := Open(library)
	if err != nil {
		return sampled{Err: err.Error()}
	}
	defer s.Close()
	for i := range s.GPUs() {
		out.Samples = append(out.Samples, s.Sample(i))
	}
	if _, _, err := s.Wait(time.Millisecond); err != nil {
		out.Err = err.Error()
	}
	out.Faults, out.Unheard = s.Faults, s.Unheard
	return out
}

func twoGPUs() nvmltest.Scenario {
	s := nvmltest.EightH100()
	s.GPUs = s.GPUs[:2]
	s.GPUs[1].Utilisation = new(93)
	return s
}

func TestSample(t *testing.T) {
	t.Parallel()
	library := build(t)
	const a, b = "0000:1b:00.0", "0000:43:00.0"
	healthy := []Sample{
		{PCI: a, Temperature: new(31), Utilisation: new(0), Recovery: new(RecoveryNone)},
		{PCI: b, Temperature: new(32), Utilisation: new(93), Recovery: new(RecoveryNone)},
	}
	for _, c := range []struct {
		name    string
		without []string
		change  func(*nvmltest.Scenario)
		want    sampled
	}{
		{"healthy", nil, func(*nvmltest.Scenario) {}, sampled{Samples: healthy}},
		{"nothing is supported", nil, func(s *nvmltest.Scenario) {
			s.GPUs = []nvmltest.GPU{{PCI: a, UUID: uuidA, Events: 0x7}}
		}, sampled{Samples: []Sample{{PCI: a}}, Unheard: []string{a}}},
		{"one is to be reset", nil, func(s *nvmltest.Scenario) {
			s.GPUs[0].Recovery = new(1)
			s.Fail = []nvmltest.Rule{{Function: "nvmlDeviceGetUtilizationRates", Code: 16, GPU: new(1)}, {Function: "nvmlDeviceGetTemperature", Code: 999, GPU: new(0)}}
		}, sampled{Samples: []Sample{
			{PCI: a, Utilisation: new(0), Recovery: new(Recovery(1)), Err: "Unknown Error"},
			{PCI: b, Temperature: new(32), Recovery: new(RecoveryNone), NeedsReset: true},
		}}},
		{"one is lost", nil, func(s *nvmltest.Scenario) { s.GPUs[0].Lost = true },
			sampled{Samples: healthy[1:], Faults: []Fault{{Index: 0, Lost: true, Err: "cannot open it: GPU is lost"}}}},
		{"driver not loaded", nil, func(s *nvmltest.Scenario) { s.Fail = []nvmltest.Rule{{Function: "nvmlInit_v2", Code: 9}} },
			sampled{Err: "cannot start NVML: Driver Not Loaded"}},
		{"an old driver", []string{"nvmlDeviceGetFieldValues", "nvmlEventSetWait_v2"}, func(*nvmltest.Scenario) {}, sampled{
			Samples: []Sample{{PCI: a, Temperature: new(31), Utilisation: new(0)}, {PCI: b, Temperature: new(32), Utilisation: new(93)}},
			Unheard: []string{a, b},
		}},
		{"a driver without figures", []string{"nvmlDeviceGetTemperature", "nvmlDeviceGetUtilizationRates", "nvmlDeviceRegisterEvents"}, func(*nvmltest.Scenario) {}, sampled{
			Samples: []Sample{{PCI: a, Recovery: new(RecoveryNone)}, {PCI: b, Recovery: new(RecoveryNone)}},
			Unheard: []string{a, b},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := twoGPUs()
			c.change(&s)
			library := library
			if c.without != nil {
				library = build(t, c.without...)
			}
			if diff := cmp.Diff(c.want, inProcess[sampled](t, s, "GPUHERD_SAMPLE_NVML="+library)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A Session hears what happens while it is open, of each GPU that is there,
// and holds on to nothing once closed.
func TestSessionEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scenario")
	t.Setenv(nvmltest.ScenarioVariable, path)
	s := twoGPUs()
	put := func() {
		t.Helper()
		if err := s.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	happen := func(gpu int, kind, data uint64) {
		t.Helper()
		if err := nvmltest.AppendEvent(path, gpu, kind, data); err != nil {
			t.Fatal(err)
		}
	}
	put()
	happen(0, nvmltest.EventXID, 48) // nobody listens yet
	library := build(t)
	session, err := Open(library)
	if err != nil {
		t.Fatal(err)
	}
	if !holdsOpen(t, path) {
		t.Error("an open session holds nothing open")
	}
	next := func() Event {
		t.Helper()
		e, ok, err := session.Wait(20 * time.Second)
		if !ok || err != nil {
			t.Fatalf("no event: %v", err)
		}
		return e
	}
	happen(1, nvmltest.EventXID, 31)
	happen(0, 4, 0) // of another type
	happen(0, nvmltest.EventRecovery, 0)
	if e := next(); e != (Event{PCI: "0000:43:00.0", XID: 31}) {
		t.Errorf("%+v", e)
	}
	if e := next(); e != (Event{PCI: "0000:1b:00.0", Recovery: true}) {
		t.Errorf("%+v", e)
	}
	if e, ok, err := session.Wait(time.Millisecond); ok || err != nil {
		t.Errorf("%+v, %v, want nothing", e, err)
	}

	s.GPUs[0].Lost = true
	put()
	if _, ok, err := session.Wait(20 * time.Second); ok || err == nil || err.Error() != "cannot wait for events: GPU is lost" {
		t.Errorf("event %v, %v, want that a GPU is lost", ok, err)
	}
	if got := session.Sample(0); !got.Lost {
		t.Errorf("the lost GPU is %+v", got)
	}
	happen(1, nvmltest.EventXID, 79)
	if e := next(); e != (Event{PCI: "0000:43:00.0", XID: 79}) {
		t.Errorf("beside a lost GPU: %+v", e)
	}
	session.Close()
	if holdsOpen(t, path) {
		t.Error("a closed session holds on")
	}

	s.GPUs[0].Lost = false
	put()
	if session, err = Open(library); err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if got := session.GPUs(); len(got) != 2 {
		t.Errorf("opened again, it has %q", got)
	}
}

// holdsOpen reports whether this process has the file open.
func holdsOpen(t *testing.T, path string) bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		return err == nil && target == path
	})
}
