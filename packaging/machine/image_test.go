package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRemoveOld(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	old := time.Now().Add(-imageKept - time.Hour)
	for name, at := range map[string]time.Time{
		"trixie-0": old, "trixie-1": time.Now(), "trixie-2": old, "bookworm-0": old, "trixie.lock": old,
	} {
		dir := filepath.Join(cache, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	touch(filepath.Join(cache, "trixie-2"))
	removeOld(cache, Trixie, io.Discard)
	for name, want := range map[string]bool{
		"trixie-0": false, "trixie-1": true, "trixie-2": true, "bookworm-0": true, "trixie.lock": true,
	} {
		if _, err := os.Stat(filepath.Join(cache, name)); (err == nil) != want {
			t.Errorf("%s: kept is %t, want %t", name, err == nil, want)
		}
	}
}

// TestRunQuietly: what a failing program printed is part of the error.
func TestRunQuietly(t *testing.T) {
	t.Parallel()
	err := runQuietly(within(t), io.Discard, "sh", "-c", "echo why >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "why") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got error %v", err)
	}
	err = runQuietly(within(t), io.Discard, "no-such-program")
	if err == nil || !strings.Contains(err.Error(), "install-dependencies") {
		t.Errorf("a missing program: got error %v", err)
	}
}

func TestRunQuietlyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if err := runQuietly(ctx, io.Discard, "sleep", "60"); !errors.Is(err, stop) {
		t.Errorf("got error %v", err)
	}
	later, cancelLater := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, stop)
	defer cancelLater()
	if err := runQuietly(later, io.Discard, "sleep", "60"); !errors.Is(err, stop) {
		t.Errorf("while it runs: got error %v", err)
	}
}

func TestNewFolderSweeps(t *testing.T) {
	left := filepath.Join(t.TempDir(), folderPrefix+"left")
	t.Setenv("TMPDIR", filepath.Dir(left))
	fresh := filepath.Join(filepath.Dir(left), folderPrefix+"fresh")
	for _, dir := range []string{left, fresh} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	used, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{left, used.path} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	second, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{left: false, fresh: true, used.path: true, second.path: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: kept is %t, want %t", dir, err == nil, want)
		}
	}
	for _, f := range []*folder{used, second} {
		if err := f.remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(f.path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", f.path, err)
		}
	}
}
