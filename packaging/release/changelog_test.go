package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const changes = `# Changelog

Some words.

## Unreleased

### Added
- ` + "`gpuherd x`" + `: a thing that is long enough to be told on more than the one line that a
  changelog of Debian's has room for.
- Another.

## 0.2.0 - 2026-12-01

A word on it.

### Fixed
- A mistake.

## [0.1.0-rc.1] - 2026-11-01
- First.
`

func TestDebianChangelog(t *testing.T) {
	t.Parallel()
	sections, err := parseChangelog(changes)
	if err != nil {
		t.Fatal(err)
	}
	got := debianChangelog(sections, "0.2.0+4.gabc", "A <a@example.org>", time.Date(2026, 12, 2, 3, 4, 5, 0, time.UTC))
	want := `gpuherd (0.2.0+4.gabc-1) stable; urgency=medium

  [ Added ]
  * gpuherd x: a thing that is long enough to be told on more than the one line
    that a changelog of Debian's has room for.
  * Another.

 -- A <a@example.org>  Wed, 02 Dec 2026 03:04:05 +0000

gpuherd (0.2.0-1) stable; urgency=medium

  [ Fixed ]
  * A mistake.

 -- A <a@example.org>  Tue, 01 Dec 2026 00:00:00 +0000

gpuherd (0.1.0~rc.1-1) stable; urgency=medium

  * First.

 -- A <a@example.org>  Sun, 01 Nov 2026 00:00:00 +0000
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Debian's own parser takes what is made of our own changelog.
func TestOwnChangelog(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	sections, err := parseChangelog(string(data))
	if err != nil {
		t.Fatal(err)
	}
	text := debianChangelog(sections, "9.9.9", "A <a@example.org>", time.Unix(0, 0).UTC())
	for line := range strings.Lines(text) {
		if len([]rune(line)) > 81 {
			t.Errorf("too long: %s", line)
		}
	}
	file := filepath.Join(t.TempDir(), "changelog")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("dpkg-parsechangelog"); err != nil {
		return // of dpkg-dev, which nothing else here needs
	}
	out, err := exec.CommandContext(t.Context(), "dpkg-parsechangelog", "--all", "-l", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "warning") || !strings.Contains(string(out), "Version: 9.9.9-1") {
		t.Errorf("dpkg-parsechangelog: %v\n%s", err, out)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	sections, err := parseChangelog(changes)
	if err != nil {
		t.Fatal(err)
	}
	got, err := notes(sections, "0.2.0")
	if want := "A word on it.\n\n### Fixed\n- A mistake.\n"; got != want || err != nil {
		t.Errorf("notes are %q (%v), want %q", got, err, want)
	}
	for _, version := range []string{"", "Unreleased", "0.3.0"} {
		if got, err := notes(sections, version); err == nil {
			t.Errorf("version %q has notes: %q", version, got)
		}
	}
}

func TestBadChangelog(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                      "no version",
		"# Changelog\n":         "no version",
		"## 1.0.0\n":            "line 1: version 1.0.0 has no date",
		"\n## 1.0.0 - 2026\n":   "line 2: want",
		"## 1.0 of\n":           "line 1: want",
		"## 1.0 - 2026-13-01\n": "line 1: version 1.0 has no date",
	} {
		if _, err := parseChangelog(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func FuzzChangelog(f *testing.F) {
	f.Add(changes)
	f.Fuzz(func(t *testing.T, text string) {
		sections, err := parseChangelog(text)
		if err != nil {
			return
		}
		out := debianChangelog(sections, "1", "A <a@example.org>", time.Unix(0, 0).UTC())
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "gpuherd") != strings.Contains(line, "; urgency=medium") && !strings.HasPrefix(line, " ") {
				t.Errorf("neither heading, change nor signature: %q", line)
			}
		}
	})
}
