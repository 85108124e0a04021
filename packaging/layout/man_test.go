package layout

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gpuherd/generator/service"
)

// page reads a man page as text to search in.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "packaging/man", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), `\-`, "-")
}

// Every program has its page, and every page that a unit names exists.
func TestProgramsHaveManPages(t *testing.T) {
	t.Parallel()
	programs, err := os.ReadDir(filepath.Join(root, "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		found, err := filepath.Glob(filepath.Join(root, "packaging/man", program.Name()+".[18]"))
		if err != nil || len(found) != 1 {
			t.Errorf("%s: want one man page, have %v", program.Name(), found)
		}
	}
	named := regexp.MustCompile(`man:([a-z.-]+)\((\d)\)`)
	for _, pattern := range []string{"packaging/systemd/*", "units/services/*"} {
		units, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(units) == 0 {
			t.Fatalf("%s: no units: %v", pattern, err)
		}
		for _, unit := range units {
			text, err := os.ReadFile(unit)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range named.FindAllStringSubmatch(string(text), -1) {
				if _, err := os.Stat(filepath.Join(root, "packaging/man", m[1]+"."+m[2])); err != nil {
					t.Errorf("%s names %s: %v", unit, m[0], err)
				}
			}
		}
	}
}

// Every verb of the CLI is a file of its own, and is in its page and README.
func TestVerbsAreDocumented(t *testing.T) {
	t.Parallel()
	verbs := regexp.MustCompile(`Use:\s+"([a-z0-9-]+)`)
	sources, err := filepath.Glob(filepath.Join(root, "cmd/gpuherd/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	text, found := page(t, "gpuherd.1"), 0
	for _, source := range sources {
		code, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range verbs.FindAllStringSubmatch(string(code), -1) {
			if m[1] == "gpuherd" {
				continue
			}
			found++
			if !regexp.MustCompile(`(?m)^\.BR?.*\b` + m[1] + `\b`).MatchString(text) {
				t.Errorf("%s: verb %s is not in gpuherd(1)", source, m[1])
			}
		}
	}
	if found < 5 {
		t.Fatalf("found only %d verbs", found)
	}
}

// The page names every key of the reference file, which config's own test
// compares with what is read.
func TestKeysAreDocumented(t *testing.T) {
	t.Parallel()
	reference, err := os.ReadFile(filepath.Join(root, "packaging/gpuherd.conf"))
	if err != nil {
		t.Fatal(err)
	}
	text := page(t, "gpuherd.conf.5")
	keys := regexp.MustCompile(`(?m)^#([A-Z][A-Za-z]+)=`).FindAllStringSubmatch(string(reference), -1)
	if len(keys) < 10 {
		t.Fatalf("found only %d keys", len(keys))
	}
	for _, key := range keys {
		if !strings.Contains(text, key[1]+"=") {
			t.Errorf("gpuherd.conf(5) has no %s=", key[1])
		}
	}
	text = page(t, "gpuherd.service-file.5")
	for _, key := range service.Keys() {
		if !strings.Contains(text, key+"=") {
			t.Errorf("gpuherd.service-file(5) has no %s=", key)
		}
	}
}
