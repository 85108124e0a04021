// Package preflight looks for what systemd would notice only when it starts a
// service: a program that cannot be executed, a user or group that there is
// not. It reads files below a root, and of this host it asks getent(1).
package preflight

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"gpuherd/generator"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// within is how long all questions to getent may take: a directory server that
// does not answer must not hold up what is known.
const within = 2 * time.Second

// Problems returns warnings of what would keep the planned units from being
// started: a program may well be meant to come later, on a share that is not
// mounted yet. It says nothing of what cannot be known before, such as a path
// with a specifier, and a path that systemd does not take is more than a
// warning.
func Problems(root string, r *generator.Result) unitfile.Problems {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c := checker{root: root, system: isSystem(root), accounts: newAccounts(root, func(database, name string) bool {
		return unknown(ctx, database, name)
	})}
	for _, f := range r.Plan.Files {
		if !strings.Contains(f.Path, "/") { // the drop-ins of instances say nothing of this
			c.unit(unitfile.Merge(f.Unit, generator.DropIns(root, f.Path)...))
		}
	}
	return c.problems
}

type checker struct {
	root     string
	system   bool // there is more than configuration below root
	accounts *accounts
	problems unitfile.Problems
}

func (c *checker) warn(e unitfile.Entry, fix, format string, args ...any) {
	c.problems = append(c.problems, &unitfile.Problem{
		File: e.File, Line: e.Line, Key: e.Key, Msg: fmt.Sprintf(format, args...), Fix: fix, Warning: true,
	})
}

// commands are the keys of [Service] that hold command lines.
var commands = []string{"ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"}

// Keys by which a service sees other files than the host has: of the first,
// users are of another system, too.
var (
	otherRoots  = []string{"RootDirectory", "RootImage", "RootMStack"}
	otherMounts = []string{"BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "MountImages", "ExtensionImages", "ExtensionDirectories"}
)

// unit looks at one unit, its drop-ins merged.
func (c *checker) unit(f *unitfile.File) {
	set := func(key string) bool {
		e, ok := f.Last("Service", key)
		return ok && e.Value != ""
	}
	if slices.ContainsFunc(otherRoots, set) {
		return
	}
	c.users(f)
	if slices.ContainsFunc(otherMounts, set) {
		return
	}
	for _, key := range commands {
		for _, e := range f.Values("Service", key) {
			argvs, err := unitfile.SplitCommands(e.Value)
			if err != nil {
				continue // the service is broken, and that has been said
			}
			for _, argv := range argvs {
				c.command(f, e, argv)
			}
		}
	}
}

// command looks at the program of one command line.
func (c *checker) command(f *unitfile.File, e unitfile.Entry, argv []string) {
	name := strings.TrimLeft(argv[0], "@-:+!|")
	prefixes := argv[0][:len(argv[0])-len(name)]
	if strings.ContainsAny(prefixes, "-|") {
		return // it may be missing; or a shell is started
	}
	program, ok := literal(name)
	if !ok {
		return
	}
	const status = "until then it fails with 203/EXEC"
	switch {
	case path.IsAbs(program):
		c.program(f, e, program, status)
	case strings.Contains(program, "/"):
		c.problems = append(c.problems, &unitfile.Problem{
			File: e.File, Line: e.Line, Key: e.Key, Msg: fmt.Sprintf("%q is no absolute path", program), Fix: "write all of it; systemd refuses the unit",
		})
	case program != "":
		c.search(f, e, program, status)
	}
	if path.Base(program) == "gpuherd" && len(argv) > 2 && argv[1] == "run" && !strings.Contains(prefixes, "@") {
		if i := slices.Index(argv, "--"); i > 0 && i+1 < len(argv) {
			if program, ok := literal(argv[i+1]); ok && path.IsAbs(program) {
				c.program(f, e, program, "until then gpuherd run fails with 126 or 127")
			}
		}
	}
}

// literal returns a word as systemd hands it on; ok is false where that is
// known only at the start.
func literal(word string) (text string, ok bool) {
	text = strings.ReplaceAll(word, "%%", "\x00")
	if strings.ContainsAny(text, "%$") {
		return "", false
	}
	return strings.ReplaceAll(text, "\x00", "%"), true
}

// program reports one that cannot be executed, unless a condition of the unit
// asks for it: then the operator knows. What cannot be looked at, for lack of
// rights, is not told.
func (c *checker) program(f *unitfile.File, e unitfile.Entry, program, status string) {
	for _, condition := range f.Entries("Unit") {
		if strings.HasPrefix(condition.Key, "Condition") && strings.TrimLeft(condition.Value, "|!") == program {
			return
		}
	}
	if why, mend, err := NotExecutable(c.root, program); err == nil && why != "" && c.system {
		c.warn(e, mend+"; "+status, "%s %s", program, why)
	}
}

// searched is where systemd looks for a program without a path
// (systemd-path search-binaries-default).
var searched = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// search reports a program that systemd would not find by its name.
func (c *checker) search(f *unitfile.File, e unitfile.Entry, name, status string) {
	if _, ok := f.Last("Service", "ExecSearchPath"); ok || !c.system {
		return
	}
	for _, dir := range searched {
		if why, _, _ := NotExecutable(c.root, dir+"/"+name); why == "" {
			return
		}
	}
	c.warn(e, "install it, or write its whole path; "+status, "%s is in none of the folders %s", name, strings.Join(searched, ":"))
}

// isSystem reports whether there is an operating system below root, as systemd
// tells it (os-release(5)), and not the configuration of one alone.
func isSystem(root string) bool {
	if root == "/" {
		return true
	}
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if _, err := rootfs.ReadFile(root, name, rootfs.MaxFile); err == nil {
			return true
		}
	}
	return false
}
