package sharedsetup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
