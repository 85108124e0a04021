package generator

import (
	"path"
	"slices"
	"strings"

	"gpuherd/generator/config"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// misnamed are endings of files that were meant to be read, but are not, beside
// those that are spelled nearly right.
var misnamed = []string{"automount", "cfg", "mount", "path", "slice", "socket", "svc", "target", "timer"}

// looksMeant reports whether a file was meant to be read for its name.
func looksMeant(name string) bool {
	ending := strings.ToLower(strings.TrimPrefix(path.Ext(name), "."))
	if strings.HasSuffix(ending, "~") {
		return false // an editor's copy
	}
	return slices.Contains(misnamed, ending) || unitfile.Nearest(ending, []string{"service", "conf"}) != ""
}

// Strays returns warnings of files and folders below root that stand where
// configuration is read from, under names for which they are not read. Other
// files, such as the copies that editors and packages leave behind, are meant
// to be left out.
func Strays(root string) unitfile.Problems {
	var problems unitfile.Problems
	stray := func(file, msg, fix string) {
		problems = append(problems, &unitfile.Problem{File: file, Msg: msg, Fix: fix, Warning: true})
	}
	dropIns := func(dir string) {
		for _, f := range list(root, dir) {
			if !strings.HasSuffix(f.Name, ".conf") && looksMeant(f.Name) {
				stray(f.Path, "is not read: its name does not end in .conf", "rename it")
			}
		}
	}
	for _, dir := range config.DropInDirs() {
		dropIns(dir)
	}
	var services []string
	for _, f := range list(root, service.Dirs...) {
		if name, ok := strings.CutSuffix(f.Name, ".service"); ok {
			services = append(services, name)
		}
	}
	for _, dir := range service.Dirs {
		for _, f := range list(root, dir) {
			name, isDropIns := strings.CutSuffix(f.Name, ".service.d")
			switch {
			case isDropIns && slices.Contains(services, name):
				dropIns(f.Path)
			case isDropIns:
				fix := "add " + service.Dirs[0] + "/" + name + ".service, or take it away"
				if near := unitfile.Nearest(name, services); near != "" {
					fix = "did you mean " + near + ".service.d?"
				}
				stray(f.Path, "is not read: there is no service "+name, fix)
			case !strings.HasSuffix(f.Name, ".service") && looksMeant(f.Name):
				fix := "rename it"
				if strings.HasSuffix(f.Name, ".conf") {
					fix = "changes to a service go to NAME.service.d/" + f.Name
				}
				stray(f.Path, "is not read: its name does not end in .service", fix)
			}
		}
	}
	return problems
}

// list returns what is in folders, hidden files left out; what cannot be
// listed has been reported.
func list(root string, dirs ...string) []rootfs.Found {
	found, _ := rootfs.Stacked(root, "", dirs...)
	return found
}
