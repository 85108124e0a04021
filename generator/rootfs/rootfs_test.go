package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, root, name, data string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "etc/plain", "plain")
	put(t, root, "etc/exact", strings.Repeat("x", 1000))
	put(t, root, "etc/over", strings.Repeat("x", 1001))
	put(t, root, "secret", "inside")
	for name, target := range map[string]string{
		"relative": "plain", "absolute": "/etc/plain", "chain": "absolute", "climb": "../../../../../../secret",
		"masked": "/dev/null", "masked-too": "masked", "dangling": "nowhere", "loop": "loop", "dir": "/etc",
	} {
		if err := os.Symlink(target, filepath.Join(root, "etc", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "etc/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		want string
		err  string
	}{
		"plain": {"plain", ""}, "relative": {"plain", ""}, "absolute": {"plain", ""}, "chain": {"plain", ""},
		"climb":      {"inside", ""}, // .. at the root is the root
		"exact":      {strings.Repeat("x", 1000), ""},
		"over":       {"", "larger than 1000 bytes"},
		"masked":     {"", ErrMasked.Error()},
		"masked-too": {"", ErrMasked.Error()},
		"dangling":   {"", "no such file or directory"},
		"loop":       {"", "too many levels of symbolic links"},
		"dir":        {"", "a directory, not a file"},
		"fifo":       {"", "a FIFO, not a file"},
	}
	for name, tt := range tests {
		data, err := ReadFile(root, "/etc/"+name, 1000)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if string(data) != tt.want || got != tt.err {
			t.Errorf("%s: %q, error %q; want %q, %q", name, data, got, tt.want, tt.err)
		}
	}
	if _, err := ReadFile(root, "/etc/absent", 1000); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	// Files of procfs have no size.
	if data, err := ReadFile("/", "/proc/self/status", MaxFile); err != nil || len(data) == 0 {
		t.Errorf("procfs: %d bytes, %v", len(data), err)
	}
	if _, err := ReadFile("/", "/proc/self/status", 10); err == nil {
		t.Error("procfs: the limit does not hold")
	}
}

func TestStacked(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"usr/20.conf", "usr/10.conf", "usr/.15.conf", "usr/30.conf~", "run/10.conf", "run/25.conf", "etc/20.conf", "etc/README"} {
		put(t, root, name, "")
	}
	put(t, root, "file", "")
	found, failed := Stacked(root, ".conf", "/etc", "/absent", "/file", "/run", "/usr")
	want := []Found{{"10.conf", "/run/10.conf"}, {"20.conf", "/etc/20.conf"}, {"25.conf", "/run/25.conf"}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(failed) != 1 || failed[0].Path != "/file" || failed[0].Err == nil {
		t.Errorf("failed: %+v", failed)
	}
}
