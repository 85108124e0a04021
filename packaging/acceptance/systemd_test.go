//go:build acceptance

package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

const (
	target       = "gpuherd.target"
	monitorUnit  = "gpuherd-monitor.service"
	setupUnit    = "shared-setup.service"
	redisUnit    = "redis-server.service"
	generatorDir = "/run/systemd/generator"
)

// systemd is a connection to PID 1 for one test. It goes over D-Bus: starting
// systemctl takes a second in user-mode-linux.
type systemd struct {
	t    *testing.T
	conn *dbus.Conn
}

func connectSystemd(t *testing.T) *systemd {
	t.Helper()
	// Cleanups use the connection too, when t.Context() has ended.
	conn, err := dbus.NewSystemConnectionContext(context.Background())
	if err != nil {
		t.Fatalf("cannot connect to the system bus: %v", err)
	}
	t.Cleanup(conn.Close)
	return &systemd{t: t, conn: conn}
}

// unit is what systemd says of one service unit.
type unit struct {
	Name, Load, Active, Sub, Result, Invocation, ControlGroup string
	PID                                                       uint32
	Restarts                                                  uint32 // NRestarts: automatic ones only
	DropIns                                                   []string
}

// unit reads one unit; it loads the unit if nothing refers to it.
func (s *systemd) unit(name string) (unit, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	properties, err := s.conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return unit{}, fmt.Errorf("cannot read %s: %w", name, err)
	}
	text := func(key string) string { v, _ := properties[key].(string); return v }
	number := func(key string) uint32 { v, _ := properties[key].(uint32); return v }
	id, _ := properties["InvocationID"].([]byte)
	dropIns, _ := properties["DropInPaths"].([]string)
	return unit{
		Name: name, Load: text("LoadState"), Active: text("ActiveState"), Sub: text("SubState"),
		Result: text("Result"), Invocation: hex.EncodeToString(id), ControlGroup: text("ControlGroup"),
		PID: number("MainPID"), Restarts: number("NRestarts"), DropIns: dropIns,
	}, nil
}

// mustUnit is unit for a unit that cannot be missing.
func (s *systemd) mustUnit(name string) unit {
	s.t.Helper()
	u, err := s.unit(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

// herd lists the service units that gpuherd.target wants, sorted.
func (s *systemd) herd() ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	property, err := s.conn.GetUnitPropertyContext(ctx, target, "Wants")
	if err != nil {
		return nil, fmt.Errorf("cannot read what %s wants: %w", target, err)
	}
	wants, _ := property.Value.Value().([]string)
	names := slices.DeleteFunc(slices.Clone(wants), func(n string) bool { return !strings.HasSuffix(n, ".service") })
	slices.Sort(names)
	return names, nil
}

// workers lists the redis-worker instances of the herd.
func (s *systemd) workers() []string {
	s.t.Helper()
	names, err := s.herd()
	if err != nil {
		s.t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "redis-worker@") })
	if len(names) == 0 {
		s.t.Fatalf("%s wants no redis-worker", target)
	}
	return names
}

// failed lists every failed unit of the system, ours or not.
func (s *systemd) failed() []string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	statuses, err := s.conn.ListUnitsFilteredContext(ctx, []string{"failed"})
	if err != nil {
		s.t.Fatalf("cannot list failed units: %v", err)
	}
	var names []string
	for _, status := range statuses {
		names = append(names, status.Name)
	}
	return names
}

func (s *systemd) start(name string) { s.t.Helper(); s.job("start", name, s.conn.StartUnitContext) }
func (s *systemd) stop(name string)  { s.t.Helper(); s.job("stop", name, s.conn.StopUnitContext) }
func (s *systemd) restart(name string) {
	s.t.Helper()
	s.job("restart", name, s.conn.RestartUnitContext)
}

// job runs one systemd job and waits for its end.
func (s *systemd) job(verb, name string, do func(context.Context, string, string, chan<- string) (int, error)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan string, 1)
	if _, err := do(ctx, name, "replace", done); err != nil {
		s.t.Fatalf("cannot %s %s: %v", verb, name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			s.t.Fatalf("%s %s: %s", verb, name, result)
		}
	case <-ctx.Done():
		s.t.Fatalf("%s %s: no end after 3 minutes", verb, name)
	}
}

// reload is systemctl daemon-reload.
func (s *systemd) reload() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.conn.ReloadContext(ctx); err != nil {
		s.t.Fatalf("cannot reload systemd: %v", err)
	}
}

// kill sends SIGKILL to the main process of a running unit and returns what
// the unit was before.
func (s *systemd) kill(name string) unit {
	s.t.Helper()
	before := s.mustUnit(name)
	if before.PID == 0 {
		s.t.Fatalf("%s has no main process: %+v", name, before)
	}
	if err := syscall.Kill(int(before.PID), syscall.SIGKILL); err != nil {
		s.t.Fatalf("cannot kill %s: %v", name, err)
	}
	return before
}

// generated returns every file and link that our generator wrote, with mode
// and a hash of the contents or the link's goal.
func generated(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(generatorDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		ours := strings.Contains(path, "redis-worker") || strings.Contains(path, setupUnit) ||
			strings.Contains(path, "hello-world") || strings.Contains(path, target)
		if !ours {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			goal, err := os.Readlink(path)
			files[path] = "-> " + goal
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatalf("cannot read the generator's output: %v", err)
	}
	if len(files) == 0 {
		t.Fatalf("the generator wrote nothing into %s", generatorDir)
	}
	return files
}

// run starts a program and returns its outputs and its exit status.
func run(t *testing.T, name string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...) // also in a cleanup
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("cannot run %s: %v", name, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// patience is how long a test waits for what has to come: machines are slow,
// user-mode-linux on a busy host most of all, and none is tested for its speed.
const patience = 5 * time.Minute

// eventually waits until check returns nil, and fails with its last error
// where patience ends.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
