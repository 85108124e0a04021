// Package generator decides what should run on a machine and on which GPU: it
// reads the configuration, the devices and the service files below a root, has
// package plan make units of them, and writes those. gpuherd-generator does so
// at boot; `gpuherd explain` and `gpuherd verify` show what came of it.
package generator

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/plan"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// Options says for which machine to compute.
type Options struct {
	Root    string   // "/" or a folder with etc, run, usr, proc, sys below it
	Environ []string // PID 1's environment, NAME=value each
	// IgnoreInventory looks at the machine afresh, as gpuherd-setup does
	// before it writes the inventory.
	IgnoreInventory bool
}

// A Decision says why something is as it is.
type Decision = plan.Decision

// A Result is everything that was found and decided.
type Result struct {
	Config    *config.Config     `json:"-"`         // may hold a password
	Systemd   int                `json:"systemd"`   // version; 0: not known
	Container bool               `json:"container"` // the machine is one
	Source    string             `json:"source"`    // of the real GPUs: gpu.SourceInventory or gpu.SourcePCI
	Found     []gpu.GPU          `json:"found"`     // the usable real GPUs of the machine
	GPUs      []gpu.GPU          `json:"gpus"`      // those to use: [GPU] Count= applied, simulated ones added
	Findings  []gpu.Finding      `json:"findings"`  // every display device on the PCI bus
	Services  []*service.Service `json:"services"`
	Plan      *plan.Plan         `json:"plan"`
	Problems  unitfile.Problems  `json:"problems"`  // all of them, the plan's too
	Decisions []Decision         `json:"decisions"` // all of them, the plan's too
}

// Compute reads the machine and returns what it should run. It starts no
// process, uses no network and changes nothing. What is wrong is in Problems;
// there is always a result.
func Compute(o Options) *Result {
	if o.Root == "" {
		o.Root = "/"
	}
	r := &Result{}
	var problems unitfile.Problems
	r.Config, problems = config.Load(config.Source{Root: o.Root, Environ: o.Environ})
	r.Problems = append(r.Problems, problems...)
	r.Container = config.IsContainer(o.Root, o.Environ)
	r.systemd(o.Root)
	r.settings()
	r.find(o)
	r.count(o.Root)
	r.Services, problems = service.Load(o.Root)
	r.Problems = append(r.Problems, problems...)
	r.Plan = plan.Make(plan.Input{
		Config:    r.Config,
		GPUs:      r.GPUs,
		Services:  r.Services,
		Systemd:   max(r.Systemd, plan.OldestSystemd),
		Majors:    gpu.ReadMajors(o.Root),
		NodeCPUs:  gpu.ReadNodeCPUs(o.Root, r.GPUs),
		Container: r.Container,
		Taken:     listUnits(o.Root).claim,
		Rescan:    r.unprepared(o.Root),
	})
	r.Problems = append(r.Problems, r.Plan.Problems...).Unique()
	r.Decisions = append(r.Decisions, r.Plan.Decisions...)
	r.lists()
	return r
}

// lists makes empty lists of missing ones: readers of the JSON expect [].
func (r *Result) lists() {
	fill(&r.Found)
	fill(&r.GPUs)
	fill(&r.Findings)
	fill(&r.Services)
	fill(&r.Problems)
	fill(&r.Decisions)
	fill(&r.Plan.Files)
	fill(&r.Plan.Links)
	fill(&r.Plan.Workers)
	fill(&r.Plan.Decisions)
	fill(&r.Plan.Problems)
	for _, gpus := range [][]gpu.GPU{r.Found, r.GPUs} {
		for i := range gpus {
			fill(&gpus[i].MIG)
		}
	}
}

func fill[S ~[]E, E any](s *S) {
	if *s == nil {
		*s = S{}
	}
}

func (r *Result) decide(kind, subject, verdict, format string, args ...any) {
	r.Decisions = append(r.Decisions, Decision{Kind: kind, Subject: subject, Verdict: verdict, Reason: fmt.Sprintf(format, args...)})
}

// settings tells where each setting comes from that is not built in. It tells
// no value: one may be a password.
func (r *Result) settings() {
	for _, s := range config.Settings() {
		name := s.Section + "." + s.Key
		if name == "GPU.Count" {
			continue // count has more to say of it
		}
		if origin := r.Config.Origin(name); origin != config.BuiltIn {
			r.decide(plan.KindConfig, "["+s.Section+"] "+s.Key+"=", plan.Used, "set by %s", origin)
		}
	}
}

