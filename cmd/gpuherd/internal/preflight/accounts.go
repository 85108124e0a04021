package preflight

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// users reports users and groups of a unit that there are not.
func (c *checker) users(f *unitfile.File) {
	if e, ok := f.Last("Service", "DynamicUser"); ok {
		if dynamic, err := unitfile.ParseBool(e.Value); dynamic || err != nil {
			return
		}
	}
	if e, ok := f.Last("Service", "User"); ok {
		c.account(e, "passwd", e.Value)
	}
	if e, ok := f.Last("Service", "Group"); ok {
		c.account(e, "group", e.Value)
	}
	for _, e := range f.Values("Service", "SupplementaryGroups") {
		for name := range strings.FieldsSeq(e.Value) {
			c.account(e, "group", name)
		}
	}
}

// account reports a name that is not in a database of accounts, "passwd" or
// "group".
func (c *checker) account(e unitfile.Entry, database, name string) {
	if name == "" || strings.Contains(name, "%") || !c.accounts.missing(database, name) {
		return
	}
	what, maker, status := "user", "useradd --system", "217/USER"
	if database == "group" {
		what, maker, status = "group", "groupadd --system", "216/GROUP"
	}
	fix := maker + " " + name + " makes it;"
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		fix = "write the name or number of one;"
	} else if near := unitfile.Nearest(name, c.accounts.names(database)); near != "" {
		fix = "did you mean " + near + "?"
	}
	c.warn(e, fix+" until then it fails with "+status, "there is no %s %q", what, name)
}

// accounts are the users and groups of the system below root.
type accounts struct {
	root    string
	unknown func(database, name string) bool // asks the C library of this host
	missed  map[string]bool                  // what missing answered
}

func newAccounts(root string, unknown func(database, name string) bool) *accounts {
	return &accounts{root: root, unknown: unknown, missed: map[string]bool{}}
}

// missing reports whether a user or group is certainly not there, and is not
// made at the next boot either.
func (a *accounts) missing(database, name string) bool {
	key := database + " " + name
	if _, asked := a.missed[key]; !asked {
		a.missed[key] = a.look(database, name)
	}
	return a.missed[key]
}

func (a *accounts) look(database, name string) bool {
	names := a.names(database)
	switch {
	case len(names) == 0, slices.Contains(names, name), slices.Contains(a.made(database), name):
		return false
	case a.root == "/":
		return a.unknown(database, name)
	}
	return a.filesOnly(database)
}

// notFound is getent's exit status for a key that is in no database (getent(1)).
const notFound = 2

// unknown reports whether no source of the C library, directory servers among
// them, has a name. Without getent nothing is known.
func unknown(ctx context.Context, database, name string) bool {
	err := exec.CommandContext(ctx, "getent", "--", database, name).Run()
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == notFound
}

// names returns the names and numbers in /etc/passwd or /etc/group, and the two
// names that systemd knows without.
func (a *accounts) names(database string) []string {
	data, err := rootfs.ReadFile(a.root, "/etc/"+database, rootfs.MaxFile)
	if err != nil {
		return nil
	}
	names := []string{"root", "nobody"}
	for line := range strings.Lines(string(data)) {
		if fields := strings.SplitN(line, ":", 4); len(fields) == 4 { // name:password:number:…
			names = append(names, fields[0], fields[2])
		}
	}
	return names
}

// made returns the names and numbers that systemd-sysusers makes
// (sysusers.d(5)).
func (a *accounts) made(database string) []string {
	var names []string
	found, _ := rootfs.Stacked(a.root, ".conf", "/etc/sysusers.d", "/run/sysusers.d", "/usr/local/lib/sysusers.d", "/usr/lib/sysusers.d")
	for _, f := range found {
		data, err := rootfs.ReadFile(a.root, f.Path, rootfs.MaxFile)
		if err != nil {
			continue // masked, or not to be read by anybody
		}
		for line := range strings.Lines(string(data)) {
			words := append(strings.Fields(line), "-", "-", "-")
			switch kind, group := words[0][:1], database == "group"; {
			case kind == "u", kind == "g" && group:
				names = append(names, words[1], words[2])
			case kind == "m" && group: // a user, and the group that it is put into
				names = append(names, words[2])
			case kind == "m":
				names = append(names, words[1])
			}
		}
	}
	return names
}

// filesOnly reports whether the system below root keeps its accounts in files
// alone that are there to be read (nsswitch.conf(5)).
func (a *accounts) filesOnly(database string) bool {
	data, err := rootfs.ReadFile(a.root, "/etc/nsswitch.conf", rootfs.MaxFile)
	if err != nil {
		return true // the default of the C library
	}
	for line := range strings.Lines(string(data)) {
		sources, ok := strings.CutPrefix(strings.TrimSpace(line), database+":")
		if !ok {
			continue
		}
		for source := range strings.FieldsSeq(sources) {
			if !slices.Contains([]string{"files", "compat", "systemd"}, source) {
				return false
			}
		}
	}
	return true
}
