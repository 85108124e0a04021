package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"gpuherd/cmd/gpuherd/internal/systemdtest"
)

// herdOfScripts are the units that testdata/bus/*.txtar work on. Times are
// left out, so that nothing in the output changes.
func herdOfScripts() []systemdtest.Unit {
	unit := func(name string, props map[string]any) systemdtest.Unit {
		all := map[string]any{
			"Id": name, "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success",
			"Description": "worker", "MainPID": uint32(0), "NRestarts": uint32(0), "StatusText": "",
			"MemoryMax": uint64(2 << 30), "MemoryCurrent": uint64(300 << 20), "ExecMainStatus": int32(0),
		}
		for k, v := range props {
			all[k] = v
		}
		return systemdtest.Unit{Name: name, Props: all}
	}
	failing := unit("comfyui@1.service", map[string]any{
		"ActiveState": "failed", "SubState": "failed", "Result": "exit-code",
		"ExecMainCode": int32(1), "ExecMainStatus": int32(203), "NRestarts": uint32(4),
	})
	failing.Job = "failed"
	never := unit("slow.service", map[string]any{"ActiveState": "activating", "SubState": "start"})
	never.Job = "never"
	denied := unit("guarded.service", nil)
	denied.Refuse = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
	stopped := unit("hello-world.service", map[string]any{"ActiveState": "inactive", "SubState": "dead"})
	stopped.After = map[string]any{"ActiveState": "active", "SubState": "running"}
	// What the target does not want: a worker of a GPU that is gone, one whose
	// service is gone, and what an operator put into the slice.
	unwanted := func(name, file string) systemdtest.Unit {
		u := unit(name, map[string]any{"FragmentPath": file})
		u.Unwanted, u.Moves = true, true
		return u
	}
	return []systemdtest.Unit{
		unwanted("redis-worker@11.service", "/run/systemd/generator/redis-worker@.service"),
		unwanted("removed.service", ""),
		unwanted("operators.service", "/etc/systemd/system/operators.service"),
		unit("gpuherd-monitor.service", nil),
		unit("redis-worker@10.service", nil),
		unit("redis-worker@0.service", map[string]any{
			"StatusText":   "job \x1b[2Jjob-1: 40%",
			"SourcePath":   "/usr/lib/gpuherd/services/redis-worker.service",
			"FragmentPath": "/run/systemd/generator/redis-worker@.service",
			"DropInPaths":  []string{"/run/systemd/generator/redis-worker@0.service.d/50-gpu.conf"},
			"Environment":  []string{"GPU_INDEX=0", "HF_TOKEN=hf_abc", "REDIS_URL=redis://u:pw@h/0"},
			"User":         "gpuherd-worker",
			"DevicePolicy": "closed",
			"DeviceAllow":  []struct{ Path, Access string }{{"/dev/char/195:0", "rw"}, {"/dev/char/195:255", "rw"}},
		}),
		failing, never, denied, stopped,
	}
}

// herdOfMachines are the units of testdata/change/*.txtar: two GPUs with what
// runs on them, and what they may get.
func herdOfMachines() []systemdtest.Unit {
	unit := func(name, active, sub string) systemdtest.Unit {
		return systemdtest.Unit{
			Name: name, Moves: active != "failed",
			Props: map[string]any{
				"Id": name, "LoadState": "loaded", "ActiveState": active, "SubState": sub, "Result": "success", "MainPID": uint32(0),
			},
		}
	}
	up := func(name string) systemdtest.Unit { return unit(name, "active", "running") }
	planned := func(name string) systemdtest.Unit {
		u := unit(name, "inactive", "dead")
		u.Unwanted = true
		return u
	}
	return []systemdtest.Unit{
		up("gpuherd-monitor.service"), up("shared-setup.service"),
		up("redis-worker@0.service"), unit("redis-worker@1.service", "inactive", "dead"),
		planned("redis-worker@0.2.service"), planned("redis-worker@1.2.service"), planned("hello-world.service"),
		up("comfyui@0.service"), unit("comfyui@1.service", "failed", "failed"),
	}
}

