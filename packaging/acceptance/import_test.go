//go:build acceptance

package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A given is what a process was given, as it says itself.
type given struct {
	Options []string          `json:"options"` // of its interpreter
	Args    []string          `json:"args"`
	Dir     string            `json:"dir"`
	UID     int               `json:"uid"`
	GID     int               `json:"gid"`
	Env     map[string]string `json:"env"`
}

// What a program in Node and one in Python say into the file of $OUT and the
// number of the instance, and go on. Others leave that to runGiven.
const (
	sayNode = `const fs = require('fs'), e = process.env, out = e.OUT + '.' + (e.NODE_APP_INSTANCE || 0);
fs.writeFileSync(out + '.new', JSON.stringify({
  options: process.execArgv, args: process.argv.slice(2), dir: process.cwd(),
  uid: process.getuid(), gid: process.getgid(), env: e}));
fs.renameSync(out + '.new', out);
if (process.send) process.send('ready');
setInterval(() => {}, 1000);
`
	sayPython = `import json, os, sys, time
e = os.environ
out = e["OUT"] + "." + e.get("NODE_APP_INSTANCE", "0")
with open(out + ".new", "w") as f:
    options = sys.orig_argv[1:-len(sys.argv)]
    json.dump({"options": options, "args": sys.argv[1:], "dir": os.getcwd(),
               "uid": os.getuid(), "gid": os.getgid(), "env": dict(e)}, f)
os.rename(out + ".new", out)
time.sleep(86400)
`
	sayShell = "#!/bin/bash\nexec %s given \"$@\"\n"
)

// runGiven is a program that says what it was given, and goes on.
func runGiven(args []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	g := given{Options: []string{}, Args: args, Dir: dir, UID: os.Getuid(), GID: os.Getgid(), Env: map[string]string{}}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		g.Env[name] = value
	}
	data, err := json.Marshal(g)
	if err != nil {
		return err
	}
	instance := g.Env["NODE_APP_INSTANCE"]
	if instance == "" {
		instance = "0"
	}
	out := g.Env["OUT"] + "." + instance
	if err := os.WriteFile(out+".new", data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(out+".new", out); err != nil {
		return err
	}
	return syscall.Exec("/bin/sleep", []string{"sleep", "infinity"}, os.Environ())
}

// secret is a part of what no unit file and no answer may show.
const secret = "hunter2"

// Apps are PM2's at first and then the herd's: a folder with their programs and
// with what these say.
type apps struct {
	*herd
	dir string
}

// newApps makes the folder. In the end whatever was imported as pm-… is taken
// back.
func newApps(h *herd) *apps {
	h.t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "acceptance-pm2-")
	if err != nil {
		h.t.Fatal(err)
	}
	a := &apps{h, dir}
	h.t.Cleanup(func() {
		if err := a.remove(); err != nil {
			h.t.Error(err)
		}
	})
	program, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	for name, text := range map[string]string{"app.js": sayNode, "app.py": sayPython, "app.sh": fmt.Sprintf(sayShell, program)} {
		if err := os.WriteFile(a.at(name), []byte(text), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"": 0o755, "a folder": 0o755, "said": 0o777} { // not all run as root
		if err := os.MkdirAll(a.at(name), 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Chmod(a.at(name), mode); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.Symlink(program, a.at("tool")); err != nil {
		h.t.Fatal(err)
	}
	return a
}

func (a *apps) at(name string) string { return filepath.Join(a.dir, name) }

// env is the environment of an app.
func (a *apps) env(name string) map[string]string {
	return map[string]string{"OUT": a.at("said/" + name), "A": "one two 100% $HOME", "API_TOKEN": secret + ` $x "y"`}
}

// imported takes the apps of a dump over, up to the start of their units.
func (a *apps) imported(dump string) {
	a.t.Helper()
	for _, args := range [][]string{{"import-pm2", dump}, {"import-pm2", dump, "--json"}, {"import-pm2", dump, "--write"}} {
		if said := a.gpuherd(0, args...); strings.Contains(said, secret) {
			a.t.Errorf("gpuherd %s shows a secret:\n%s", strings.Join(args, " "), said)
		}
	}
	a.gpuherd(0, "verify")
}

// start starts what was imported.
func (a *apps) start() {
	a.t.Helper()
	a.reload()
	a.systemd.start(target)
	a.healthy()
}

// said waits for what a process says, with those of its variables that are
// asked for, as each supervisor has some of its own.
func (a *apps) said(name string, variables ...string) given {
	a.t.Helper()
	var text []byte
	eventually(a.t, name+" says what it was given", func() (err error) {
		text, err = os.ReadFile(a.at("said/" + name))
		return err
	})
	var g given
	if err := json.Unmarshal(text, &g); err != nil {
		a.t.Fatalf("%s says %q: %v", name, text, err)
	}
	maps.DeleteFunc(g.Env, func(variable, _ string) bool { return !slices.Contains(variables, variable) })
	return g
}

// secretFiles lists the files below systemd's and our folders that hold the secret.
func (a *apps) secretFiles() []string {
	a.t.Helper()
	var found []string
	for _, dir := range []string{"/etc", "/usr/lib/gpuherd", "/usr/lib/systemd", "/run/systemd", "/run/gpuherd"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone meanwhile
			}
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if strings.Contains(string(text), secret) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			a.t.Fatal(err)
		}
	}
	return found
}

