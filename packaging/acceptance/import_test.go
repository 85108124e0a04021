//go:build acceptance

package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pm2Apps are apps as PM2 saves them, of the kinds that need no interpreter but
// a shell. What a real PM2 saves of Node's and Python's, `make test-pm2` tests.
func pm2Apps(dir string) []map[string]any {
	cwd := filepath.Join(dir, "a folder")
	app := func(name string, more map[string]any) map[string]any {
		a := map[string]any{
			"name": name, "pm_cwd": cwd, "exec_mode": "fork_mode", "exec_interpreter": "bash", "pm_exec_path": filepath.Join(dir, "app.sh"),
			"autorestart": true, "username": "root", "status": "online", "NODE_APP_INSTANCE": 0,
			"env": map[string]any{"A": "one two 100% $HOME", "API_TOKEN": "hunter2 $x", "PATH": "/usr/bin:/bin"},
		}
		for k, v := range more {
			a[k] = v
		}
		return a
	}
	gpu := func(n string) map[string]any {
		a := app("pm-worker-gpu"+n, map[string]any{"args": []string{"--port", "800" + n}})
		a["env"].(map[string]any)["GPU_ID"] = n
		return a
	}
	return []map[string]any{
		app("pm-shell", map[string]any{"args": []string{"--flag", ";", "x y", "$HOME", "%i", `"q"`}}),
		app("pm-binary", map[string]any{"pm_exec_path": filepath.Join(dir, "tool"), "exec_interpreter": "none", "args": []string{"-v"}, "kill_timeout": 5000}),
		app("pm-limited", map[string]any{"max_memory_restart": 300 << 20, "exp_backoff_restart_delay": 100}),
		gpu("0"), gpu("1"),
	}
}

// What was PM2's runs as units of the herd with the same arguments, environment,
// directory and limit.
func TestImported(t *testing.T) {
	h := open(t)
	dir, err := os.MkdirTemp("/var/lib", "acceptance-pm2-")
	if err != nil {
		t.Fatal(err)
	}
	// Each app writes what it was given into a file by its name and port.
	const script = `#!/bin/bash
{ for a in "$@"; do printf 'arg %s\n' "$a"; done; printf 'cwd %s\nA %s\nTOKEN %s\nGPU %s\n' "$PWD" "$A" "$API_TOKEN" "$GPU_ID"; } >"$OUT_DIR/$$.new"
mv "$OUT_DIR/$$.new" "$OUT_DIR/$$"
exec sleep infinity
`
	script1 := strings.ReplaceAll(script, "$OUT_DIR", dir)
	for name, mode := range map[string]os.FileMode{"app.sh": 0o644, "tool": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script1), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	dump, err := json.Marshal(pm2Apps(dir))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "dump.pm2")
	if err := os.WriteFile(file, dump, 0o600); err != nil {
		t.Fatal(err)
	}
	services := []string{"pm-shell", "pm-binary", "pm-limited", "pm-worker-gpu"}
	t.Cleanup(func() {
		for _, service := range services {
			h.gpuherd(0, "stop", service)
			for _, path := range []string{filepath.Join(servicesDir, service+".service"), "/etc/gpuherd/environment/" + service + ".env"} {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		h.reload()
	})

	if said := h.gpuherd(0, "import-pm2", file); strings.Contains(said, "hunter2") {
		t.Errorf("a secret is shown:\n%s", said)
	}
	h.gpuherd(0, "import-pm2", file, "--write")
	h.gpuherd(0, "verify")
	h.reload()
	h.start(target)

	said := func(unit string) string {
		t.Helper()
		var text []byte
		eventually(t, unit+" says what it was given", func() error {
			u, err := h.unit(unit)
			if err == nil {
				text, err = os.ReadFile(filepath.Join(dir, fmt.Sprint(u.PID)))
			}
			return err
		})
		return string(text)
	}
	given := func(gpu string, args ...string) string {
		var b strings.Builder
		for _, a := range args {
			fmt.Fprintf(&b, "arg %s\n", a)
		}
		fmt.Fprintf(&b, "cwd %s/a folder\nA one two 100%% $HOME\nTOKEN hunter2 $x\nGPU %s\n", dir, gpu)
		return b.String()
	}
	want := map[string]string{
		"pm-shell.service":   given("", "--flag", ";", "x y", "$HOME", "%i", `"q"`),
		"pm-binary.service":  given("", "-v"),
		"pm-limited.service": given(""),
	}
	workers := 0
	for _, gpu := range []string{"0", "1"} {
		want["pm-worker-gpu@"+gpu+".service"] = given(gpu, "--port", "800"+gpu)
		workers++
	}
	got := map[string]string{}
	for unit := range want {
		got[unit] = said(unit)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("given to the units (-want +got):\n%s", diff)
	}
	stdout, _, _ := run(t, "systemctl", "show", "--property=MemoryMax", "--value", "pm-limited.service")
	if got, want := strings.TrimSpace(stdout), fmt.Sprint(300<<20); got != want {
		t.Errorf("MemoryMax is %s, want %s", got, want)
	}
	// The secret is in no unit.
	if stdout, _, _ := run(t, "systemctl", "cat", "pm-*.service"); strings.Contains(stdout, "hunter2") {
		t.Errorf("a unit has the secret:\n%s", stdout)
	}
}
