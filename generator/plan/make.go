package plan

import (
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// Make returns the plan for in.
func Make(in Input) *Plan {
	m := maker{Input: in, plan: &Plan{}}
	var chosen []*choice
	for _, s := range in.Services {
		if c, ok := m.choose(s); ok {
			chosen = append(chosen, c)
		}
	}
	m.overrides()
	for _, c := range chosen {
		m.setup = m.setup || c.Name == Setup
	}
	for _, c := range chosen {
		m.emit(c)
	}
	slices.SortFunc(m.plan.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(m.plan.Links, func(a, b Link) int { return strings.Compare(a.Path, b.Path) })
	return m.plan
}

type maker struct {
	Input
	plan  *Plan
	setup bool // shared-setup.service is among the units
}

// A choice is a service that is on, with what the configuration made of it.
type choice struct {
	*service.Service
	instances int
	// edited: the administrator's own copy of the unit in /etc wins, so only
	// drop-ins and links are made.
	edited bool
}

func (m *maker) decide(kind, subject, verdict, format string, args ...any) {
	m.plan.Decisions = append(m.plan.Decisions, Decision{Kind: kind, Subject: subject, Verdict: verdict, Reason: fmt.Sprintf(format, args...)})
}

func (m *maker) problem(p *unitfile.Problem) {
	m.plan.Problems = append(m.plan.Problems, p)
}

// choose decides whether s is on.
func (m *maker) choose(s *service.Service) (*choice, bool) {
	switch {
	case s.Broken:
		m.decide(KindService, s.Name, Off, "%s is broken: gpuherd verify says how", s.Path)
		return nil, false
	case s.Masked:
		m.decide(KindService, s.Name, Off, "%s is a link to /dev/null or empty", s.Path)
		return nil, false
	}
	c := &choice{Service: s, instances: s.Instances}
	on, why := s.Enabled, "nothing switches it off"
	if e, ok := enabledEntry(s); ok {
		why = fmt.Sprintf("Enabled=%s in %s", yesNo(s.Enabled), e)
	}
	o, overridden := m.Config.Services[s.Name]
	if overridden && o.Enabled != nil {
		on, why = *o.Enabled, fmt.Sprintf("Enabled=%s at %s", yesNo(*o.Enabled), o.EnabledOrigin)
	}
	on, why = m.enabledVariable(s, on, why)
	if overridden && o.Instances != nil {
		c.instances = *o.Instances
	}
	if !on {
		m.decide(KindService, s.Name, Off, "%s", why)
		return nil, false
	}
	if m.Taken != nil {
		switch claim, by := m.Taken(s.Unit(), s); claim {
		case Foreign:
			m.problem(&unitfile.Problem{File: s.Path, Msg: by, Fix: "rename the file"})
			m.decide(KindService, s.Name, Off, "%s", by)
			return nil, false
		case Masked:
			m.decide(KindService, s.Name, Off, "%s", by)
			return nil, false
		case Replaced:
			c.edited = true
			why += "; " + by
		case Free:
		}
	}
	if s.Per == service.PerHost && c.instances > 1 {
		c.instances = 1
		m.problem(&unitfile.Problem{
			File: s.Path, Key: "Instances", Warning: true,
			Msg: "a service with Per=host runs once, Instances= has no effect",
		})
	}
	m.decide(KindService, s.Name, On, "%s", why)
	return c, true
}

// enabledVariable lets the first of the service's EnabledVariable= that is set
// decide. A value that is no boolean is reported and decides nothing.
func (m *maker) enabledVariable(s *service.Service, on bool, why string) (bool, string) {
	decided := ""
	for _, name := range s.EnabledVariables {
		a, ok := m.Config.Variable(name)
		if !ok {
			continue
		}
		b, err := unitfile.ParseBool(a.Value)
		if err != nil {
			m.problem(&unitfile.Problem{File: a.File, Key: a.Key, Msg: err.Error(), Fix: "write true or false; " + s.Name + " stays " + onOff(on)})
			continue
		}
		if decided != "" {
			if b != on {
				m.problem(&unitfile.Problem{File: a.File, Key: a.Key, Warning: true, Msg: "contradicts " + decided + ", which is used"})
			}
			continue
		}
		on, why, decided = b, a.Origin()+" is "+a.Value, a.Key
	}
	return on, why
}

// enabledEntry says which file set Enabled=.
func enabledEntry(s *service.Service) (string, bool) {
	if s.EnabledAt.Line == 0 {
		return "", false
	}
	return fmt.Sprintf("%s:%d", s.EnabledAt.File, s.EnabledAt.Line), true
}

// overrides reports [Service NAME] sections for which there is no service.
func (m *maker) overrides() {
	var names []string
	for _, s := range m.Services {
		names = append(names, s.Name)
	}
	for _, name := range m.Config.ServiceNames() {
		if slices.Contains(names, name) {
			continue
		}
		o := m.Config.Services[name]
		p := &unitfile.Problem{File: o.File, Line: o.Line, Msg: fmt.Sprintf("there is no service %s for [Service %s]", name, name)}
		if near := unitfile.Nearest(name, names); near != "" {
			p.Fix = "did you mean [Service " + near + "]?"
		} else {
			p.Fix = "add " + service.Dirs[0] + "/" + name + ".service"
		}
		m.problem(p)
	}
}

// emit adds a service's files and links.
func (m *maker) emit(c *choice) {
	unit := c.Unit()
	if c.Per == service.PerHost {
		if m.template(c) {
			m.want(c, unit, unit, nil)
			m.decide(KindUnit, unit, Generated, "%s runs once a host", c.Name)
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
			in := d.instance(n)
			name := c.InstanceUnit(in)
			why, ok := m.dropIn(c, d, in)
			if !ok {
				continue
			}
			m.want(c, name, unit, &in)
			m.decide(KindUnit, name, Generated, "%s", strings.Join(append([]string{reason}, why...), "; "))
		}
	}
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
	return "no GPU works and passes Model= and MinMemory="
}

// want makes the target start a unit.
func (m *maker) want(c *choice, name, unit string, in *service.Instance) {
	m.plan.Links = append(m.plan.Links, Link{Path: Target + ".wants/" + name, Target: "../" + unit})
	w := Worker{Unit: name, Service: c.Name}
	if in != nil {
		index := in.GPU
		w.Instance, w.GPU = in.String(), &index
	}
	m.plan.Workers = append(m.plan.Workers, w)
}

// file adds a file unless it cannot be written; it reports whether it was.
func (m *maker) file(c *choice, path string, f *unitfile.File) bool {
	if _, err := f.Bytes(); err != nil {
		m.problem(&unitfile.Problem{File: c.Path, Msg: err.Error()})
		m.decide(KindUnit, path, NotGenerated, "%v", err)
		return false
	}
	m.plan.Files = append(m.plan.Files, File{Path: path, Unit: f})
	return true
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func onOff(b bool) string {
	if b {
		return On
	}
	return Off
}
