//go:build acceptance

package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// These tests run in a container that was booted from the image that is shipped,
// with NUM_GPUS=2, MACHINE_ID=, HEALTH_PORT= and a REDIS_URL= with a password.

// The image boots to a herd that works, and to nothing that is a host's.
func TestImageIsWell(t *testing.T) {
	h := open(t)
	if got := len(h.workers()); got != 2 {
		t.Errorf("%d workers, want 2", got)
	}
	if state, err := h.conn.GetManagerProperty("SystemState"); err != nil || state != `"running"` {
		t.Errorf("the system is %s (%v), want running", state, err)
	}
	units, err := h.conn.ListUnitsFilteredContext(t.Context(), []string{"active"})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		for _, word := range []string{"getty", "udev", "logind", "apt-daily", "networkd", "resolved", "remount"} {
			if strings.Contains(u.Name, word) {
				t.Errorf("%s is active", u.Name)
			}
		}
	}
	if stdout, _, status := run(t, "journalctl", "--boot", "--quiet", "--output=cat", "--priority=err"); status != 0 || stdout != "" {
		t.Errorf("journalctl ended with %d and shows:\n%s", status, stdout)
	}
	id := jobID(t)
	h.redis.enqueue(id, "{}")
	h.redis.waitJob(id, "succeeded")
}

// What an engine says of its own to PID 1 is no worker's: each is told of its
// own GPU alone, by MACHINE_ID's name.
func TestImageEnvironment(t *testing.T) {
	h := open(t)
	first := processEnvironment(t, 1)
	if first["NVIDIA_VISIBLE_DEVICES"] != "void" || first["NVIDIA_DRIVER_CAPABILITIES"] == "" {
		t.Fatalf("PID 1 has %v: nothing is shown here", first)
	}
	for _, name := range h.workers() {
		env := processEnvironment(t, h.mustUnit(name).PID)
		if env["GPU_UUID"] == "" || env["NVIDIA_VISIBLE_DEVICES"] != env["GPU_UUID"] {
			t.Errorf("%s has NVIDIA_VISIBLE_DEVICES=%q and GPU_UUID=%q", name, env["NVIDIA_VISIBLE_DEVICES"], env["GPU_UUID"])
		}
		if _, ok := env["REDIS_URL"]; ok {
			t.Errorf("%s has REDIS_URL=", name)
		}
	}
}

// The image's health check tells a worker and a monitor that are gone.
func TestImageHealth(t *testing.T) {
	h := open(t)
	check := func(want int, why string) {
		t.Helper()
		stdout, stderr, status := run(t, "/usr/bin/gpuherd", "ping", "--timeout=8s") // TestContainerfile has it the same
		if status != want {
			t.Errorf("%s: the health check ended with %d, want %d:\n%s%s", why, status, want, stdout, stderr)
		}
	}
	check(0, "all is well")
	for _, name := range []string{h.workers()[0], monitorUnit} {
		h.stop(name)
		check(1, name+" is stopped")
		h.start(name)
		h.healthy()
		eventually(t, "a monitor that answers", func() error {
			if _, stderr, status := run(t, "gpuherd", "ping"); status != 0 {
				return fmt.Errorf("ping ended with %d: %s", status, stderr)
			}
			return nil
		})
		check(0, name+" is started again")
	}
}

// The password of PID 1's REDIS_URL reaches the programs as a credential, and
// nobody else.
func TestImagePassword(t *testing.T) {
	h := open(t)
	where, err := url.Parse(processEnvironment(t, 1)["REDIS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	password, ok := where.User.Password()
	if !ok || len(password) < 10 {
		t.Fatal("PID 1's REDIS_URL has no password that could be looked for")
	}
	secret := []byte(password)
	for _, name := range append(h.workers(), monitorUnit) {
		data, err := os.ReadFile("/run/credentials/" + name + "/gpuherd.redis-url")
		if err != nil || !bytes.Contains(data, secret) {
			t.Errorf("%s has no credential with the password (%v)", name, err)
		}
	}
	if info, err := os.Stat("/run/gpuherd/credentials"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the credentials' folder has mode %v (%v)", info.Mode(), err)
	}

	for _, top := range []string{"/etc", "/run/systemd", "/run/gpuherd", "/usr/lib/systemd", "/usr/lib/gpuherd/services", "/var/lib"} {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if path == "/run/gpuherd/credentials" {
				return fs.SkipDir
			}
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, secret) {
				t.Errorf("%s has the password", path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no processes: %v", err)
		}
		for _, path := range paths {
			// What ended meanwhile has none.
			if data, err := os.ReadFile(path); err == nil && path != "/proc/1/environ" && bytes.Contains(data, secret) {
				t.Errorf("%s has the password", path)
			}
		}
	}
	for _, argv := range [][]string{
		{"journalctl", "--boot", "--all", "--output=export"},
		{"systemctl", "show", "--all", "*"},
		{"systemctl", "show-environment"},
		{"gpuherd", "explain"},
		{"gpuherd", "describe", "0"},
		{"gpuherd", "list", "--json"},
	} {
		stdout, stderr, status := run(t, argv[0], argv[1:]...)
		if status != 0 || len(stdout) == 0 {
			t.Errorf("%v ended with %d: %s", argv, status, stderr)
		}
		if strings.Contains(stdout+stderr, password) {
			t.Errorf("%v shows the password", argv)
		}
	}
	for key, value := range h.redis.everything(t.Context()) {
		if strings.Contains(key+value, password) {
			t.Errorf("Redis has the password in %s", key)
		}
	}
}

// everything returns all that is in Redis, by key.
func (s *store) everything(ctx context.Context) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	keys, err := s.db.Keys(ctx, "*").Result()
	if err != nil || len(keys) == 0 {
		s.t.Fatalf("no keys in Redis: %v", err)
	}
	for _, key := range keys {
		kind, err := s.db.Type(ctx, key).Result()
		if err != nil {
			s.t.Fatal(err)
		}
		var value any
		switch kind {
		case "string":
			value, err = s.db.Get(ctx, key).Result()
		case "hash":
			value, err = s.db.HGetAll(ctx, key).Result()
		case "zset":
			value, err = s.db.ZRange(ctx, key, 0, -1).Result()
		case "set":
			value, err = s.db.SMembers(ctx, key).Result()
		case "stream":
			value, err = s.db.XRange(ctx, key, "-", "+").Result()
		case "none": // expired meanwhile
		default:
			err = fmt.Errorf("%s is a %s", key, kind)
		}
		if err != nil {
			s.t.Error(err)
		}
		all[key] = fmt.Sprint(value)
	}
	return all
}
