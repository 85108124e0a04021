package service

import (
	"os/exec"
	"strings"
	"testing"

	"gpuherd/generator/unitfile"
)

// No key that systemd itself lists is taken for a typo.
func TestSpellingOfKnownKeys(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "/usr/lib/systemd/systemd", "--dump-configuration-items").Output()
	if err != nil {
		t.Fatalf("cannot ask systemd (package systemd): %v", err)
	}
	var text strings.Builder
	section := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		switch key, _, ok := strings.Cut(line, "="); {
		case strings.HasPrefix(line, "["):
			if section = line; section == "[Unit]" || section == "[Service]" {
				text.WriteString(line + "\n")
			}
		case ok && (section == "[Unit]" || section == "[Service]"):
			text.WriteString(key + "=\n")
		}
	}
	text.WriteString("[Service]\nExecStart=/bin/true\n")
	f, problems := unitfile.Parse("a.service", []byte(text.String()))
	if len(f.Entries("Service")) < 100 || len(problems) > 0 {
		t.Fatalf("%d keys, problems %v", len(f.Entries("Service")), problems)
	}
	if _, problems := Parse("a", "a.service", f); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
}
