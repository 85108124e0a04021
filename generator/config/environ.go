package config

import (
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// environ takes the kernel command line and, over it, PID 1's environment.
func (l *loader) environ(environ []string) {
	c := l.config
	env := map[string]string{}
	for _, v := range environ {
		name, value, ok := strings.Cut(v, "=")
		// As with getenv(3) the first of two wins; an empty value is what
		// `docker run -e NAME=` leaves, and counts as not set.
		if _, seen := env[name]; ok && !seen && value != "" {
			env[name] = value
		}
	}
	l.commandLine(isContainer(l.root, env))
	l.variables(c.Environ, parameterName, c.parameters)
	l.variables(env, environName, nil)
	for name, value := range env {
		c.Environ[name] = value
		delete(c.parameters, name)
	}
}

// variables applies the settings that env, read from file, holds. names says
// what a variable is called there; nil: by its own name.
func (l *loader) variables(env map[string]string, file string, names map[string]string) {
	for i := range settings {
		s := &settings[i]
		var winner string
		for _, name := range s.Variables {
			value, ok := env[name]
			if !ok {
				continue
			}
			a := Assignment{Name: name, Value: value, File: file, Key: name}
			if names != nil {
				a.Key = names[name]
			}
			if winner != "" {
				if value != env[winner] {
					l.problem(&unitfile.Problem{
						File: file, Key: a.Key, Warning: true,
						Msg: fmt.Sprintf("differs from %s, which is used", winner),
					})
				}
				continue
			}
			set := s.set
			if s.setVariable != nil {
				set = s.setVariable
			}
			if err := set(l.config, value); err != nil {
				l.problem(&unitfile.Problem{File: file, Key: a.Key, Msg: err.Error(), Fix: l.stays(s)})
				continue
			}
			winner = name
			l.config.Origins[s.name()] = a.Origin()
		}
	}
}

// commandLine takes gpuherd.NAME=value of the kernel command line, where "-"
// and "_" are alike. NAME is that of an environment variable in lower case, or
// the extra name of a setting.
func (l *loader) commandLine(container bool) {
	for _, p := range parameters(l.root, container) {
		written, value, _ := strings.Cut(p, "=")
		name, ok := strings.CutPrefix(strings.ReplaceAll(written, "-", "_"), "gpuherd.")
		if !ok {
			continue
		}
		if i := slices.IndexFunc(settings, func(s setting) bool { return s.Parameter != "" && s.Parameter == name }); i >= 0 {
			s := &settings[i]
			if err := s.set(l.config, value); err != nil {
				l.problem(&unitfile.Problem{File: parameterName, Key: written, Msg: err.Error(), Fix: l.stays(s)})
				continue
			}
			l.config.Origins[s.name()] = written + " on the " + parameterName
			continue
		}
		variable := strings.ToUpper(name)
		if known := parameterNames(); !slices.Contains(known, name) && !strings.HasPrefix(name, "enable_") {
			l.problem(&unitfile.Problem{
				File: parameterName, Key: written,
				Msg: "unknown parameter",
				Fix: suggest(name, known, "gpuherd.", "="),
			})
			continue
		}
		if value != "" {
			l.config.Environ[variable] = value
			l.config.parameters[variable] = written
		}
	}
}

// parameterNames lists what is known behind "gpuherd." on the kernel command
// line, beside enable_….
func parameterNames() []string {
	var names []string
	for _, s := range settings {
		for _, v := range s.Variables {
			names = append(names, strings.ToLower(v))
		}
		if s.Parameter != "" {
			names = append(names, s.Parameter)
		}
	}
	return names
}

// parameters returns the words of the kernel command line. In a container
// /proc/cmdline is the host's, and PID 1's arguments stand for it, as systemd
// has it (proc_cmdline in proc-cmdline.c).
func parameters(root string, container bool) []string {
	if container {
		data, err := rootfs.ReadFile(root, "/proc/1/cmdline", rootfs.MaxFile)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	}
	data, err := rootfs.ReadFile(root, "/proc/cmdline", rootfs.MaxFile)
	if err != nil {
		return nil
	}
	return splitParameters(strings.TrimSpace(string(data)))
}

// splitParameters splits at white space outside double quotes, which it
// removes, as the kernel does (next_arg in lib/cmdline.c).
func splitParameters(line string) []string {
	var (
		words  []string
		word   strings.Builder
		quoted bool
	)
	flush := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, r := range line {
		switch {
		case r == '"':
			quoted = !quoted
		case !quoted && strings.ContainsRune(" \t\n", r):
			flush()
		default:
			word.WriteRune(r)
		}
	}
	flush()
	return words
}

// IsContainer reports whether the machine below root is a container, as systemd
// finds it (detect_container in virt.c): it hands its finding to generators, and
// leaves /run/systemd/container for those who ask later, but only where PID 1's
// environment has container=. Docker sets none, and is known by its file.
func IsContainer(root string, environ []string) bool {
	env := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return isContainer(root, env)
}

func isContainer(root string, env map[string]string) bool {
	if v, ok := env["SYSTEMD_VIRTUALIZATION"]; ok && strings.HasPrefix(v, "container:") {
		return true
	}
	if env["container"] != "" {
		return true
	}
	return slices.ContainsFunc(containerFiles, func(name string) bool {
		_, err := rootfs.ReadFile(root, name, 4096)
		return err == nil
	})
}

// containerFiles are where systemd, systemd's CONTAINER_INTERFACE, podman and
// Docker say that this is a container.
var containerFiles = []string{"/run/systemd/container", "/run/host/container-manager", "/run/.containerenv", "/.dockerenv"}
