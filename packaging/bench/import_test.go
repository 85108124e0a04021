//go:build machine

package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/unitfile"
	"gpuherd/units/run"
)

// What each kind of app says of itself, into the file $OUT.
const (
	sayNode = `const fs=require('fs');const e=process.env;
fs.writeFileSync(e.OUT+'.new',JSON.stringify({args:process.argv.slice(2),node:process.execArgv,cwd:process.cwd(),a:e.A,gpu:e.GPU_ID,secret:e.API_TOKEN}));
fs.renameSync(e.OUT+'.new',e.OUT);if(process.send)process.send('ready');setInterval(()=>{},1000)`
	sayPython = `import json,os,sys,time
e=os.environ
json.dump({"args":sys.argv[1:],"cwd":os.getcwd(),"a":e.get("A"),"gpu":e.get("GPU_ID"),"secret":e.get("API_TOKEN")},open(e["OUT"]+".new","w"))
os.rename(e["OUT"]+".new",e["OUT"])
time.sleep(600)`
	sayShell = `python3 - "$@" <<'END'
import json,os,sys
e=os.environ
json.dump({"args":sys.argv[1:],"cwd":os.getcwd(),"a":e.get("A"),"gpu":e.get("GPU_ID"),"secret":e.get("API_TOKEN")},open(e["OUT"]+".new","w"))
os.rename(e["OUT"]+".new",e["OUT"])
END
exec sleep 600`
)

