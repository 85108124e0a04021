package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// dirs are the folders of gpuherd's configuration, the winning one first.
var dirs = []string{"/etc/gpuherd", "/run/gpuherd", "/usr/lib/gpuherd"}

const (
	environName   = "PID 1's environment"
	parameterName = "kernel command line"
)

// A Source is where a configuration is read from.
type Source struct {
	Root    string   // "/" or a folder with etc, run, usr, proc below it
	Environ []string // PID 1's environment, NAME=value each
}

// HostSource returns the source for root with the environment of root's PID 1.
// The error says that this could not be read (only root may); the source is
// usable all the same, without an environment.
func HostSource(root string) (Source, error) {
	src := Source{Root: root}
	data, err := rootfs.ReadFile(root, "/proc/1/environ", 8<<20)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && root != "/" && root != "" {
			return src, nil
		}
		return src, fmt.Errorf("cannot read PID 1's environment: %w", err)
	}
	for v := range strings.SplitSeq(string(data), "\x00") {
		if v != "" {
			src.Environ = append(src.Environ, v)
		}
	}
	return src, nil
}

// Load reads the configuration of src. It always returns one that can be used:
// what is wrong is reported and leaves the value that held before.
func Load(src Source) (*Config, unitfile.Problems) {
	l := loader{root: src.Root, config: Default()}
	// The main file stands in one folder: as with systemd's own, /etc/…
	// replaces /usr/lib/… as a whole, and drop-ins change single keys.
	for _, dir := range dirs {
		if _, err := os.Lstat(rootfs.Path(l.root, dir+"/gpuherd.conf")); err == nil {
			l.file(dir + "/gpuherd.conf")
			break
		}
	}
	found, failed := rootfs.Stacked(l.root, ".conf", DropInDirs()...)
	for _, d := range failed {
		l.problem(&unitfile.Problem{File: d.Path, Msg: "cannot be listed: " + d.Err.Error()})
	}
	for _, f := range found {
		l.file(f.Path)
	}
	l.environ(src.Environ)
	l.executor()
	return l.config, l.problems
}

// DropInDirs returns the folders of drop-ins to gpuherd.conf, the winning one
// first.
func DropInDirs() []string {
	var list []string
	for _, dir := range dirs {
		list = append(list, dir+"/gpuherd.conf.d")
	}
	return list
}

type loader struct {
	root     string
	config   *Config
	problems unitfile.Problems
}

func (l *loader) problem(p *unitfile.Problem) {
	l.problems = append(l.problems, p)
}

func (l *loader) file(name string) {
	data, err := rootfs.ReadFile(l.root, name, rootfs.MaxFile)
	if errors.Is(err, rootfs.ErrMasked) {
		return
	}
	if err != nil {
		l.problem(&unitfile.Problem{File: name, Msg: "cannot be read: " + err.Error()})
		return
	}
	l.parse(name, data)
}

func (l *loader) parse(name string, data []byte) {
	f, problems := unitfile.Parse(name, data)
	l.problems = append(l.problems, problems...)
	for _, s := range f.Sections {
		service, isService := strings.CutPrefix(s.Name, "Service ")
		switch {
		case isService:
			l.service(name, strings.TrimSpace(service), s)
		case s.Name == "Environment":
			l.environment(s)
		case slices.Contains(sections(), s.Name):
			for _, e := range s.Entries {
				l.entry(s.Name, e)
			}
		case strings.HasPrefix(s.Name, "X-"):
			// By systemd's custom these belong to other programs.
		default:
			l.problem(&unitfile.Problem{
				File: name, Line: s.Line,
				Msg: fmt.Sprintf("unknown section [%s]", s.Name),
				Fix: suggest(s.Name, append(sections(), "Environment", "Service"), "[", "]"),
			})
		}
	}
}

// sections lists the sections with fixed keys.
func sections() []string {
	var names []string
	for _, s := range settings {
		if !slices.Contains(names, s.Section) {
			names = append(names, s.Section)
		}
	}
	return names
}

// entry takes one assignment of a section with fixed keys. The empty one goes
// back to what is built in.
func (l *loader) entry(section string, e unitfile.Entry) {
	var keys []string
	for i := range settings {
		s := &settings[i]
		if s.Section != section {
			continue
		}
		keys = append(keys, s.Key)
		if s.Key != e.Key {
			continue
		}
		value, origin := e.Value, fmt.Sprintf("%s:%d", e.File, e.Line)
		if value == "" {
			value, origin = s.Default, BuiltIn
		}
		if err := s.set(l.config, value); err != nil {
			l.badValue(e, err, l.stays(s))
			return
		}
		l.config.Origins[s.name()] = origin
		return
	}
	l.unknownKey(section, e, keys)
}

// stays says what is used in a bad value's place.
func (l *loader) stays(s *setting) string {
	origin := l.config.Origins[s.name()]
	if origin != BuiltIn {
		return "the value of " + origin + " is used"
	}
	if s.Default == "" {
		return "the default is used"
	}
	return "the default " + s.Default + " is used"
}

func (l *loader) badValue(e unitfile.Entry, err error, fix string) {
	l.problem(&unitfile.Problem{File: e.File, Line: e.Line, Key: e.Key, Msg: err.Error(), Fix: fix})
}

func (l *loader) unknownKey(section string, e unitfile.Entry, keys []string) {
	l.problem(&unitfile.Problem{
		File: e.File, Line: e.Line, Key: e.Key,
		Msg: fmt.Sprintf("unknown key in [%s]", section),
		Fix: suggest(e.Key, keys, "", "="),
	})
}

// suggest returns "did you mean BEFOREwordAFTER?", or what is known.
func suggest(word string, known []string, before, after string) string {
	if near := unitfile.Nearest(word, known); near != "" {
		return "did you mean " + before + near + after + "?"
	}
	return "known are " + before + strings.Join(known, after+", "+before) + after
}

