// Package pm2 turns what PM2 runs into service files. It reads PM2's dump, the
// answer of pm2 jlist and ecosystem files, and does no I/O: what it has to know
// of the machine it asks System for.
package pm2

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A System answers what the import has to know of the machine.
type System struct {
	LookPath func(program, path string) string // finds a program in PATH; "": it is not there
	Exists   func(path string) bool
	IsBinary func(path string) bool             // a program that needs no interpreter
	Taken    func(service string) string        // whose name it is already: a unit, a service of gpuherd; "": free
	Secret   func(name, value string) bool      // the variable must not be in a unit file
	SecretIn func(argument string) (bool, bool) // the argument holds a secret; it names one, which the next one holds
	CPUs     int                                // for instances: max
	User     string                             // for apps that name none; "": root
}

// A File is one that the import makes.
type File struct {
	Path   string `json:"path"`
	Mode   uint32 `json:"mode"` // permissions
	Text   string `json:"-"`
	Public string `json:"text"` // Text without its secrets
}

// A Note says what became of an option that has no equal, or not quite.
type Note struct {
	App    string `json:"app"`
	Option string `json:"option"`
	Text   string `json:"text"`
}

// A Result is what an import comes to.
type Result struct {
	Files []File `json:"files"`
	Notes []Note `json:"notes"`
	// Services are their names, and Timers the units to enable.
	Services []string `json:"services"`
	Timers   []string `json:"timers"`
}

// Folders of what is written.
const (
	ServiceDir     = "/etc/gpuherd/services"
	EnvironmentDir = "/etc/gpuherd/environment"
	UnitDir        = "/etc/systemd/system"
)

// Import makes the files for apps, which Parse returned. env is the name of the
// env_NAME sections to apply to those of an ecosystem file.
func Import(apps []Raw, env string, system System) (*Result, error) {
	r := &result{Result: Result{Files: []File{}, Notes: []Note{}, Services: []string{}, Timers: []string{}}, system: system, names: map[string]bool{}}
	var read []*app
	for i, raw := range apps {
		a, err := r.read(raw, env)
		if err != nil {
			return nil, fmt.Errorf("app %d: %w", i, err)
		}
		read = append(read, a)
	}
	if env != "" && !r.section {
		return nil, fmt.Errorf("no app has env_%s, or it is a dump, which has it applied already", env)
	}
	for _, g := range r.groups(read) {
		if err := r.service(g); err != nil {
			return nil, fmt.Errorf("app %s: %w", g.apps[0].name, err)
		}
	}
	slices.SortFunc(r.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	first := map[string]int{}
	for i, n := range r.Notes {
		if _, ok := first[n.App]; !ok {
			first[n.App] = i
		}
	}
	slices.SortStableFunc(r.Notes, func(a, b Note) int { return cmp.Compare(first[a.App], first[b.App]) })
	return &r.Result, nil
}

// A result is one in the making.
type result struct {
	Result
	system  System
	names   map[string]bool // of services made here
	section bool            // an app had the env_NAME asked for
}

func (r *result) note(app, option, format string, args ...any) {
	n := Note{app, option, fmt.Sprintf(format, args...)}
	if !slices.Contains(r.Notes, n) {
		r.Notes = append(r.Notes, n)
	}
}
