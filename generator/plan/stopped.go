package plan

import (
	"slices"

	"gpuherd/generator/config"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// Up is the unit that is active once the target has started what it starts by
// itself; UpDir is there for as long.
const (
	Up    = "gpuherd-up.service"
	UpDir = "/run/gpuherd/up"
)

// stopped reports whether Stopped= of gpuherd.conf names an instance.
func (m *maker) stopped(c *choice, instance string) bool {
	list := m.Config.Services[c.Name].Stopped
	return slices.Contains(list, config.StoppedAll) || slices.Contains(list, instance)
}

// stay keeps a unit that is to be stopped from starting with the target, which
// wants it all the same: so it is seen, and a start by hand works as on any
// other unit. Its condition is met once Up is active, which comes after it.
func (m *maker) stay(c *choice, unit, instance string) (why []string) {
	if !m.stopped(c, instance) {
		return nil
	}
	f := &unitfile.File{Name: c.Path, Header: []string{Header}}
	f.Add("Unit", "SourcePath", unitfile.EscapeSpecifiers(c.Path))
	f.Add("Unit", "Before", Up)
	f.Add("Unit", "ConditionPathExists", UpDir)
	if !m.file(c, unit+".d/60-stopped.conf", f) {
		return nil
	}
	return []string{"it does not start with the target: Stopped= at " + m.Config.Services[c.Name].StoppedOrigin}
}

// instance names an instance, or all for a service that runs once a host.
func instance(in *service.Instance) string {
	if in == nil {
		return config.StoppedAll
	}
	return in.String()
}
