// Package config reads what the operator wants: gpuherd.conf and its drop-ins,
// the kernel command line and PID 1's environment, in this order, later ones
// winning. A bad value is reported and leaves the value that held before it.
package config

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxInstances bounds Instances=: workers of one service on one device.
const MaxInstances = 256

// StoppedAll stands in Stopped= for every instance, and for the one unit of a
// service that runs once a host.
const StoppedAll = "all"

// A Config is everything that can be configured, with the defaults filled in.
type Config struct {
	GPU     GPU
	Worker  Worker
	Redis   Redis
	Monitor Monitor

	// Services holds the [Service NAME] sections by service name.
	Services map[string]Override
	// Environment is handed to every service, in order of first appearance.
	Environment []Variable
	// Pass names variables of PID 1's environment to hand to every service.
	Pass []string
	// Environ is PID 1's environment over the gpuherd.* parameters of the
	// kernel command line (gpuherd.enable_foo=1 is ENABLE_FOO). Variables
	// with an empty value are left out: they count as not set.
	Environ map[string]string
	// Origins says where a setting comes from, by "Section.Key":
	// "built-in", "/etc/gpuherd/gpuherd.conf:3", "gpuherd.num_gpus on the
	// kernel command line", "NUM_GPUS of PID 1's environment".
	Origins map[string]string

	// parameters has the names in Environ that the kernel command line set.
	parameters map[string]string
}

// GPU is [GPU].
type GPU struct {
	Count    int  // GPUs to use; −1: all
	Simulate bool // make simulated devices where fewer than Count are found
}

// Worker is [Worker].
type Worker struct {
	ID       string   // prefix of WORKER_ID; empty: the host name
	Queue    string   // name of the queue
	Executor string   // what runs a job: one of Executors
	Exec     []string // argv of the executor "exec"
	URL      string   // of the executors "http" and "comfyui"; %i is the GPU's index

	Fitness       []string      // argv of what says whether the GPU works; nil: its device nodes are opened
	DrainMax      time.Duration // for the job to finish when the worker is stopped; 0: what TimeoutStopSec= leaves
	MaxJobs       int           // after which the worker begins anew; 0: none
	RecycleMemory int           // per cent of MemoryMax= above which it does, too; 0: never
}

// URLOf returns URL= for the workers of a GPU.
func (w Worker) URLOf(gpu int) string {
	return strings.ReplaceAll(w.URL, "%i", strconv.Itoa(gpu))
}

// Redis is [Redis].
type Redis struct {
	URL    string // as go-redis reads it; may hold a password: never log it
	Host   string // this host's name in Redis; empty: the host name
	Prefix string // of every key
}

// Monitor is [Monitor].
type Monitor struct {
	Listen        string // host:port; see Loopback
	MachineStatus bool   // also publish in the form of the PM2 machine
}

// An Override is one [Service NAME] section.
type Override struct {
	Enabled   *bool // nil: as the service file says
	Instances *int  // workers on each device; nil: as the service file says
	// Stopped names the instances that do not start with the target, or is
	// "all"; they are there, and can be started.
	Stopped []string

	EnabledOrigin   string // "/etc/gpuherd/gpuherd.conf:12"
	InstancesOrigin string
	StoppedOrigin   string // of the last one
	File            string // where the section stands first
	Line            int
}

// A Variable is one assignment of [Environment].
type Variable struct {
	Name, Value string
}

// HostName returns this host's name in Redis: [Redis] Host=, or the kernel's
// host name.
func (c *Config) HostName() (string, error) {
	if c.Redis.Host != "" {
		return c.Redis.Host, nil
	}
	return os.Hostname()
}

// Origin says where the value of a setting comes from, "built-in" where nobody
// set it. The setting is named "Section.Key".
func (c *Config) Origin(setting string) string {
	if o, ok := c.Origins[setting]; ok {
		return o
	}
	return BuiltIn
}

// FromFile reports whether the value of a setting is built in or out of a file,
// so that every program that reads the configuration has it, as it is now.
// Others may be known to PID 1 alone.
func (c *Config) FromFile(setting string) bool {
	origin := c.Origin(setting)
	return origin == BuiltIn || strings.HasPrefix(origin, "/")
}

// Place takes an origin apart for a Problem: the file and line of a key, or who
// else set it, under which name.
func Place(origin, key string) (file string, line int, name string) {
	if i := strings.LastIndexByte(origin, ':'); i > 0 {
		if n, err := strconv.Atoi(origin[i+1:]); err == nil {
			return origin[:i], n, key
		}
	}
	if name, ok := strings.CutSuffix(origin, " of "+environName); ok {
		return environName, 0, name
	}
	if name, ok := strings.CutSuffix(origin, " on the "+parameterName); ok {
		return parameterName, 0, name
	}
	return origin, 0, key
}

// An Assignment is a variable of Environ and where it was set.
type Assignment struct {
	Name  string // as in Environ
	Value string
	File  string // for a Problem: "PID 1's environment" or "kernel command line"
	Key   string // what it is called there: "gpuherd.enable_foo" or the name
}

// Origin says where it was set, as in Config.Origins.
func (a Assignment) Origin() string {
	if a.File == parameterName {
		return a.Key + " on the " + a.File
	}
	return a.Key + " of " + a.File
}

// Variable returns a variable of Environ; ok is false where it is not set.
func (c *Config) Variable(name string) (a Assignment, ok bool) {
	value, ok := c.Environ[name]
	if !ok {
		return Assignment{}, false
	}
	if p, ok := c.parameters[name]; ok {
		return Assignment{Name: name, Value: value, File: parameterName, Key: p}, true
	}
	return Assignment{Name: name, Value: value, File: environName, Key: name}, true
}

// Parameters returns the variables of Environ that the kernel command line
// set, sorted by name.
func (c *Config) Parameters() []Assignment {
	var list []Assignment
	for _, name := range slices.Sorted(maps.Keys(c.parameters)) {
		if a, ok := c.Variable(name); ok {
			list = append(list, a)
		}
	}
	return list
}

// A Setting describes one key of gpuherd.conf.
type Setting struct {
	Section, Key string
	Default      string   // as it would be written; may be empty
	Variables    []string // environment variables that set it, the first one winning
	Parameter    string   // extra name on the kernel command line, without "gpuherd."
}

// Settings lists every fixed key of gpuherd.conf. Beside them stand the
// sections [Service NAME] (Enabled=, Instances=, Stopped=) and [Environment] (any
// variable, and Pass=).
func Settings() []Setting {
	list := make([]Setting, len(settings))
	for i, s := range settings {
		list[i] = s.Setting
		list[i].Variables = slices.Clone(s.Variables)
	}
	return list
}

// Default returns the built-in configuration.
func Default() *Config {
	c := &Config{
		Services:   map[string]Override{},
		Environ:    map[string]string{},
		Origins:    map[string]string{},
		parameters: map[string]string{},
	}
	for _, s := range settings {
		if err := s.set(c, s.Default); err != nil {
			panic("config: default of " + s.Key + "=: " + err.Error()) // a test sets each
		}
		c.Origins[s.name()] = BuiltIn
	}
	return c
}

// ServiceNames returns the names of the [Service NAME] sections, sorted.
func (c *Config) ServiceNames() []string {
	return slices.Sorted(maps.Keys(c.Services))
}
