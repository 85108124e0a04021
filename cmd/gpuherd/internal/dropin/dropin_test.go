package dropin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
)

// read returns the file as it is on disk, "" where there is none.
func read(t *testing.T, root string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, Path("a")))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

func open(t *testing.T, root string) *File {
	t.Helper()
	f, err := Open(root, "a")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, f *File) {
	t.Helper()
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
}

// Keys come and go without harm to the others, and the configuration reads what
// was written; a file without keys is none.
func TestKeys(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	f := open(t, root)
	f.Set("Instances", "2")
	f.Set("Stopped", "", "0 1.2")
	write(t, f)

	f = open(t, root)
	f.Set("Enabled", "no")
	write(t, f)
	want := comment + "[Service a]\nEnabled=no\nInstances=2\nStopped=\nStopped=0 1.2\n"
	if diff := cmp.Diff(want, read(t, root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	conf, problems := config.Load(config.Source{Root: root})
	o := conf.Services["a"]
	if len(problems) > 0 || o.Enabled == nil || *o.Enabled || o.Instances == nil || *o.Instances != 2 || !cmp.Equal(o.Stopped, []string{"0", "1.2"}) {
		t.Errorf("it is read as %+v, %v", o, problems)
	}

	before := read(t, root)
	f = open(t, root)
	f.Set("Enabled")
	f.Set("Instances")
	f.Set("Stopped")
	write(t, f)
	if got := read(t, root); got != "" {
		t.Errorf("a file without keys is left:\n%s", got)
	}
	if err := f.Restore(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, read(t, root)); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
}

// What somebody else wrote, or cannot be read, is not touched.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	for name, lay := range map[string]func(file string) error{
		"was not written by gpuherd": func(file string) error { return os.WriteFile(file, []byte("[Service a]\n"), 0o644) },
		"masked by a link":           func(file string) error { return os.Symlink("/dev/null", file) },
		"a directory":                func(file string) error { return os.Mkdir(file, 0o755) },
		"90-a.conf:2":                func(file string) error { return os.WriteFile(file, []byte(header+"\n[Service a\n"), 0o644) },
	} {
		root := t.TempDir()
		file := filepath.Join(root, Path("a"))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := lay(file); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(root, "a"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCannotBeWritten(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	f := open(t, root)
	// A file where the folder should be.
	if err := os.WriteFile(filepath.Join(root, "etc"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.Set("Enabled", "no")
	if err := f.Write(); err == nil || !strings.Contains(err.Error(), "cannot write "+Path("a")) {
		t.Errorf("got %v", err)
	}
}
