package plan

import (
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// Make returns the plan for in.
func Make(in Input) *Plan {
	m := maker{Input: in, plan: &Plan{}, told: map[string]bool{}}
	var chosen []*choice
	for _, s := range in.Services {
		if c, ok := m.choose(s); ok {
			chosen = append(chosen, c)
		}
	}
	m.overrides()
	m.parameters()
	m.setup = slices.ContainsFunc(chosen, func(c *choice) bool { return c.Name == Setup })
	for _, c := range m.order(chosen) {
		m.emit(c)
	}
	if m.Rescan {
		m.plan.Links = append(m.plan.Links, Link{Path: Target + ".wants/" + Rescan, Target: "/usr/lib/systemd/system/" + Rescan})
	}
	slices.SortFunc(m.plan.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(m.plan.Links, func(a, b Link) int { return strings.Compare(a.Path, b.Path) })
	return m.plan
}

type maker struct {
	Input
	plan  *Plan
	setup bool            // shared-setup.service is among the units
	told  map[string]bool // files that were reported to hide drop-ins
}

func (m *maker) decide(kind, subject, verdict, format string, args ...any) {
	m.plan.Decisions = append(m.plan.Decisions, Decision{Kind: kind, Subject: subject, Verdict: verdict, Reason: fmt.Sprintf(format, args...)})
}

func (m *maker) problem(p *unitfile.Problem) {
	m.plan.Problems = append(m.plan.Problems, p)
}

// emit adds a service's files and links.
func (m *maker) emit(c *choice) {
	unit := c.Unit()
	if c.Per == service.PerHost {
		if m.template(c) {
			reasons := append([]string{c.Name + " runs once a host"}, m.stay(c, unit, config.StoppedAll)...)
			m.want(c, unit, unit, nil)
			m.decide(KindUnit, unit, Generated, "%s", strings.Join(reasons, "; "))
		}
		return
	}
	devices := m.devices(c)
	if !slices.ContainsFunc(devices, func(d device) bool { _, ok := takes(c.Service, d.gpu, d.mig); return ok }) {
		for _, d := range devices {
			why, _ := takes(c.Service, d.gpu, d.mig)
			m.decide(KindUnit, c.InstanceUnit(d.instance(1)), NotGenerated, "%s", why)
		}
		m.decide(KindUnit, unit, NotGenerated, "%s", m.noDevice(c))
		return
	}
	if !m.template(c) {
		return
	}
	for _, d := range devices {
		reason, ok := takes(c.Service, d.gpu, d.mig)
		if !ok {
			m.decide(KindUnit, c.InstanceUnit(d.instance(1)), NotGenerated, "%s", reason)
			continue
		}
		for n := 1; n <= c.instances; n++ {
			m.instance(c, d, d.instance(n), reason)
		}
	}
}

// instance adds what one worker gets, unless its name is taken.
func (m *maker) instance(c *choice, d device, in service.Instance, reason string) {
	name := c.InstanceUnit(in)
	reasons := []string{reason}
	switch claim, by := m.taken(name, c.Service); claim {
	case Foreign:
		m.problem(&unitfile.Problem{File: c.Path, Msg: by, Fix: "remove one of the two; until then " + name + " is left out"})
		m.decide(KindUnit, name, NotGenerated, "%s", by)
		return
	case Masked:
		m.decide(KindUnit, name, NotGenerated, "%s", by)
		return
	case Replaced:
		reasons = append(reasons, by)
	case Free:
	}
	why, ok := m.dropIn(c, d, in)
	if !ok {
		return
	}
	switch claim, by := m.taken(dropInPath(name), c.Service); claim {
	case Foreign, Replaced:
		m.hidden(by)
		reasons = append(reasons, by+" hides what binds it to its GPU")
	case Masked:
		reasons = append(reasons, by+" masks what binds it to its GPU")
	case Free:
	}
	reasons = append(append(reasons, why...), m.stay(c, name, in.String())...)
	m.want(c, name, c.Unit(), &in)
	m.decide(KindUnit, name, Generated, "%s", strings.Join(reasons, "; "))
}

// dropInPath returns the path of the drop-in that binds a unit to its device.
func dropInPath(unit string) string { return unit + ".d/50-gpu.conf" }

// hidden reports, once, a file that hides the drop-ins of instances.
func (m *maker) hidden(file string) {
	if m.told[file] {
		return
	}
	m.told[file] = true
	m.problem(&unitfile.Problem{
		File: file, Msg: "hides the drop-in of the same name that binds each worker to its GPU", Fix: "give it another name, such as 90-mine.conf",
	})
}

// taken is Input.Taken, with a plan's own opinion where there is none.
func (m *maker) taken(file string, s *service.Service) (Claim, string) {
	if m.Taken == nil {
		return Free, ""
	}
	return m.Taken(file, s)
}

// units returns the names of the units that a service gets.
func (m *maker) units(c *choice) []string {
	if c.Per == service.PerHost {
		return []string{c.Unit()}
	}
	var names []string
	for _, d := range m.devices(c) {
		if _, ok := takes(c.Service, d.gpu, d.mig); !ok {
			continue
		}
		for n := 1; n <= c.instances; n++ {
			name := c.InstanceUnit(d.instance(n))
			if claim, _ := m.taken(name, c.Service); claim == Free || claim == Replaced {
				names = append(names, name)
			}
		}
	}
	return names
}

// noDevice says why a service that is on got no unit.
func (m *maker) noDevice(c *choice) string {
	switch {
	case len(m.GPUs) == 0:
		return "there is no GPU to run on"
	case !slices.ContainsFunc(m.GPUs, func(g gpu.GPU) bool { return g.Fault == "" }):
		return "no GPU works"
	case c.Per == service.PerMIG && !slices.ContainsFunc(m.GPUs, func(g gpu.GPU) bool { return len(g.MIG) > 0 }):
		return "no MIG device is known: gpuherd-setup finds them once the driver is up"
	}
	if slices.ContainsFunc(m.GPUs, func(g gpu.GPU) bool { return g.Fault != "" }) {
		return "no GPU works and passes Model= and MinMemory="
	}
	return "no GPU passes Model= and MinMemory="
}

// want makes the target start a unit.
func (m *maker) want(c *choice, name, unit string, in *service.Instance) {
	m.plan.Links = append(m.plan.Links, Link{Path: Target + ".wants/" + name, Target: "../" + unit})
	w := Worker{Unit: name, Service: c.Name, Stopped: m.stopped(c, instance(in))}
	if in != nil {
		index := in.GPU
		w.Instance, w.GPU = in.String(), &index
	}
	m.plan.Workers = append(m.plan.Workers, w)
}

// file adds a file unless it cannot be written; it reports whether it was.
func (m *maker) file(c *choice, path string, f *unitfile.File) bool {
	if err := f.Check(); err != nil {
		m.problem(&unitfile.Problem{File: c.Path, Msg: err.Error()})
		m.decide(KindUnit, path, NotGenerated, "%v", err)
		return false
	}
	m.plan.Files = append(m.plan.Files, File{Path: path, Unit: f})
	return true
}
