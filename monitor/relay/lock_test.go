package relay

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("a second lock gives %v, want ErrLocked", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// A child that another test forks has the file, too, until it execs.
	eventually(t, "the lock is free after its end", func() bool { f, err = Lock(dir); return err == nil })
	_ = f.Close()
	if _, err := Lock(filepath.Join(dir, "missing")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("without a folder: %v", err)
	}
}

// What root wrote by hand, the service's user can read.
func TestStateBelongsToItsFolder(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // only root gives files away
		uid, gid = 1234, 2345
	}
	old := syscall.Umask(0o077) // of the process: no t.Parallel
	defer syscall.Umask(old)
	dir := t.TempDir()
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	// A file that a former version left behind is mended.
	if err := os.WriteFile(filepath.Join(dir, epochFile), []byte("7"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := NextEpoch(dir); n != 8 || err != nil {
		t.Fatalf("epoch %d, %v", n, err)
	}
	for _, name := range []string{epochFile, lockFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		is := info.Sys().(*syscall.Stat_t)
		if info.Mode() != 0o644 || int(is.Uid) != uid || int(is.Gid) != gid {
			t.Errorf("%s is %v of %d:%d, want -rw-r--r-- of %d:%d", name, info.Mode(), is.Uid, is.Gid, uid, gid)
		}
	}
	// One that is there stays as it is.
	path := filepath.Join(dir, lockFile)
	if err := errors.Join(f.Close(), os.Chown(path, os.Getuid(), os.Getgid()), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	if f, err = Lock(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Mode() != 0o640 || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
		t.Errorf("the lock that was there became %v, %v", info.Mode(), err)
	}
}
