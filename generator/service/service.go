package service

import (
	"path"
	"strings"

	"gpuherd/generator/unitfile"
)

// Section is the section of a service file that says on which GPUs it runs.
// systemd ignores it, as it does every name that begins with "X-".
const Section = "X-GPU"

// Dirs are the folders of service files, the winning one first: of two files
// with one name the operator's in /etc holds.
var Dirs = []string{"/etc/gpuherd/services", "/run/gpuherd/services", "/usr/lib/gpuherd/services"}

// What a service runs once for: Per=.
const (
	PerGPU  = "gpu"
	PerMIG  = "mig"
	PerHost = "host"
)

// How near to its GPU's NUMA node a worker has to be: NUMA=.
const (
	NUMAPreferred = "preferred"
	NUMAStrict    = "strict"
	NUMAOff       = "off"
)

// A Service is one service file with its drop-ins.
type Service struct {
	Name    string   `json:"name"`              // "comfyui"
	Path    string   `json:"path"`              // "/etc/gpuherd/services/comfyui.service", inside the root
	DropIns []string `json:"dropins,omitempty"` // in the order in which they apply

	Per              string   `json:"per"`
	Instances        int      `json:"instances"` // on each device, from 1
	Enabled          bool     `json:"enabled"`
	EnabledVariables []string `json:"enabled_variables,omitempty"` // the first that is set decides
	Isolate          bool     `json:"isolate"`
	NUMA             string   `json:"numa"`
	Models           []string `json:"models,omitempty"`     // globs on the GPU's name; none: every GPU
	MinMemory        uint64   `json:"min_memory,omitempty"` // bytes of GPU memory; 0: any

	// At has the assignments of [X-GPU] that count, by key; of a key that
	// makes a list, the last one. A default is not in it.
	At map[string]unitfile.Entry `json:"-"`

	// File is what goes to systemd: the file and its drop-ins merged,
	// without [X-GPU].
	File *unitfile.File `json:"-"`
	// Masked: a link to /dev/null or an empty file stands in its place.
	Masked bool `json:"masked,omitempty"`
	// Broken: the file has a problem that leaves nothing to run. Only Name
	// and Path are set then.
	Broken bool `json:"broken,omitempty"`
}

// Unit returns the name of the unit file: "comfyui@.service", or
// "comfyui.service" for a host service.
func (s *Service) Unit() string {
	if s.Per == PerHost {
		return s.Name + ".service"
	}
	return s.Name + "@.service"
}

// InstanceUnit returns the unit of an instance: "comfyui@0:1.service".
func (s *Service) InstanceUnit(in Instance) string {
	return s.Name + "@" + in.String() + ".service"
}

// Shipped reports whether the file is gpuherd's own and not the operator's.
func (s *Service) Shipped() bool { return ShippedFile(s.Path) }

// ShippedFile reports whether a service file or drop-in is gpuherd's own, or
// that of another package, and not the operator's.
func ShippedFile(path string) bool {
	return strings.HasPrefix(path, Dirs[len(Dirs)-1]+"/")
}

// Oneshot reports whether the service is of Type=oneshot.
func (s *Service) Oneshot() bool {
	e, ok := s.File.Last("Service", "Type")
	return ok && e.Value == "oneshot"
}

// MatchModel reports whether Model= takes a GPU of that name. Globs are
// compared without regard to case.
func (s *Service) MatchModel(name string) bool {
	if len(s.Models) == 0 {
		return true
	}
	for _, glob := range s.Models {
		// A bad pattern was refused when the file was read. A slash, which
		// path.Match's * stops at, stands in no GPU's name.
		if ok, err := path.Match(strings.ToLower(glob), strings.ToLower(name)); ok && err == nil {
			return true
		}
	}
	return false
}
