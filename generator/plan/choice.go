package plan

import (
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator/config"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// A choice is a service that is on, with what the configuration made of it.
type choice struct {
	*service.Service
	instances int
	// edited: the administrator's own copy of the unit in /etc wins, so only
	// drop-ins and links are made.
	edited bool
	// decided is the place of the decision that it is on.
	decided int
	// left says why it is left out all the same.
	left string
}

// removable reports whether the service may be left out for what its file
// says: the operator wrote it, and the others do not need it.
func (c *choice) removable() bool { return !c.Shipped() && c.Name != Setup }

// leaveOut takes a service out of the plan.
func (m *maker) leaveOut(c *choice, why string) {
	if c.left == "" {
		c.left = why
		m.plan.Decisions[c.decided] = Decision{Kind: KindService, Subject: c.Name, Verdict: Off, Reason: why}
	}
}

// forget takes one name out of the service's file.
func (c *choice) forget(w *word) {
	s := *c.Service
	s.File = unitfile.Merge(c.File)
	for _, section := range s.File.Sections {
		section.Entries = slices.DeleteFunc(section.Entries, func(e unitfile.Entry) bool {
			return e.Value == w.text && e.Key == w.entry.Key && e.Line == w.entry.Line && e.File == w.entry.File
		})
		for i := range section.Entries {
			if e := &section.Entries[i]; e.Key == w.entry.Key && e.Line == w.entry.Line && e.File == w.entry.File {
				rest := slices.DeleteFunc(strings.Fields(e.Value), func(text string) bool { return text == w.text })
				e.Value = strings.Join(rest, " ")
			}
		}
	}
	c.Service = &s
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
	switch claim, by := m.taken(s.Unit(), s); claim {
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
	if s.Per == service.PerHost && c.instances > 1 {
		c.instances = 1
		p := &unitfile.Problem{
			File: s.Path, Line: s.At["Instances"].Line, Key: "Instances", Warning: true,
			Msg: "a service with Per=host runs once, so this has no effect", Fix: "take it out",
		}
		if e, ok := s.At["Instances"]; ok {
			p.File = e.File
		}
		if overridden && o.Instances != nil {
			p.File, p.Line, _ = config.Place(o.InstancesOrigin, p.Key)
		}
		m.problem(p)
	}
	c.decided = len(m.plan.Decisions)
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
	e, ok := s.At["Enabled"]
	return fmt.Sprintf("%s:%d", e.File, e.Line), ok
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

// parameters reports gpuherd.enable_NAME= on the kernel command line that
// switch nothing. A broken or masked file does not tell which it has.
func (m *maker) parameters() {
	var known []string
	for _, s := range m.Services {
		if s.Broken || s.Masked {
			return
		}
		for _, name := range s.EnabledVariables {
			known = append(known, strings.TrimPrefix(strings.ToLower(name), "enable_"))
		}
	}
	for _, a := range m.Config.Parameters() {
		name, ok := strings.CutPrefix(strings.ToLower(a.Name), "enable_")
		if !ok || slices.Contains(known, name) {
			continue
		}
		p := &unitfile.Problem{File: a.File, Key: a.Key, Msg: "no service has EnabledVariable=" + a.Name}
		if near := unitfile.Nearest(name, known); near != "" {
			p.Fix = "did you mean gpuherd.enable_" + near + "=?"
		}
		m.problem(p)
	}
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
