package plan

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The systemd of this machine has each directive if, and only if, the table
// says so.
func TestDirectivesOfThisSystemd(t *testing.T) {
	t.Parallel()
	const program = "/usr/lib/systemd/systemd"
	run := func(option string) string {
		out, err := exec.CommandContext(t.Context(), program, option).Output()
		if err != nil {
			t.Fatalf("cannot ask systemd (package systemd): %v", err)
		}
		return string(out)
	}
	match := regexp.MustCompile(`^systemd (\d+)`).FindStringSubmatch(run("--version"))
	if match == nil {
		t.Fatal("systemd tells no version")
	}
	version, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	section := ""
	for line := range strings.Lines(run("--dump-configuration-items")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		} else if key, _, ok := strings.Cut(line, "="); ok && (section == "[Unit]" || section == "[Service]") {
			known[key] = true
		}
	}
	if len(known) < 300 {
		t.Fatalf("systemd lists %d directives", len(known))
	}
	gone := map[string]int{"DefaultStartupMemoryLow": 258} // and since when
	for key, since := range directives {
		want := since <= version
		if out, ok := gone[key]; ok {
			want = want && version < out
		}
		if known[key] != want {
			t.Errorf("%s= is there since %d by the table; systemd %d has it: %v", key, since, version, known[key])
		}
	}
}
