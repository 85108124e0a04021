package sharedsetup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"gpuherd/generator"
	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
)

// Faults of GPUs that the PCI bus shows.
const (
	notYet   = "it does not answer NVML yet"
	noAnswer = "it does not answer NVML"
	lost     = "it has fallen off the bus"
	noDriver = "the NVIDIA driver is not loaded"
)

// A survey is what is known of the machine's GPUs at one moment.
type survey struct {
	inventory gpu.Inventory // without the simulated ones
	// pending are the GPUs that may answer yet, by address: they came into
	// view since the last inventory, and the driver needs seconds for each.
	pending []string
}

// look joins what the PCI bus shows, what NVML answers and what is known of
// this boot. earlier is nil in a boot's first survey.
func look(found []gpu.GPU, answer *nvml.Answer, minors map[gpu.MIGNode]int, earlier *gpu.Inventory) survey {
	s := survey{inventory: gpu.Inventory{Source: gpu.SourceNVML, DriverVersion: answer.DriverVersion}}
	gpus := slices.Clone(found)
	refine(gpus, answer, minors)
	for i := range gpus {
		if g := &gpus[i]; g.Fault == noAnswer && isNew(g.Address(), earlier) {
			g.Fault = notYet
			s.pending = append(s.pending, g.Address())
		}
	}
	s.inventory.GPUs = gpu.Number(gpus, known(earlier))
	return s
}

// blind is look where NVML gives no answer at all. Once it has, its last word
// is worth more than the PCI bus: a library that hangs must not stop workers
// that run. Only where there is no driver any more do they have to.
func blind(found []gpu.GPU, err error, driver bool, earlier *gpu.Inventory) survey {
	switch {
	case earlier != nil && earlier.Source == gpu.SourceNVML && driver:
		inv := gpu.Inventory{Source: gpu.SourceNVML, DriverVersion: earlier.DriverVersion}
		here := slices.Clone(found)
		for i := range here {
			here[i] = asKnown(here[i], earlier)
		}
		inv.GPUs = gpu.Number(here, known(earlier))
		return survey{inventory: inv}
	case earlier != nil && earlier.Source == gpu.SourceNVML:
		gpus := slices.Clone(found)
		for i := range gpus {
			gpus[i].Fault = noDriver
		}
		return survey{inventory: gpu.Inventory{Source: gpu.SourceNVML, GPUs: gpu.Number(gpus, known(earlier))}}
	}
	s := survey{inventory: gpu.Inventory{Source: gpu.SourcePCI, GPUs: slices.Clone(found)}}
	if !errors.Is(err, nvml.ErrAbsent) && !errors.Is(err, nvml.ErrUnusable) {
		for _, g := range found {
			s.pending = append(s.pending, g.Address())
		}
	}
	return s
}

// asKnown returns a GPU as the inventory has it.
func asKnown(g gpu.GPU, earlier *gpu.Inventory) gpu.GPU {
	for _, old := range known(earlier) {
		if old.Address() == g.Address() && old.Fault != gpu.Left {
			return old
		}
	}
	g.Fault = noAnswer
	return g
}

// isNew reports whether the GPU came into view since the inventory.
func isNew(address string, earlier *gpu.Inventory) bool {
	for _, g := range known(earlier) {
		if g.Address() == address {
			return g.Fault == gpu.Left || g.Fault == notYet
		}
	}
	return true
}

func known(inv *gpu.Inventory) []gpu.GPU {
	if inv == nil || inv.Source != gpu.SourceNVML {
		return nil
	}
	return inv.GPUs
}

// giveUp turns GPUs that were waited for into faulty ones.
func (s *survey) giveUp() {
	s.pending = nil
	for i := range s.inventory.GPUs {
		if g := &s.inventory.GPUs[i]; g.Fault == notYet {
			g.Fault = noAnswer
		}
	}
}

// Polling of NVML while GPUs come up: with a loaded driver a GPU needs 1 to 3
// seconds, and each look costs as much where no persistence daemon runs.
const (
	firstPoll = 250 * time.Millisecond
	lastPoll  = 4 * time.Second
)

