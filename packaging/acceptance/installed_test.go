//go:build machine

package acceptance

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"testing"
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
