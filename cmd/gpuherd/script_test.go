package main

import (
	"flag"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write what the verbs print now into testdata/*.txtar")

func TestMain(m *testing.M) {
	testscript.Main(leakTested{m}, map[string]func(){"gpuherd": func() {
		a := newApp()
		if root := os.Getenv("TEST_ROOT"); root != "" {
			a.rootDir = root
		}
		os.Exit(start(a))
	}})
}

// leakTested looks for goroutines that the tests left behind.
type leakTested struct{ m *testing.M }

func (l leakTested) Run() int {
	code := l.m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println("goroutines left behind: " + err.Error())
			code = 1
		}
	}
	return code
}

// TestScripts runs testdata/*.txtar, where no bus answers.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
			return nil
		},
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		RequireUniqueNames:  true,
	})
}