// survey looks until every GPU that the PCI bus shows has answered NVML or
// time is up, and again while requests for a rescan come in. Each state of it
// that is not final goes to between, unless that is nil.
func (s *Setup) survey(ctx context.Context, between func(*generator.Result, survey)) (*generator.Result, survey) {
	var deadline time.Time
	earlier, err := gpu.ReadInventory(s.Root)
	if err != nil {
		earlier = nil // none of this boot
	}
	var last survey // that NVML answered for
	prepared := false
	for wait := firstPoll; ; wait = min(2*wait, lastPoll) {
		s.clearRequests()
		r := s.detect()
		if deadline.IsZero() {
			deadline = time.Now().Add(cmp.Or(s.NVMLTimeout, nvmlTimeout+time.Duration(len(r.Found))*nvmlPerGPU))
		}
		if !prepared && len(r.Found) > 0 && !r.Container {
			prepared = true
			if s.prepare(ctx, r.Found) {
				r = s.detect()
			}
		}
		now, hung := s.once(ctx, r, earlier, deadline)
		if hung && last.inventory.Source == gpu.SourceNVML {
			now = last
		}
		last = now
		late := hung || ctx.Err() != nil || time.Until(deadline) < wait
		if len(now.pending) == 0 || late {
			now.giveUp()
			if late || !s.requested() {
				return r, now // whoever asked meanwhile is served by another run
			}
		}
		if between != nil {
			between(r, now)
			earlier = &now.inventory
		}
		if len(now.pending) > 0 {
			s.status("waiting for NVML to answer for %s", strings.Join(now.pending, ", "))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// detect looks at the machine afresh, as the generator does.
func (s *Setup) detect() *generator.Result {
	return generator.Compute(generator.Options{Root: s.Root, Environ: s.Environ, IgnoreInventory: true})
}

// once looks once. hung: NVML did not answer in time, and must not be asked
// again in this process.
func (s *Setup) once(ctx context.Context, r *generator.Result, earlier *gpu.Inventory, deadline time.Time) (now survey, hung bool) {
	found := r.Found
	if s.NVML == nil || len(found) == 0 && len(known(earlier)) == 0 {
		return survey{inventory: gpu.Inventory{Source: gpu.SourcePCI, GPUs: slices.Clone(found)}}, false
	}
	s.status("asking NVML for %s", count(len(found), "GPU"))
	answer, err := s.ask(ctx, time.Until(deadline))
	if err == nil {
		for _, f := range answer.Faults {
			s.fault(f.String())
		}
		return look(found, answer, gpu.ReadMIGMinors(s.Root), earlier), false
	}
	now = blind(found, err, s.exists("/proc/driver/nvidia/version") || s.exists(gpu.WSLNode), earlier)
	text := err.Error()
	if errors.Is(err, nvml.ErrAbsent) {
		text = fmt.Sprintf("%s on the PCI bus, but no NVIDIA driver: %v", count(len(found), "GPU"), err)
		if v, ok := r.Config.Variable(gpu.CapabilitiesVariable); ok && r.Container && gpu.LibraryWithheld(v.Value) {
			text = fmt.Sprintf("%s given to this container, but not NVML: %s is %s, add utility", count(len(found), "GPU"), v.Origin(), v.Value)
		}
	}
	s.fault(text)
	return now, errors.Is(err, errHung)
}

// errHung says that NVML took too long.
var errHung = errors.New("NVML did not answer")

// ask bounds the time NVML has: a call into it cannot be interrupted, and with
// a broken GPU it may never return.
func (s *Setup) ask(ctx context.Context, within time.Duration) (*nvml.Answer, error) {
	type result struct {
		answer *nvml.Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		a, err := s.NVML()
		done <- result{a, err}
	}()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-time.After(within):
		return nil, fmt.Errorf("%w within %v", errHung, within.Round(time.Millisecond))
	case <-ctx.Done():
		return nil, errors.New("stopped while waiting for NVML")
	}
}

// clearRequests takes the requests for a rescan, before anything is looked at:
// whoever asks from here on is served by another look.
func (s *Setup) clearRequests() {
	names := s.requests()
	if len(names) == 0 {
		return
	}
	// The monitor's user may write here, and must not lead root elsewhere.
	dir, err := os.OpenRoot(s.path(requestDir))
	if err == nil {
		defer func() { _ = dir.Close() }()
		for _, name := range names {
			err = errors.Join(err, dir.RemoveAll(name))
		}
	}
	if err != nil {
		s.fault(fmt.Sprintf("cannot take the request for a rescan: %v", err))
	}
}

func (s *Setup) requested() bool { return len(s.requests()) > 0 }

func (s *Setup) requests() []string {
	entries, err := os.ReadDir(s.path(requestDir))
	if err != nil {
		return nil // nobody can have asked
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *Setup) exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}

// fault tells what is amiss with the GPUs, once in a run.
func (s *Setup) fault(text string) {
	if !slices.Contains(s.faults, text) {
		s.faults = append(s.faults, text)
		s.Log.Error(text)
	}
}
