package unitfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAgainstSystemd has the installed systemd and this package read the same
// units, made of random bits of syntax, and compares the commands both find.
// systemd-analyze prints them when told to debug.
func TestAgainstSystemd(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2)) // the same cases each time
	bits := []string{
		"a", "b", "c", "é", " ", " ", "\t", "'", "'", `"`, `"`, `\`, `\\`, `\"`, `\'`, `\s`, `\t`, `\x41`, `\x4`, `\101`, `\18`, `\u00e9`, `\q`,
		" \\; ", "$$", "%%", "#", "\\\n", "\\\n", "\\\r\n", "\n#c\n", "\\\n#c\n", "\\\n ;c\n", "\\\n\n", "\n\r", "\r", "\x00",
	}
	for range 8 {
		var unit strings.Builder
		unit.WriteString("[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n")
		for i := range 400 {
			fmt.Fprintf(&unit, "ExecStart=-/bin/echo %d ", i) // -: a line it cannot read does not end it
			for range rng.IntN(12) {
				unit.WriteString(bits[rng.IntN(len(bits))])
			}
			unit.WriteString("\n\n")
		}
		compareWithSystemd(t, []byte(unit.String()))
	}
}

// TestSystemdReadsWhatIsWritten has systemd read quoted random arguments.
func TestSystemdReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	alphabet := []rune("ab é😀'\"\\;#$%{}x41~`|&*?[]\n\t\r\x01\x7f\u0085=-@")
	f := &File{Name: "x.service"}
	f.Add("Unit", "DefaultDependencies", "no")
	f.Add("Service", "Type", "oneshot")
	for i := range 1000 {
		argv := []string{"/bin/echo", fmt.Sprint(i)}
		for range rng.IntN(4) {
			var arg strings.Builder
			for range rng.IntN(8) {
				arg.WriteRune(alphabet[rng.IntN(len(alphabet))])
			}
			argv = append(argv, arg.String())
		}
		quoted, err := QuoteArgv(argv)
		if err != nil {
			t.Fatal(err)
		}
		f.Add("Service", "ExecStart", quoted)
	}
	data, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if n := compareWithSystemd(t, data); n != 1000 {
		t.Errorf("systemd read %d commands of 1000", n)
	}
}

// compareWithSystemd compares the commands of a unit and returns how many
// systemd found.
func compareWithSystemd(t *testing.T, unit []byte) int {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.service")
	if err := os.WriteFile(path, unit, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", path)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_UNIT_PATH="+dir, "SYSTEMD_LOG_TARGET=console")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && out.Len() == 0 {
		t.Fatalf("systemd-analyze (apt-get install systemd): %v\n%.2000s", err, errs.Bytes())
	}
	var systemd []string
	for line := range strings.Lines(out.String()) {
		if command, ok := strings.CutPrefix(strings.Trim(line, whitespace), "Command Line: "); ok {
			systemd = append(systemd, fmt.Sprintf("%q", undump(t, command)))
		}
	}

	f, _ := Parse(path, unit)
	var ours []string
	for _, e := range f.Values("Service", "ExecStart") {
		argv, err := SplitArgv(e.Value)
		if err != nil {
			continue // systemd ignores the line, too
		}
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], "%%", "%") // no other specifier in the tests
		}
		argv[0] = strings.TrimPrefix(argv[0], "-")
		ours = append(ours, fmt.Sprintf("%q", argv))
	}
	if diff := cmp.Diff(systemd, ours); diff != "" {
		t.Errorf("(-systemd +ours):\n%s", diff)
	}
	return len(systemd)
}

// undump splits a line written by systemd's quote_command_line(): a word is in
// double quotes where it needs them, and in those \ stands before " \ ` $ and
// before the C escapes of control characters.
func undump(t *testing.T, line string) []string {
	t.Helper()
	var words []string
	for line != "" {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			words, line = append(words, word), rest
			continue
		}
		var w []byte
		i := 1
		for ; i < len(line) && line[i] != '"'; i++ {
			if line[i] != '\\' || i+1 == len(line) {
				w = append(w, line[i])
				continue
			}
			i++
			if strings.IndexByte("\"\\`$", line[i]) >= 0 {
				w = append(w, line[i])
				continue
			}
			b, n := appendEscape(nil, line[i:])
			if n == 0 {
				t.Fatalf("cannot read systemd's %q", line)
			}
			w = append(w, b...)
			i += n - 1
		}
		words, line = append(words, string(w)), strings.TrimPrefix(line[min(i+1, len(line)):], " ")
	}
	return words
}