// find fills in the real GPUs. NVML is the best witness, but it can be asked
// only once a boot is under way, so its word comes by the inventory.
func (r *Result) find(o Options) {
	var inv *gpu.Inventory
	if !o.IgnoreInventory {
		inv = r.inventory(o.Root)
	}
	if inv != nil {
		r.Source = gpu.SourceInventory
		_, r.Findings = gpu.Scan(o.Root)
		r.trust(inv)
	} else {
		r.Source = gpu.SourcePCI
		r.Found, r.Findings = gpu.Detect(o.Root, r.Container)
	}
	for _, f := range r.Findings {
		verdict := plan.Skipped
		if f.Used {
			verdict = plan.Used
		}
		r.decide(plan.KindGPU, f.PCI, verdict, "%s", f.Reason)
	}
	if len(r.Findings) == 0 && len(r.Found) == 0 {
		r.decide(plan.KindMachine, "GPUs", plan.Noted, "no display device is on a PCI bus in /sys")
	}
	if v, ok := r.Config.Variable(gpu.VisibleVariable); ok && r.Container && len(r.Found) == 0 {
		if why := gpu.Withheld(v.Value); why != "" {
			r.decide(plan.KindMachine, "GPUs", plan.Noted, "%s is %s: %s", v.Origin(), v.Value, why)
		}
	}
}

// inventory returns the inventory of this boot, or nil. One that NVML did not
// answer for knows no more than PCI does.
func (r *Result) inventory(root string) *gpu.Inventory {
	const subject = "/" + gpu.InventoryPath
	inv, err := gpu.ReadInventory(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.decide(plan.KindMachine, subject, plan.Noted, "not there: gpuherd-setup has not run in this boot, so PCI decides")
	case errors.Is(err, gpu.ErrStale):
		r.decide(plan.KindMachine, subject, plan.Skipped, "of an earlier boot, so PCI decides")
	case err != nil:
		r.decide(plan.KindMachine, subject, plan.Skipped, "%v, so PCI decides", err)
	case inv.Source != gpu.SourceNVML:
		r.decide(plan.KindMachine, subject, plan.Skipped, "of this boot, but NVML did not answer for it (%s), so PCI decides", inv.Source)
	default:
		r.decide(plan.KindMachine, subject, plan.Used, "of this boot, by NVML with driver %s", inv.DriverVersion)
		return inv
	}
	return nil
}

// trust takes the GPUs from the inventory and says what it thinks of those on
// the PCI bus.
func (r *Result) trust(inv *gpu.Inventory) {
	inInventory := map[string]gpu.GPU{}
	for _, g := range inv.GPUs {
		if g.Simulated {
			continue // the configuration says which there are, now
		}
		r.Found = append(r.Found, g)
		inInventory[g.Address()] = g
	}
	seen := map[string]bool{}
	for i, f := range r.Findings {
		seen[f.PCI] = true
		g, ok := inInventory[f.PCI]
		switch {
		case ok:
			r.Findings[i].Used, r.Findings[i].Reason = known(g)
		case f.Used:
			r.Findings[i].Used, r.Findings[i].Reason = false, "it came after gpuherd-setup looked: a rescan takes it in"
		}
	}
	for _, g := range r.Found {
		if seen[g.Address()] {
			continue
		}
		used, reason := known(g)
		if used {
			reason += "; not on a PCI bus in /sys"
		}
		r.Findings = append(r.Findings, gpu.Finding{PCI: g.Address(), Used: used, Reason: reason})
	}
}

// known says of a GPU of the inventory whether it is used, and why.
func known(g gpu.GPU) (used bool, reason string) {
	if g.Fault != "" {
		return false, fmt.Sprintf("GPU %d of the inventory, %s: %s; it keeps its number", g.Index, identity(g), g.Fault)
	}
	return true, fmt.Sprintf("GPU %d of the inventory: %s", g.Index, identity(g))
}

func identity(g gpu.GPU) string {
	if g.UUID == "" {
		return "NVML told nothing of it"
	}
	return g.UUID
}

