package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpace(t *testing.T) {
	t.Parallel()
	const gigabyte = (1 << 30) / 4096 // blocks
	tests := map[string]struct {
		disk          unix.Statfs_t
		verdict, says string
	}{
		"room":            {unix.Statfs_t{Bavail: gigabyte, Files: 10, Ffree: 9}, OK, "can be written to, 1G left"},
		"inodes unknown":  {unix.Statfs_t{Bavail: gigabyte}, OK, "1G left"},
		"little":          {unix.Statfs_t{Bavail: 2048, Files: 10, Ffree: 9}, Warning, "8M left in /var/lib/gpuherd"},
		"full":            {unix.Statfs_t{Files: 10, Ffree: 9}, Problem, "/var/lib/gpuherd is full: the monitor runs on"},
		"root's own room": {unix.Statfs_t{Bfree: gigabyte}, Problem, "is full"},
		"no inode":        {unix.Statfs_t{Bavail: gigabyte, Files: 10}, Problem, "no inode left"},
		"read-only":       {unix.Statfs_t{Bavail: gigabyte, Flags: unix.ST_RDONLY}, Problem, "mounted read-only"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.disk.Bsize = 4096
			tells(t, []Finding{space(tt.disk)}, "state", tt.verdict, tt.says)
		})
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	me := fmt.Sprintf("gpuherd:x:%d:1::/:/bin/sh\n", os.Getuid())
	another := fmt.Sprintf("gpuherd:x:%d:1::/:/bin/sh\n", os.Getuid()+1)
	tells(t, []Finding{State(t.TempDir())}, "state", Warning, "there is no /var/lib/gpuherd")
	root := tree(t, map[string]string{"etc/passwd": another, "var/lib/gpuherd/": ""})
	tells(t, []Finding{State(root)}, "state", Problem, fmt.Sprintf("belongs to the user with ID %d and not to gpuherd", os.Getuid()))

	root = tree(t, map[string]string{"etc/passwd": me, "var/lib/gpuherd/": ""})
	if f := State(root); f.Verdict == Problem { // the tester's disk may have little room
		t.Errorf("%+v", f)
	}
	dir := filepath.Join(root, stateDir)
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	tells(t, []Finding{State(root)}, "state", Problem, "has the mode 0555")
}

// A real file system that is full, and one that is read-only, in a mount
// namespace of this thread, which ends with it.
func TestStateMounted(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{"var/lib/gpuherd/": ""})
	dir := filepath.Join(root, stateDir)
	var room, full, readOnly Finding
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: it is of no more use to others
		done <- func() error {
			if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
				return err
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
				return err
			}
			room = State(root)
			file := filepath.Join(dir, "filler")
			if err := os.WriteFile(file, make([]byte, 33<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("it does not get full: %w", err)
			}
			full = State(root)
			if err := errors.Join(os.Remove(file), unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
				return err
			}
			readOnly = State(root)
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("only root mounts file systems: %v", err)
	}
	tells(t, []Finding{room}, "state", OK, "32M left")
	tells(t, []Finding{full}, "state", Problem, "/var/lib/gpuherd is full")
	tells(t, []Finding{readOnly}, "state", Problem, "mounted read-only")
}
