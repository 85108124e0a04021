package man

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

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
