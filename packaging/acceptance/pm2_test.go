//go:build acceptance

package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fromShell is the environment in which PM2 is started, beside PM2_HOME. A dump
// has it, too.
var fromShell = map[string]string{
	"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "FROM_THE_SHELL": "as well; 50%",
}

// pm2 runs the real one.
func (a *apps) pm2(args ...string) {
	a.t.Helper()
	ctx := context.WithoutCancel(a.t.Context()) // also in a cleanup
	cmd := exec.CommandContext(ctx, "node", append([]string{filepath.Join(pm2Dir, "node_modules/pm2/bin/pm2")}, args...)...)
	cmd.Dir, cmd.Env = a.dir, []string{"PM2_HOME=" + a.at("pm2")}
	for name, value := range fromShell {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("pm2 %s: %v\n%s", args[0], err, out)
	}
}

// ecosystem is what PM2 is told to run: eight kinds of app.
func (a *apps) ecosystem() []map[string]any {
	app := func(name string, more map[string]any) map[string]any {
		app := map[string]any{"name": name, "cwd": a.at("a folder"), "env": a.env(name)}
		maps.Copy(app, more)
		return app
	}
	gpu := func(n string) map[string]any {
		app := app("pm-worker-gpu"+n, map[string]any{
			"script": a.at("app.py"), "interpreter": "python3", "args": []string{"--port", "800" + n}, "max_memory_restart": "1G",
		})
		app["env"].(map[string]string)["GPU_ID"] = n
		return app
	}
	several := app("pm-several", map[string]any{"script": a.at("app.py"), "interpreter": "python3", "instances": 2, "increment_var": "PORT"})
	several["env"].(map[string]string)["PORT"] = "3000"
	return []map[string]any{
		app("pm-fork", map[string]any{
			"script": a.at("app.js"), "args": []string{"two words", "$HOME", "%i", `"q"`}, "node_args": "--max-old-space-size=99",
		}),
		app("pm-cluster", map[string]any{"script": a.at("app.js"), "exec_mode": "cluster", "instances": 1, "args": "x"}),
		app("pm-python", map[string]any{
			"script": a.at("app.py"), "interpreter": "python3", "interpreter_args": "-u", "max_memory_restart": "300M",
		}),
		app("pm-shell", map[string]any{"script": a.at("app.sh"), "args": []string{"--flag", ";", "x y"}, "user": "daemon"}),
		app("pm-binary", map[string]any{"script": a.at("tool"), "interpreter": "none", "args": "given -v"}),
		app("pm-ready", map[string]any{"script": a.at("app.js"), "wait_ready": true, "listen_timeout": 20000, "kill_timeout": 5000}),
		several,
		gpu("0"), gpu("1"),
	}
}

// What a real PM2 has run and saved runs as units of the herd, each process
// with what PM2 had given it.
func TestImportedFromPM2(t *testing.T) {
	a := newApps(open(t))
	ecosystem, err := json.Marshal(map[string]any{"apps": a.ecosystem()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.at("ecosystem.json"), ecosystem, 0o600); err != nil {
		t.Fatal(err)
	}
	// The units by what their process had been called by PM2, with its instance.
	units := map[string]string{
		"pm-fork.0": "pm-fork.service", "pm-cluster.0": "pm-cluster.service", "pm-python.0": "pm-python.service",
		"pm-shell.0": "pm-shell.service", "pm-binary.0": "pm-binary.service", "pm-ready.0": "pm-ready.service",
		"pm-several.0": "pm-several-0.service", "pm-several.1": "pm-several-1.service",
		"pm-worker-gpu0.0": "pm-worker-gpu@0.service", "pm-worker-gpu1.0": "pm-worker-gpu@1.service",
	}
	variables := slices.Concat(slices.Collect(maps.Keys(fromShell)),
		[]string{"OUT", "A", "API_TOKEN", "GPU_ID", "PORT", "PYTHONUNBUFFERED"})
	all := func() map[string]given {
		said := map[string]given{}
		for name := range units {
			said[name] = a.said(name, variables...)
		}
		return said
	}

	t.Cleanup(func() { a.pm2("kill") })
	a.pm2("start", a.at("ecosystem.json"))
	before := all()
	a.pm2("save")
	dump := a.at("pm2/dump.pm2")
	a.imported(dump)
	limits := a.savedLimits(dump)
	a.pm2("kill")
	for name := range units {
		if err := os.Remove(a.at("said/" + name)); err != nil {
			t.Fatal(err)
		}
	}

	a.start()
	if diff := cmp.Diff(before, all()); diff != "" {
		t.Errorf("given (-by PM2 +to the unit):\n%s", diff)
	}
	var imported []string
	herd, err := a.systemd.herd()
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range herd {
		if strings.HasPrefix(unit, "pm-") {
			imported = append(imported, unit)
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Values(units)), imported); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
	got := map[string]string{}
	for name, unit := range units {
		got[name] = a.memoryMax(unit)
	}
	if diff := cmp.Diff(limits, got); diff != "" {
		t.Errorf("memory (-max_memory_restart +MemoryMax):\n%s", diff)
	}
	a.keepSecrets("pm-fork", "pm-cluster", "pm-python", "pm-shell", "pm-binary", "pm-ready", "pm-several-0", "pm-several-1", "pm-worker-gpu")
}

// savedLimits reads max_memory_restart of each process in a dump, as MemoryMax=
// is told.
func (a *apps) savedLimits(dump string) map[string]string {
	a.t.Helper()
	data, err := os.ReadFile(dump)
	if err != nil {
		a.t.Fatal(err)
	}
	var saved []struct {
		Name     string `json:"name"`
		Instance int    `json:"NODE_APP_INSTANCE"`
		Limit    uint64 `json:"max_memory_restart"`
	}
	if err := json.Unmarshal(data, &saved); err != nil {
		a.t.Fatal(err)
	}
	limits := map[string]string{}
	for _, app := range saved {
		limit := "infinity"
		if app.Limit > 0 {
			limit = fmt.Sprint(app.Limit)
		}
		limits[fmt.Sprintf("%s.%d", app.Name, app.Instance)] = limit
	}
	return limits
}
