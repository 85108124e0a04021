package service

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"gpuherd/generator/config"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// Load reads all service files below root, sorted by name. A file that has
// nothing to run is returned as Broken, with its problem; the others do not
// suffer from it.
func Load(root string) ([]*Service, unitfile.Problems) {
	var problems unitfile.Problems
	found, failed := rootfs.Stacked(root, ".service", Dirs...)
	for _, d := range failed {
		problems = append(problems, &unitfile.Problem{File: d.Path, Msg: "cannot be listed: " + d.Err.Error()})
	}
	services := make([]*Service, 0, len(found))
	for _, f := range found {
		s, ps := load(root, f)
		services = append(services, s)
		problems = append(problems, ps...)
	}
	return services, problems
}

func load(root string, f rootfs.Found) (*Service, unitfile.Problems) {
	name := strings.TrimSuffix(f.Name, ".service")
	broken := &Service{Name: name, Path: f.Path, Broken: true}
	if err := checkName(name); err != nil {
		return broken, unitfile.Problems{{File: f.Path, Msg: err.Error(), Fix: "rename the file"}}
	}
	data, err := rootfs.ReadFile(root, f.Path, rootfs.MaxFile)
	if errors.Is(err, rootfs.ErrMasked) || err == nil && len(data) == 0 {
		return &Service{Name: name, Path: f.Path, Masked: true}, nil
	}
	if err != nil {
		return broken, unitfile.Problems{{File: f.Path, Msg: "cannot be read: " + err.Error()}}
	}
	base, problems := unitfile.Parse(f.Path, data)
	if problems.Failed() {
		// The lines that could be read may have problems of their own. What the
		// file has not at all may be in the others.
		_, more := Parse(name, f.Path, base)
		for _, p := range more {
			if p.Line > 0 {
				problems = append(problems, p)
			}
		}
		return broken, problems
	}

	dropins, paths, more := loadDropIns(root, f.Name)
	problems = append(problems, more...)
	s, more := Parse(name, f.Path, base, dropins...)
	s.DropIns = paths
	return s, append(problems, more...)
}

// loadDropIns reads NAME.service.d/*.conf by systemd's rules. A broken drop-in
// is left out.
func loadDropIns(root, name string) (files []*unitfile.File, paths []string, problems unitfile.Problems) {
	var dirs []string
	for _, dir := range Dirs {
		dirs = append(dirs, dir+"/"+name+".d")
	}
	found, failed := rootfs.Stacked(root, ".conf", dirs...)
	for _, d := range failed {
		problems = append(problems, &unitfile.Problem{File: d.Path, Msg: "cannot be listed: " + d.Err.Error()})
	}
	for _, f := range found {
		data, err := rootfs.ReadFile(root, f.Path, rootfs.MaxFile)
		if errors.Is(err, rootfs.ErrMasked) {
			continue
		}
		if err != nil {
			problems = append(problems, &unitfile.Problem{File: f.Path, Msg: "cannot be read: " + err.Error()})
			continue
		}
		file, ps := unitfile.Parse(f.Path, data)
		problems = append(problems, ps...)
		if ps.Failed() {
			continue
		}
		files = append(files, file)
		paths = append(paths, f.Path)
	}
	return files, paths, problems
}

// checkName accepts what can be the prefix of NAME@INSTANCE.service
// (systemd.unit(5)): the unit's name has at most 255 bytes.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a service needs a name before .service")
	case strings.Contains(name, "@"):
		return errors.New("the name has an @: templates and instances are made from [X-GPU] Per= and Instances=")
	case len(name) > 200:
		return errors.New("the name is longer than 200 bytes")
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(":-_.\\", r) {
			return fmt.Errorf("the name has %q, which no unit's name may have", r)
		}
	}
	return nil
}

var keys = []string{"Per", "Instances", "Enabled", "EnabledVariable", "Isolate", "NUMA", "Model", "MinMemory"}

// Keys returns the keys of [X-GPU], for the documentation to be held against.
func Keys() []string { return slices.Clone(keys) }

// Parse makes a service of its file and drop-ins, which it does not change.
// The service is Broken where what is wrong leaves nothing that could run, or
// no telling on which GPUs; a bad value of another key is reported and its default used.
func Parse(name, file string, base *unitfile.File, dropins ...*unitfile.File) (*Service, unitfile.Problems) {
	p := parser{s: &Service{
		Name: name, Path: file,
		Per: PerGPU, Instances: 1, Enabled: true, Isolate: true, NUMA: NUMAPreferred,
		At: map[string]unitfile.Entry{},
	}}
	merged := unitfile.Merge(base, dropins...)
	for _, e := range merged.Entries(Section) {
		before := len(p.problems)
		p.entry(e)
		switch {
		case e.Value == "":
			delete(p.s.At, e.Key)
		case len(p.problems) == before:
			p.s.At[e.Key] = e
		}
	}
	p.s.File = &unitfile.File{Name: merged.Name}
	for _, s := range merged.Sections {
		if s.Name != Section {
			p.s.File.Sections = append(p.s.File.Sections, s)
		}
	}
	p.sections(merged.Has(Section), append([]*unitfile.File{base}, dropins...))
	p.runnable(file)
	p.commandLines()
	p.directives()
	p.dependencies()
	p.spelling()
	if p.broken {
		return &Service{Name: name, Path: file, Broken: true}, p.problems
	}
	return p.s, p.problems
}

