package unitfile

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// unitSuffixes are the files that are units or parts of one (systemd.unit(5)).
var unitSuffixes = []string{
	".automount", ".conf", ".device", ".mount", ".path", ".scope", ".service", ".slice", ".socket", ".swap", ".target", ".timer",
}

// TestDebianUnits reads, writes and reads again every unit file of Debian's
// systemd package, and the nasty ones of testdata/units.
func TestDebianUnits(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{} // /lib is a link to /usr/lib on a merged system
	for _, c := range []struct {
		dir   string
		least int
	}{
		{"/usr/lib/systemd/system", 100}, {"/usr/lib/systemd/user", 10}, {"/lib/systemd/system", 100}, {"testdata/units", 5},
	} {
		dir, err := filepath.EvalSymlinks(c.dir)
		if err != nil {
			t.Fatalf("cannot find the units of Debian's systemd (apt-get install systemd): %v", err)
		}
		if seen[dir] {
			continue
		}
		seen[dir] = true
		n := 0
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !slices.Contains(unitSuffixes, filepath.Ext(path)) {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n++
			t.Run(path, func(t *testing.T) {
				f, ps := Parse(path, data)
				for _, p := range ps {
					t.Error(p)
				}
				if len(f.Sections) == 0 && bytes.Contains(data, []byte("\n[")) {
					t.Error("no section found")
				}
				roundTrip(t, f)
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n < c.least {
			t.Errorf("%s has %d unit files, expected %d or more (apt-get install systemd)", c.dir, n, c.least)
		}
	}
}
