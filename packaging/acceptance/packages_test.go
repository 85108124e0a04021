//go:build machine

package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// dist is where `make package` puts its results.
const dist = "../../dist"

// builtPackage returns the one package of this machine's architecture.
func builtPackage(t *testing.T, format string) string {
	t.Helper()
	arch := runtime.GOARCH
	if format == "rpm" {
		arch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
	}
	found, err := filepath.Glob(filepath.Join(dist, "*"+arch+"."+format))
	if err != nil || len(found) != 1 {
		t.Fatalf("want one %s of %s in dist, have %v: run make package first", format, arch, found)
	}
	return found[0]
}

// tool runs a program, which has to succeed, and returns its standard output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errs strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, errs.String())
	}
	return string(out)
}

// layPackages makes the tree with the packages for TestPackage and its kin.
func layPackages(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	dir := filepath.Join(tree, "opt/packages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "first.deb")
	if err := copyFile(builtPackage(t, "deb"), first, 0o644); err != nil {
		t.Fatal(err)
	}
	nextVersion(t, first, filepath.Join(dir, "next.deb"))
	// Takes its time, so that there always are jobs in hand.
	job := "#!/bin/sh\ncat >/dev/null\nsleep 0.3\necho '{\"done\": true}'\n"
	if err := os.WriteFile(filepath.Join(dir, "job"), []byte(job), 0o755); err != nil {
		t.Fatal(err)
	}
	return tree
}

// nextVersion makes a later version of a package: as it is, with changes to the
// conffile and to a unit.
func nextVersion(t *testing.T, deb, next string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "next")
	tool(t, "dpkg-deb", "--raw-extract", deb, dir)
	control := filepath.Join(dir, "DEBIAN/control")
	data, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if version, ok := strings.CutPrefix(line, "Version: "); ok {
			line = fmt.Sprintf("Version: 1:%s", version)
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(control, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]string{
		"etc/gpuherd/gpuherd.conf":                       "# A line of the next version.\n",
		"usr/lib/systemd/system/gpuherd-monitor.service": "# A line of the next version.\n",
		"usr/lib/gpuherd/services/redis-worker.service":  "Environment=NEXT_VERSION=yes\n",
	} {
		file, err := os.OpenFile(filepath.Join(dir, path), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "sh", "-c", "cd "+dir+" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums")
	tool(t, "dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", dir, next)
}
