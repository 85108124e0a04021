//go:build machine

package acceptance

import (
	"debug/elf"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// `make install` lays down every file that users and other programs rely on.
func TestInstalledTree(t *testing.T) {
	const dir, program, file = os.ModeDir | 0o755, os.FileMode(0o755), os.FileMode(0o644)
	for path, mode := range map[string]os.FileMode{
		"usr/bin/gpuherd": program,
		"usr/lib/systemd/system-generators/gpuherd-generator": program,
		"usr/lib/gpuherd/gpuherd-monitor":                     program,
		"usr/lib/gpuherd/gpuherd-setup":                       program,
		"usr/lib/gpuherd/redis-worker":                        program,
		"usr/lib/gpuherd/jobs/echo":                           program,
		"usr/lib/gpuherd/services/shared-setup.service":       file,
		"usr/lib/gpuherd/services/redis-worker.service":       file,
		"usr/lib/gpuherd/services/hello-world.service":        file,
		"usr/lib/systemd/system/gpuherd.target":               file,
		"usr/lib/systemd/system/gpuherd.slice":                file,
		"usr/lib/systemd/system/gpuherd-monitor.service":      file,
		"usr/lib/systemd/system/gpuherd-rescan.path":          file,
		"usr/lib/systemd/system/gpuherd-rescan.service":       file,
		"usr/lib/udev/rules.d/60-gpuherd.rules":               file,
		"usr/lib/systemd/system/gpuherd-up.service":           file,
		"usr/lib/systemd/system/gpuherd-verify.service":       file,
		"usr/lib/systemd/system/gpuherd-verify.timer":         file,
		"usr/lib/sysusers.d/gpuherd.conf":                     file,
		"usr/lib/tmpfiles.d/gpuherd.conf":                     file,
		"usr/share/doc/gpuherd/gpuherd.conf":                  file,
		"usr/share/doc/gpuherd/example.service":               file,
		"usr/share/doc/gpuherd/README.md":                     file,
		"usr/share/doc/gpuherd/examples/job.py":               file,
		"usr/share/doc/gpuherd/examples/comfyui/prompt.py":    file,
		"usr/share/gpuherd/apparmor/gpuherd-monitor":          file,
		"usr/share/gpuherd/redis/gpuherd.rights":              file,
		"usr/share/gpuherd/selinux/gpuherd.cil":               file,
		"usr/share/man/man1/gpuherd.1":                        file,
		"usr/share/man/man5/gpuherd.conf.5":                   file,
		"usr/share/man/man7/gpuherd-api.7":                    file,
		"usr/share/man/man7/gpuherd-redis.7":                  file,
		"usr/share/man/man8/gpuherd-monitor.8":                file,
		"usr/share/gpuherd/prometheus/gpuherd.rules.yml":      file,
		"usr/share/gpuherd/grafana/gpuherd.json":              file,
		"etc/gpuherd/gpuherd.conf":                            file,
		"etc/gpuherd/gpuherd.conf.d":                          dir,
		"etc/gpuherd/services":                                dir,
		"etc/gpuherd/setup.d":                                 dir,
		"etc/credstore":                                       os.ModeDir | 0o700,
	} {
		info, err := os.Lstat(filepath.Join(installed, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
		}
	}
}

// What runs before any library path is sure to be there, and what is copied to
// other machines by hand, needs no dynamic linker.
func TestStaticPrograms(t *testing.T) {
	for _, path := range []string{
		"usr/bin/gpuherd", "usr/lib/systemd/system-generators/gpuherd-generator", "usr/lib/gpuherd/redis-worker",
	} {
		program, err := elf.Open(filepath.Join(installed, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s is linked dynamically", path)
		}
		_ = program.Close()
	}
}

// makeIn runs make for a folder to install into, and returns what it printed.
func makeIn(t *testing.T, dir, what string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", "../..", what, "DESTDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make %s: %v\n%s", what, err, out)
	}
	return strings.ReplaceAll(string(out), dir, "")
}

// lie returns every file and folder below dir, and what each file has in it.
func lie(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, text := strings.TrimPrefix(path, dir+"/"), "folder"
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(data)
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// `make uninstall` leaves what was there before `make install`, and what the
// operator and jobs have put there since.
func TestUninstalledTree(t *testing.T) {
	before := map[string]string{
		"usr/bin/another":                     "a program",
		"usr/lib/systemd/system/x.service":    "a unit",
		"usr/share/man/man1/another.1":        "a page",
		"usr/lib/gpuherd/services/of.service": "of another package",
		"etc/credstore/another":               "a secret",
	}
	since := map[string]string{
		"etc/gpuherd/gpuherd.conf":                "[GPU]\nCount=1\n",
		"etc/gpuherd/services/mine.service":       "mine",
		"etc/credstore/gpuherd.redis-password":    "hunter2",
		"var/lib/gpuherd/shared/result":           "of a job",
		"etc/gpuherd/gpuherd.conf.d/50-mine.conf": "",
	}
	put := func(dir string, files map[string]string) {
		t.Helper()
		for name, text := range files {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		before, since map[string]string
		said          string
	}{
		"nothing else":   {said: ""},
		"others' files":  {before: before, said: "uninstall: kept, as this version does not install it, /usr/lib/gpuherd/services/of.service\n"},
		"the operator's": {since: since, said: "uninstall: kept /etc/gpuherd\nuninstall: kept /etc/credstore/gpuherd.redis-password\nuninstall: kept /var/lib/gpuherd\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, want := t.TempDir(), t.TempDir()
			put(dir, tt.before)
			makeIn(t, dir, "install")
			if len(lie(t, dir)) < 90 {
				t.Errorf("installed: %v", slices.Sorted(maps.Keys(lie(t, dir))))
			}
			put(dir, tt.since)
			put(want, tt.before)
			put(want, tt.since)
			if said := makeIn(t, dir, "uninstall"); said != tt.said {
				t.Errorf("said:\n%swant:\n%s", said, tt.said)
			}
			if diff := cmp.Diff(lie(t, want), lie(t, dir)); diff != "" {
				t.Errorf("what lies there (-want +got):\n%s", diff)
			}
			makeIn(t, dir, "uninstall") // there is nothing to do, and that is no error
		})
	}
}