// TestImportedFromPM2 has a real PM2 run eight kinds of app and save them, and
// holds what they were given against what the imported services give them.
func TestImportedFromPM2(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	modules, err := installPM2(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	work := filepath.Join(dir, "a folder")
	for name, text := range map[string]string{
		"app.js": sayNode, "app.py": sayPython, "app.sh": sayShell, "tool": "#!/bin/bash\n" + sayShell, "a folder/x": "",
	} {
		if err := write(filepath.Join(dir, name), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := func(name string) string { return filepath.Join(dir, "out-"+name) }
	app := func(name string, more map[string]any) map[string]any {
		a := map[string]any{"name": name, "cwd": work, "env": map[string]any{"OUT": out(name), "A": "one two 100% $HOME", "API_TOKEN": "hunter2 $x"}}
		for k, v := range more {
			a[k] = v
		}
		return a
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	gpu := func(n string) map[string]any {
		a := app("worker-gpu"+n, map[string]any{"script": at("app.py"), "interpreter": "python3", "args": []string{"--port", "800" + n}})
		a["env"].(map[string]any)["GPU_ID"] = n
		return a
	}
	apps := []map[string]any{
		app("fork", map[string]any{"script": at("app.js"), "args": []string{"two words", "$HOME", "%i", `"q"`}, "node_args": "--max-old-space-size=99"}),
		app("cluster", map[string]any{"script": at("app.js"), "exec_mode": "cluster", "instances": 1, "args": "x"}),
		app("python", map[string]any{"script": at("app.py"), "interpreter": "python3", "interpreter_args": "-u", "max_memory_restart": "300M"}),
		app("shell", map[string]any{"script": at("app.sh"), "args": []string{"--flag", ";", "x y"}}),
		app("binary", map[string]any{"script": at("tool"), "interpreter": "none", "args": "-v"}),
		app("ready", map[string]any{"script": at("app.js"), "wait_ready": true, "listen_timeout": 20000, "kill_timeout": 5000}),
		gpu("0"), gpu("1"),
	}
	ecosystem, err := json.Marshal(map[string]any{"apps": apps})
	if err != nil {
		t.Fatal(err)
	}
	if err := write(at("ecosystem.json"), string(ecosystem)); err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "pm2-") // short: it holds unix sockets
	if err != nil {
		t.Fatal(err)
	}
	p := &pm2{modules: modules, home: home}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		}
	}
	defer stop()
	for _, args := range [][]string{{"start", at("ecosystem.json")}, {"save"}} {
		if text, err := p.command(ctx, append([]string{"node_modules/pm2/bin/pm2"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("pm2 %s: %v\n%s", args[0], err, text)
		}
	}
	names := []string{"fork", "cluster", "python", "shell", "binary", "ready", "worker-gpu0", "worker-gpu1"}
	before := map[string]map[string]any{}
	for _, name := range names {
		before[name] = said(ctx, t, out(name))
	}
	gpuherd := at("gpuherd")
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", gpuherd, "gpuherd/cmd/gpuherd").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	// PATH and the interpreters are this machine's: it is imported here, and
	// what is written is moved away.
	text, err := exec.CommandContext(ctx, gpuherd, "import-pm2", filepath.Join(home, "dump.pm2"), "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") {
		t.Error("a secret is shown")
	}
	root := at("root")
	for _, link := range []string{"usr", "bin", "lib", "root", "home", "opt", "tmp"} {
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.Symlink("/"+link, filepath.Join(root, link))
	}
	if text, err := exec.CommandContext(ctx, gpuherd, "import-pm2", filepath.Join(home, "dump.pm2"), "--write", "--root", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	stop()

	for _, name := range names {
		service, instance, isGPU := name, "", strings.HasPrefix(name, "worker-gpu")
		if isGPU {
			service, instance = "worker-gpu", name[len(name)-1:]
		}
		if err := os.Remove(out(name)); err != nil {
			t.Fatal(err)
		}
		unit := readUnit(t, root, service)
		runUnit(ctx, t, unit, root, gpuherd, instance, func() {
			if diff := cmp.Diff(before[name], said(ctx, t, out(name))); diff != "" {
				t.Errorf("%s (-PM2 +gpuherd):\n%s", name, diff)
			}
		})
		memory, _ := unit.Last("Service", "MemoryMax")
		if want := map[bool]string{true: "300M", false: "infinity"}[name == "python"]; memory.Value != want {
			t.Errorf("%s: MemoryMax=%s, want %s", name, memory.Value, want)
		}
	}
}

// said waits for what an app says.
func said(ctx context.Context, t *testing.T, file string) map[string]any {
	t.Helper()
	for {
		if text, err := os.ReadFile(file); err == nil {
			var m map[string]any
			if err := json.Unmarshal(text, &m); err != nil {
				t.Fatal(err)
			}
			return m
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not come", file)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func readUnit(t *testing.T, root, service string) *unitfile.File {
	t.Helper()
	file := filepath.Join(root, "etc/gpuherd/services", service+".service")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	unit, problems := unitfile.Parse(file, text)
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	return unit
}

// runUnit runs what the unit says as systemd would, while use looks at it.
func runUnit(ctx context.Context, t *testing.T, unit *unitfile.File, root, gpuherd, instance string, use func()) {
	t.Helper()
	expand := strings.NewReplacer("%%", "%", "%i", instance).Replace
	command, _ := unit.Last("Service", "ExecStart")
	argv, err := unitfile.SplitArgv(expand(command.Value))
	if err != nil {
		t.Fatal(err)
	}
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], "$$", "$")
	}
	if argv[0] == "/usr/bin/gpuherd" {
		argv[0] = gpuherd
	}
	env := []string{"GPU_ID=" + instance}
	if instance == "" {
		env = nil
	}
	for _, e := range unit.Values("Service", "Environment") {
		words, err := unitfile.SplitArgv(expand(e.Value))
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, words...)
	}
	for _, e := range unit.Values("Service", "EnvironmentFile") {
		file := filepath.Join(root, strings.TrimPrefix(expand(e.Value), "-"))
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		more, err := run.ParseEnv(file, text, run.Systemd)
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, more...)
	}
	dir, _ := unit.Last("Service", "WorkingDirectory")
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stderr = expand(dir.Value), slices.Clip(env), os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", unit.Name, err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	use()
}
