package main

import (
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
	return []systemdtest.Unit{
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

// TestBusScripts runs testdata/bus/*.txtar, each with a herd of its own.
func TestBusScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/bus",
		Setup: func(env *testscript.Env) error {
			systemd := systemdtest.Start(env.T().(testing.TB), herdOfScripts()...)
			env.Setenv("DBUS_SYSTEM_BUS_ADDRESS", systemd.Address)
			env.Values["systemd"] = systemd
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
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}
