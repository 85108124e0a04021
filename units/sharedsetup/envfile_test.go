package sharedsetup

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
)

// TestQuoteEnvByShell: in double quotes EnvironmentFile= reads what a POSIX
// shell reads (systemd.exec(5)), so a shell is the judge.
func TestQuoteEnvByShell(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"plain", "", " ", "two words", " around ", `"`, `\`, `\\`, `\n`, "a\nb", "a\tb", "$HOME", "${HOME}", "`id`", "$(id)", "'", `a'b"c`, "#x", "x #y",
		"100%", "%h", "é😀", "a=b", `ends in \`, ";x", "!x", "~", "*", "GPU-00000000-0000-0000-0000-000000000000", "0000:17:00.0",
	} {
		quoted, err := quoteEnv("X", value)
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		file := filepath.Join(t.TempDir(), "x.env")
		if err := os.WriteFile(file, []byte("X="+quoted+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("/bin/sh", "-c", `. "$1"; printf %s "$X"`, "sh", file).Output()
		if err != nil || string(out) != value {
			t.Errorf("%q written as %s is read as %q, %v", value, quoted, out, err)
		}
	}
}

func TestQuoteEnvRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value, want string }{
		{"X", "a\x00b", "control character"},
		{"X", "\x1b", "control character"},
		{"X", "a\rb", "control character"},
		{"X", "\x7f", "control character"},
		{"X", "\xff", "not UTF-8"},
		{"", "a", "no name"},
		{"1X", "a", "no name"},
		{"X-Y", "a", "no name"},
		{"X\nY", "a", "no name"},
	} {
		if got, err := quoteEnv(c.name, c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q=%q written as %q, error %v; want error with %q", c.name, c.value, got, err, c.want)
		}
	}
}

// A worker has what config.InstanceVariables lists, of its unit and of the file
// of its device together, and nothing else.
func TestInstanceVariables(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../../generator/testdata/02-eight-gpus/expected/redis-worker@0.service.d/50-gpu.conf")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^Environment="?([A-Z_]+)=`).FindAllStringSubmatch(string(unit), -1) {
		got = append(got, m[1])
	}
	for name := range deviceEnvironment(gpu.GPU{PCI: "0000:17:00.0"}, "GPU-1", "H100", 80<<30) {
		got = append(got, name)
	}
	slices.Sort(got)
	want := slices.Sorted(slices.Values(config.InstanceVariables))
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