// environmentDir is where imported secrets lie.
const environmentDir = "/etc/gpuherd/environment"

// keepSecrets holds that the secret is in these environment files alone, which
// root alone may read.
func (a *apps) keepSecrets(names ...string) {
	a.t.Helper()
	var want []string
	for _, name := range names {
		path := filepath.Join(environmentDir, name+".env")
		want = append(want, path)
		for path, mode := range map[string]fs.FileMode{path: 0o600, environmentDir: fs.ModeDir | 0o700} {
			if info, err := os.Stat(path); err != nil {
				a.t.Error(err)
			} else if info.Mode() != mode {
				a.t.Errorf("%s is %v, want %v", path, info.Mode(), mode)
			}
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, a.secretFiles()); diff != "" {
		a.t.Errorf("files with the secret (-want +got):\n%s", diff)
	}
}

// memoryMax is a unit's limit, in bytes, or "infinity".
func (a *apps) memoryMax(unit string) string {
	a.t.Helper()
	stdout, stderr, status := run(a.t, "systemctl", "show", "--property=MemoryMax", "--value", unit)
	if status != 0 {
		a.t.Fatalf("systemctl show %s: %s", unit, stderr)
	}
	return strings.TrimSpace(stdout)
}

// remove takes back what was imported.
func (a *apps) remove() error {
	services, err := filepath.Glob(filepath.Join(servicesDir, "pm-*.service"))
	if err != nil {
		return err
	}
	environments, err := filepath.Glob(filepath.Join(environmentDir, "pm-*.env"))
	if err != nil {
		return err
	}
	for _, path := range services {
		a.gpuherd(0, "stop", strings.TrimSuffix(filepath.Base(path), ".service"))
	}
	var errs []error
	for _, path := range append(services, environments...) {
		errs = append(errs, os.Remove(path))
	}
	errs = append(errs, os.RemoveAll(a.dir))
	a.reload()
	return errors.Join(errs...)
}

// What was PM2's runs as units of the herd with the same arguments, environment,
// directory and limit. The dump is made by hand, of the kinds that need no
// interpreter but a shell; TestImportedFromPM2 has the rest, and wants npm.
func TestImported(t *testing.T) {
	a := newApps(open(t))
	app := func(name string, more map[string]any) map[string]any {
		env := a.env(name)
		env["PATH"] = "/usr/bin:/bin"
		app := map[string]any{
			"name": name, "pm_cwd": a.at("a folder"), "exec_mode": "fork_mode", "exec_interpreter": "bash", "pm_exec_path": a.at("app.sh"),
			"autorestart": true, "username": "root", "status": "online", "NODE_APP_INSTANCE": 0, "env": env,
		}
		maps.Copy(app, more)
		return app
	}
	gpu := func(name, n, port string) map[string]any {
		app := app(name+n, map[string]any{"args": []string{"--port", port}})
		app["env"].(map[string]string)["GPU_ID"] = n
		return app
	}
	dumped := []map[string]any{
		app("pm-shell", map[string]any{"args": []string{"--flag", ";", "x y", "$HOME", "%i", `"q"`}}),
		app("pm-binary", map[string]any{"pm_exec_path": a.at("tool"), "exec_interpreter": "none", "args": []string{"given", "-v"}, "kill_timeout": 5000}),
		app("pm-limited", map[string]any{"max_memory_restart": 300 << 20, "exp_backoff_restart_delay": 100}),
		gpu("pm-worker-gpu", "0", "8000"), gpu("pm-worker-gpu", "1", "8001"),
	}
	arguments := map[string][]string{
		"pm-shell": {"--flag", ";", "x y", "$HOME", "%i", `"q"`}, "pm-binary": {"-v"}, "pm-limited": {},
		"pm-worker-gpu0": {"--port", "8000"}, "pm-worker-gpu1": {"--port", "8001"},
	}
	// A port that %i cannot give, on each GPU of the machine.
	for n := range 8 {
		index, port := strconv.Itoa(n), strconv.Itoa(8188+n)
		dumped = append(dumped, gpu("pm-comfyui-gpu", index, port))
		arguments["pm-comfyui-gpu"+index] = []string{"--port", port}
	}
	dump, err := json.Marshal(dumped)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.at("dump.pm2"), dump, 0o600); err != nil {
		t.Fatal(err)
	}
	a.imported(a.at("dump.pm2"))
	a.start()

	want, got := map[string]given{}, map[string]given{}
	for name, args := range arguments {
		env := a.env(name)
		if _, n, isGPU := strings.Cut(name, "-gpu"); isGPU {
			env["GPU_ID"] = n
		}
		want[name] = given{Options: []string{}, Args: args, Dir: a.at("a folder"), Env: env}
		got[name] = a.said(name+".0", "OUT", "A", "API_TOKEN", "GPU_ID")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("given to the units (-want +got):\n%s", diff)
	}
	if got, want := a.memoryMax("pm-limited.service"), fmt.Sprint(300<<20); got != want {
		t.Errorf("MemoryMax is %s, want %s", got, want)
	}
	a.keepSecrets("pm-shell", "pm-binary", "pm-limited", "pm-worker-gpu", "pm-comfyui-gpu")
}
