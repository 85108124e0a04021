package generator

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"gpuherd/generator/plan"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// Folders of units, as systemd.unit(5) lists them, the winning one first. Ours
// is between the two lists. Other generators' are left out of them: they are
// being filled while this one runs.
var (
	dirsAbove = []string{
		"/etc/systemd/system.control",
		"/run/systemd/system.control",
		"/run/systemd/transient",
		"/etc/systemd/system",
		"/etc/systemd/system.attached",
		"/run/systemd/system",
		"/run/systemd/system.attached",
	}
	dirsBelow = []string{
		"/usr/local/lib/systemd/system",
		"/usr/lib/systemd/system",
		"/lib/systemd/system",
	}
)

// reserved are the names of gpuherd's own static units.
var reserved = []string{"gpuherd", "gpuherd-monitor", "gpuherd-rescan", "gpuherd-setup", "gpuherd-up", "gpuherd-verify"}

// unitFiles are the service units and drop-in folders of a machine that are
// not generated.
type unitFiles struct {
	root    string
	units   map[string]string   // name of a unit → its file
	dropIns map[string][]string // name of a folder of drop-ins → those that are above ours
}

func listUnits(root string) *unitFiles {
	u := &unitFiles{root: root, units: map[string]string{}, dropIns: map[string][]string{}}
	found, _ := rootfs.Stacked(root, ".service", slices.Concat(dirsAbove, dirsBelow)...) // what cannot be listed claims nothing
	for _, f := range found {
		u.units[f.Name] = f.Path
	}
	for _, dir := range dirsAbove {
		found, _ := rootfs.Stacked(root, ".service.d", dir)
		for _, f := range found {
			u.dropIns[f.Name] = append(u.dropIns[f.Name], f.Path)
		}
	}
	return u
}

// claim says what stands in the way of a file of a service: a unit of it, or
// the drop-in of an instance.
func (u *unitFiles) claim(file string, s *service.Service) (plan.Claim, string) {
	if folder, name := path.Split(file); folder != "" {
		return u.hides(strings.TrimSuffix(folder, ".d/"), name)
	}
	if slices.Contains(reserved, s.Name) {
		return plan.Foreign, s.Name + " is the name of a unit of gpuherd itself"
	}
	name, ok := u.units[file]
	if !ok {
		return plan.Free, ""
	}
	if info, err := os.Lstat(rootfs.Path(u.root, name)); err == nil && info.Mode().Type()&^fs.ModeSymlink != 0 {
		return plan.Free, "" // a folder, say: systemd does not look at it
	}
	data, err := rootfs.ReadFile(u.root, name, rootfs.MaxFile)
	switch {
	case errors.Is(err, rootfs.ErrMasked):
		return plan.Masked, name + " masks the unit"
	case errors.Is(err, fs.ErrNotExist):
		// To systemd it is an alias of a unit that there is not.
		return plan.Foreign, name + " is a link to nothing, and takes the unit's name"
	case err == nil && len(data) == 0:
		return plan.Masked, name + " is empty, which masks the unit"
	case err == nil && isOurs(data):
		// `systemctl edit --full` copies the unit, header and all.
		return plan.Replaced, name + " replaces the unit"
	}
	return plan.Foreign, "there is a unit of this name already: " + name
}

// hides says which file hides the drop-in of that name for a unit: of equal
// names the one in the highest folder counts, be it for the unit, for its
// template or for all whose names begin alike up to a dash.
func (u *unitFiles) hides(unit, name string) (plan.Claim, string) {
	if len(u.dropIns) == 0 {
		return plan.Free, ""
	}
	for _, folder := range dropInFolders(unit) {
		for _, dir := range u.dropIns[folder] {
			file := dir + "/" + name
			switch _, err := rootfs.ReadFile(u.root, file, rootfs.MaxFile); {
			case errors.Is(err, rootfs.ErrMasked):
				return plan.Masked, file
			case !errors.Is(err, fs.ErrNotExist):
				return plan.Foreign, file
			}
		}
	}
	return plan.Free, ""
}

// dropInFolders returns the names of the folders whose drop-ins a unit gets,
// those for all services left out: its own, its template's, and those for all
// whose names begin alike up to a dash.
func dropInFolders(unit string) []string {
	prefix, _, instance := strings.Cut(strings.TrimSuffix(unit, ".service"), "@")
	folders := []string{unit + ".d"}
	if template := prefix + "@.service.d"; instance && template != folders[0] {
		folders = append(folders, template)
	}
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] == '-' && i < len(prefix)-1 {
			folders = append(folders, prefix[:i+1]+".service.d")
		}
	}
	return folders
}

// DropIns returns the drop-ins that are not generated and that systemd puts
// behind a unit below root, in the order in which they apply (systemd.unit(5)).
// What cannot be read is left out: systemd does not read it either.
func DropIns(root, unit string) []*unitfile.File {
	var dirs, every []string
	for _, dir := range slices.Concat(dirsAbove, dirsBelow) {
		for _, folder := range dropInFolders(unit) {
			dirs = append(dirs, dir+"/"+folder)
		}
		every = append(every, dir+"/service.d")
	}
	found, _ := rootfs.Stacked(root, ".conf", append(dirs, every...)...)
	var files []*unitfile.File
	for _, f := range found {
		if data, err := rootfs.ReadFile(root, f.Path, rootfs.MaxFile); err == nil {
			file, _ := unitfile.Parse(f.Path, data)
			files = append(files, file)
		}
	}
	return files
}

func isOurs(unit []byte) bool {
	return strings.HasPrefix(string(unit), "# "+plan.Header)
}

// Clashes returns units of the plan that another generator has made too, as
// can be seen only once all generators have run.
func (r *Result) Clashes(root string) unitfile.Problems {
	var problems unitfile.Problems
	for _, f := range r.Plan.Files {
		if strings.Contains(f.Path, "/") {
			continue
		}
		for _, dir := range []string{"/run/systemd/generator.early", "/" + plan.GeneratorDir} {
			name := dir + "/" + f.Path
			if data, err := rootfs.ReadFile(root, name, rootfs.MaxFile); err == nil && !isOurs(data) {
				problems = append(problems, &unitfile.Problem{
					File: f.Unit.Name, Msg: "another generator makes a unit of this name too: " + name, Fix: "rename the file",
				})
			}
		}
	}
	return problems
}