// herdThatWaits are the units of testdata/standing/*.txtar, whose jobs last, but
// for one that ends and one that fails.
func herdThatWaits() []systemdtest.Unit {
	unit := func(name, active, sub, job, status string) systemdtest.Unit {
		return systemdtest.Unit{Name: name, Job: job, Props: map[string]any{
			"Id": name, "LoadState": "loaded", "ActiveState": active, "SubState": sub, "Result": "success", "StatusText": status,
		}}
	}
	broken := unit("broken@0.service", "failed", "failed", "failed", "loading \x1b[2J")
	maps.Copy(broken.Props, map[string]any{"Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(1)})
	return []systemdtest.Unit{
		unit("redis-worker@0.service", "activating", "start", "never", "Redis at redis://redis1:6379 refuses the user or password"),
		unit("redis-worker@1.service", "active", "running", "", "idle"),
		unit("comfyui@0.service", "deactivating", "stop-sigterm", "never", "saving"),
		unit("comfyui@1.service", "activating", "start", "never", ""),
		broken,
	}
}

// TestBusScripts runs testdata/bus/*.txtar, each with a herd of its own.
func TestBusScripts(t *testing.T) {
	t.Parallel()
	runBusScripts(t, "testdata/bus", herdOfScripts(), nil)
}

// TestStandingScripts runs testdata/standing/*.txtar.
func TestStandingScripts(t *testing.T) {
	t.Parallel()
	runBusScripts(t, "testdata/standing", herdThatWaits(), nil)
}

// TestChangeScripts runs testdata/change/*.txtar, each on a machine of its own:
// files in $TEST_ROOT, and a herd.
func TestChangeScripts(t *testing.T) {
	t.Parallel()
	runBusScripts(t, "testdata/change", herdOfMachines(), func(env *testscript.Env) error {
		return putServices(env.Getenv("TEST_ROOT"))
	})
}

// putServices writes the service files of herdOfMachines below root.
func putServices(root string) error {
	for _, file := range []string{"redis-worker", "hello-world", "shared-setup"} {
		text, err := os.ReadFile("../../units/services/" + file + ".service")
		if err != nil {
			return err
		}
		if err := put(root, "usr/lib/gpuherd/services/"+file+".service", string(text)); err != nil {
			return err
		}
	}
	return put(root, "etc/gpuherd/services/comfyui.service", "[X-GPU]\nPer=gpu\n[Service]\nExecStart=/bin/true\n")
}

// monitorOfScripts answers as the monitor of a machine with two GPUs.
func monitorOfScripts(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/v1/gpus" {
		http.NotFound(w, r)
		return
	}
	fmt.Fprintln(w, `{"seq": 7, "gpus": [
		{"index": 0, "name": "NVIDIA H100", "health": "healthy", "temperature": 61, "utilisation": 97},
		{"index": 10, "name": "NVIDIA H100", "health": "unhealthy", "reasons": ["XID 79: off the bus"]}
	]}`)
}

// put writes a file below root.
func put(root, name, text string) error {
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func runBusScripts(t *testing.T, dir string, herd []systemdtest.Unit, setup func(*testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			units := make([]systemdtest.Unit, 0, len(herd))
			for _, u := range herd {
				u.Props = maps.Clone(u.Props)
				units = append(units, u)
			}
			systemd := systemdtest.Start(env.T().(testing.TB), units...)
			env.Setenv("DBUS_SYSTEM_BUS_ADDRESS", systemd.Address)
			env.Values["systemd"] = systemd
			root := filepath.Join(env.WorkDir, "machine")
			env.Setenv("TEST_ROOT", root)
			monitor := httptest.NewServer(http.HandlerFunc(monitorOfScripts))
			env.Defer(monitor.Close)
			conf := "[GPU]\nSimulate=yes\nCount=2\n[Monitor]\nListen=" + monitor.Listener.Addr().String() + "\n"
			if err := put(root, "etc/gpuherd/gpuherd.conf", conf); err != nil {
				return err
			}
			if setup != nil {
				return setup(env)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// calls CALL... compares what was asked of systemd.
			"calls": func(ts *testscript.TestScript, _ bool, args []string) {
				systemd := ts.Value("systemd").(*systemdtest.Systemd)
				if diff := cmp.Diff(args, systemd.Calls()); diff != "" {
					ts.Fatalf("asked of systemd (-want +got):\n%s", diff)
				}
			},
			// sequence is calls where their order matters.
			"sequence": func(ts *testscript.TestScript, _ bool, args []string) {
				systemd := ts.Value("systemd").(*systemdtest.Systemd)
				if diff := cmp.Diff(args, systemd.Sequence()); diff != "" {
					ts.Fatalf("asked of systemd (-want +got):\n%s", diff)
				}
			},
		},
		// booted: a systemd is PID 1 here.
		Condition: func(condition string) (bool, error) {
			if condition != "booted" {
				return false, errors.New("unknown condition")
			}
			_, err := os.Stat("/run/systemd/system")
			return err == nil, nil
		},
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		RequireUniqueNames:  true,
	})
}