// executor reports an executor without the URL= that it needs. No program
// could take its place: that would run other jobs than were meant.
func (l *loader) executor() {
	w := l.config.Worker
	if w.Executor == "exec" || w.URL != "" {
		return
	}
	file, line, key := Place(l.config.Origin("Worker.Executor"), "Executor")
	l.problem(&unitfile.Problem{
		File: file, Line: line, Key: key,
		Msg: fmt.Sprintf("the executor %s needs URL=, and no job is run without", w.Executor),
		Fix: "write URL=http://127.0.0.1:818%i/, say: %i is the index of the GPU",
	})
}

// service takes one [Service NAME] section. Whether there is such a service is
// for the caller to see, who knows the service files.
func (l *loader) service(file, name string, s *unitfile.Section) {
	name = strings.TrimSuffix(name, ".service")
	if name == "" || strings.ContainsAny(name, "/@ \t") {
		l.problem(&unitfile.Problem{File: file, Line: s.Line, Msg: "[" + s.Name + "] names no service", Fix: "write [Service NAME] for NAME.service"})
		return
	}
	o, ok := l.config.Services[name]
	if !ok {
		o.File, o.Line = file, s.Line
	}
	for _, e := range s.Entries {
		origin := fmt.Sprintf("%s:%d", e.File, e.Line)
		switch e.Key {
		case "Enabled":
			if e.Value == "" {
				o.Enabled, o.EnabledOrigin = nil, ""
				continue
			}
			b, err := unitfile.ParseBool(e.Value)
			if err != nil {
				l.badValue(e, notBool(e.Value), "the value before it is used")
				continue
			}
			o.Enabled, o.EnabledOrigin = &b, origin
		case "Instances":
			if e.Value == "" {
				o.Instances, o.InstancesOrigin = nil, ""
				continue
			}
			n, err := number(e.Value, 1, MaxInstances)
			if err != nil {
				fix := "the value before it is used"
				if e.Value == "0" {
					fix = "Enabled=no switches a service off"
				}
				l.badValue(e, err, fix)
				continue
			}
			o.Instances, o.InstancesOrigin = &n, origin
		case "Stopped":
			if e.Value == "" {
				o.Stopped, o.StoppedOrigin = nil, ""
				continue
			}
			for word := range strings.FieldsSeq(e.Value) {
				if word != StoppedAll && strings.Trim(word, "0123456789:.") != "" {
					l.badValue(e, fmt.Errorf("%s is no instance", quote(word)), "write the instances, such as 0 1.2, or all")
					continue
				}
				o.Stopped, o.StoppedOrigin = append(o.Stopped, word), origin
			}
		default:
			l.unknownKey(s.Name, e, []string{"Enabled", "Instances", "Stopped"})
		}
	}
	l.config.Services[name] = o
}

// environment takes [Environment]: Pass= is a list of names, everything else a
// variable.
func (l *loader) environment(s *unitfile.Section) {
	c := l.config
	for _, e := range s.Entries {
		if e.Key == "Pass" {
			l.pass(e)
			continue
		}
		if err := variableName(e.Key); err != nil {
			l.badValue(e, err, nameFix)
			continue
		}
		if why := reserved(e.Key); why != "" {
			l.badValue(e, errors.New(why), "take it out")
			continue
		}
		value := e.Value
		if value != "" && (value[0] == '"' || value[0] == '\'') {
			if words, err := unitfile.SplitArgv(value); err == nil && len(words) == 1 {
				value = words[0]
			}
		}
		if strings.ContainsRune(value, 0) {
			l.badValue(e, errors.New("has a NUL character"), "take it out")
			continue
		}
		v := Variable{Name: e.Key, Value: value}
		if i := slices.IndexFunc(c.Environment, func(o Variable) bool { return o.Name == v.Name }); i >= 0 {
			c.Environment[i] = v
		} else {
			c.Environment = append(c.Environment, v)
		}
	}
}

func (l *loader) pass(e unitfile.Entry) {
	c := l.config
	if e.Value == "" {
		c.Pass = nil
		return
	}
	for name := range strings.FieldsSeq(e.Value) {
		if err := variableName(name); err != nil {
			l.badValue(e, err, nameFix)
			continue
		}
		if why := reserved(name); why != "" {
			l.badValue(e, errors.New(why), "take it out")
			continue
		}
		if !slices.Contains(c.Pass, name) {
			c.Pass = append(c.Pass, name)
		}
	}
}

// nameFix is how to name a variable.
const nameFix = "write letters, digits and _, a letter first"

func variableName(s string) error {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return fmt.Errorf("%s is no name for an environment variable", quote(s))
		}
	}
	if s == "" {
		return errors.New("the name of the environment variable is missing")
	}
	return nil
}

// InstanceVariables are what gpuherd sets for each worker on a device: in its
// unit, or in the file of the device where only the driver tells.
var InstanceVariables = []string{
	"GPU_INDEX", "GPU_ID", "GPU_UUID", "GPU_PCI_BUS_ID", "GPU_MODEL", "GPU_MEMORY_GB",
	"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "WORKER_ID",
}

// reserved says why [Environment] may not set or pass the variable.
func reserved(name string) string {
	switch name {
	case "REDIS_URL", "HUB_REDIS_URL":
		return name + " may hold a password, which everyone could read in the unit; gpuherd hands it on as a credential"
	case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "MAINPID", "LISTEN_FDS", "LISTEN_PID":
		return name + " is set by systemd"
	}
	if slices.Contains(InstanceVariables, name) {
		return name + " is set for each worker by gpuherd"
	}
	return ""
}