// count applies [GPU] Count= and Simulate=.
func (r *Result) count(root string) {
	c := r.Config
	simulated := 0
	if inv, err := gpu.ReadInventory(root); err == nil {
		for _, g := range inv.GPUs {
			if g.Simulated {
				simulated++
			}
		}
	}
	want, origin := c.GPU.Count, c.Origin("GPU.Count")
	r.GPUs = r.Found
	switch {
	case want < 0 && c.GPU.Simulate && simulated > 0:
		// Count= may have been lost to a typo, which must not take away the
		// workers that run.
		r.GPUs = gpu.Fill(r.Found, len(r.Found)+simulated)
		r.decide(plan.KindConfig, "[GPU] Simulate=", plan.Used, "on (%s), without a usable Count=: %d GPUs, as many as gpuherd-setup simulated in this boot", c.Origin("GPU.Simulate"), simulated)
	case want < 0 && c.GPU.Simulate && len(r.Found) == 0:
		r.decide(plan.KindConfig, "[GPU] Simulate=", plan.Noted, "on (%s), but without Count= there is no telling how many GPUs to simulate", c.Origin("GPU.Simulate"))
	case want < 0:
	case want <= len(r.Found):
		r.GPUs = r.Found[:want]
		r.decide(plan.KindConfig, "[GPU] Count=", plan.Used, "%d of %d GPUs are used: %s", want, len(r.Found), origin)
		for _, g := range r.Found[want:] {
			r.decide(plan.KindGPU, g.Address(), plan.Skipped, "GPU %d is beyond Count=%d", g.Index, want)
		}
	case c.GPU.Simulate:
		r.GPUs = gpu.Fill(r.Found, want)
		r.decide(plan.KindConfig, "[GPU] Count=", plan.Used, "%d by %s: %d found, %d simulated (Simulate= by %s)", want, origin, len(r.Found), want-len(r.Found), c.Origin("GPU.Simulate"))
		for _, g := range r.GPUs[len(r.Found):] {
			r.decide(plan.KindGPU, g.Address(), plan.Used, "simulated GPU %d", g.Index)
		}
	default:
		file, line, key := config.Place(origin, "Count")
		r.Problems = append(r.Problems, &unitfile.Problem{
			File: file, Line: line, Key: key, Warning: true,
			Msg: fmt.Sprintf("%d GPUs are wanted, %d found", want, len(r.Found)),
			Fix: "those found are used; [GPU] Simulate=yes would simulate the others",
		})
		r.decide(plan.KindConfig, "[GPU] Count=", plan.Noted, "%d by %s, but only %d found and Simulate= is no: those found are used", want, origin, len(r.Found))
	}
	if len(r.GPUs) == 0 {
		r.decide(plan.KindMachine, "GPUs", plan.Noted, "%s", r.noGPU())
	}
}

// unprepared reports whether a simulated GPU is to be used that gpuherd-setup,
// which has run in this boot, has not made ready: it was configured since. Of
// real ones it makes all ready.
func (r *Result) unprepared(root string) bool {
	inv, err := gpu.ReadInventory(root)
	if err != nil {
		return false
	}
	for _, g := range r.GPUs {
		if g.Simulated && !slices.ContainsFunc(inv.GPUs, func(i gpu.GPU) bool { return i.Simulated && i.Index == g.Index }) {
			r.decide(plan.KindUnit, plan.Rescan, plan.On, "gpuherd-setup has run in this boot, when GPU %d was not yet to be simulated", g.Index)
			return true
		}
	}
	return false
}

// noGPU says in one sentence why there is nothing to run on.
func (r *Result) noGPU() string {
	switch c := r.Config; {
	case c.GPU.Count == 0:
		return "no GPU is used: Count=0 by " + c.Origin("GPU.Count")
	case len(r.Findings) > 0:
		return fmt.Sprintf("none of the %d display devices is a usable NVIDIA GPU, and none is simulated: nothing that needs a GPU is generated", len(r.Findings))
	}
	return "no NVIDIA GPU is found, and none is simulated: nothing that needs a GPU is generated"
}

// Quiet returns why there is nothing GPU-bound to run, or the empty string.
func (r *Result) Quiet() string {
	if len(r.GPUs) == 0 {
		return r.noGPU()
	}
	for _, w := range r.Plan.Workers {
		if w.GPU != nil {
			return ""
		}
	}
	var off []string
	for _, d := range r.Plan.Decisions {
		if d.Verdict == plan.Off || d.Verdict == plan.NotGenerated && strings.Contains(d.Subject, "@.") {
			off = append(off, d.Subject+": "+d.Reason)
		}
	}
	if len(off) == 0 {
		return "no service file runs on a GPU"
	}
	return "no service runs on a GPU: " + strings.Join(off, "; ")
}

func atoi(s string) int {
	n := 0
	for _, r := range s {
		if r < '0' || r > '9' || n > 1<<24 {
			return 0
		}
		n = 10*n + int(r-'0')
	}
	return n
}