type parser struct {
	s        *Service
	problems unitfile.Problems
	broken   bool
	// misspelt: a problem tells of a section that was meant to be [Service].
	misspelt bool
}

func (p *parser) bad(e unitfile.Entry, fix, format string, args ...any) {
	p.problems = append(p.problems, &unitfile.Problem{
		File: e.File, Line: e.Line, Key: e.Key, Msg: fmt.Sprintf(format, args...), Fix: fix,
	})
}

// entry takes one assignment in [X-GPU]; the empty one goes back to the default.
func (p *parser) entry(e unitfile.Entry) {
	s := p.s
	switch e.Key {
	case "Per":
		switch e.Value {
		case PerGPU, PerMIG, PerHost:
			s.Per = e.Value
		case "":
			s.Per = PerGPU
		default:
			// Any guess could start a program where it must not run.
			p.broken = true
			p.bad(e, "write gpu, mig or host", "%q is no kind of device", short(e.Value))
		}
	case "Instances":
		if e.Value == "" {
			s.Instances = 1
			return
		}
		n, err := strconv.ParseUint(e.Value, 10, 31)
		if err != nil || n < 1 || n > config.MaxInstances {
			fix := fmt.Sprintf("%d is used", s.Instances)
			if err == nil && n == 0 {
				fix = "Enabled=no switches a service off"
			}
			p.bad(e, fix, "%q is not a number from 1 to %d", short(e.Value), config.MaxInstances)
			return
		}
		s.Instances = int(n)
	case "Enabled":
		p.boolean(e, &s.Enabled, true)
	case "EnabledVariable":
		if e.Value == "" {
			s.EnabledVariables = nil
			return
		}
		for name := range strings.FieldsSeq(e.Value) {
			if !isVariable(name) {
				p.bad(e, "write letters, digits and _, a letter first", "%q is no name for an environment variable", short(name))
				continue
			}
			if !slices.Contains(s.EnabledVariables, name) {
				s.EnabledVariables = append(s.EnabledVariables, name)
			}
		}
	case "Isolate":
		p.boolean(e, &s.Isolate, true)
	case "NUMA":
		switch e.Value {
		case NUMAPreferred, NUMAStrict, NUMAOff:
			s.NUMA = e.Value
		case "":
			s.NUMA = NUMAPreferred
		default:
			p.bad(e, "write preferred, strict or off; "+s.NUMA+" is used", "%q is unknown", short(e.Value))
		}
	case "Model":
		if e.Value == "" {
			s.Models = nil
			return
		}
		p.models(e)
	case "MinMemory":
		if e.Value == "" {
			s.MinMemory = 0
			return
		}
		n, err := unitfile.ParseSize(e.Value)
		if err != nil {
			p.broken = true
			p.bad(e, "write a size such as 40G; "+nowhere, "%v", err)
			return
		}
		s.MinMemory = n
	default:
		fix := "known are " + strings.Join(keys, "=, ") + "="
		if near := unitfile.Nearest(e.Key, keys); near != "" {
			fix = "did you mean " + near + "=?"
		}
		p.bad(e, fix, "unknown key in [%s]", Section)
	}
}

// boolean takes e, which holds one or goes back to the default.
func (p *parser) boolean(e unitfile.Entry, to *bool, def bool) {
	if e.Value == "" {
		*to = def
		return
	}
	b, err := unitfile.ParseBool(e.Value)
	if err != nil {
		word := "no"
		if *to {
			word = "yes"
		}
		p.bad(e, word+" is used", "%q is neither yes nor no", short(e.Value))
		return
	}
	*to = b
}

// nowhere is the cost of a filter that cannot be read: any guess could start a
// program on a GPU that it must not have.
const nowhere = "until it is mended the service runs nowhere"

func (p *parser) models(e unitfile.Entry) {
	globs, err := unitfile.SplitArgv(e.Value)
	if err != nil {
		p.broken = true
		p.bad(e, nowhere, "%v", err)
		return
	}
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil {
			p.broken = true
			p.bad(e, nowhere, "%q is no glob", short(glob))
			continue
		}
		p.s.Models = append(p.s.Models, glob)
	}
}

// runnable refuses what systemd would not load, so that the message names the
// file and not a generated copy.
func (p *parser) runnable(file string) {
	f := p.s.File
	if !f.Has("Service") {
		p.broken = true
		if !p.misspelt {
			p.problems = append(p.problems, &unitfile.Problem{File: file, Msg: "has no [Service] section", Fix: "add one, with ExecStart="})
		}
		return
	}
	if len(f.Values("Service", "ExecStart")) > 0 {
		return
	}
	// systemd.service(5): a oneshot may do with ExecStop=.
	if p.s.Oneshot() && len(f.Values("Service", "ExecStop")) > 0 {
		return
	}
	p.broken = true
	problem := &unitfile.Problem{File: file, Msg: "has no ExecStart= in [Service]", Fix: "add ExecStart= with the program to run"}
	for _, e := range f.Entries("Service") {
		if near := unitfile.Nearest(e.Key, []string{"ExecStart"}); near != "" && e.Key != near && !strings.HasPrefix(e.Key, "ExecSt") {
			problem.File, problem.Line, problem.Key, problem.Fix = e.File, e.Line, e.Key, "did you mean "+near+"=?"
		}
	}
	p.problems = append(p.problems, problem)
}

func isVariable(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// short bounds what a message repeats of a file.
func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
