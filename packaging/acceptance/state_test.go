//go:build acceptance

package acceptance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A monitor whose folder is full runs on, Redis has its epoch rise all the
// same, and gpuherd doctor says what is wrong and what mends it.
func TestStateFull(t *testing.T) {
	h := open(t)
	const dir = "/var/lib/gpuherd"
	old, err := h.redis.heartbeat()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The monitor has its lock open there.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		h.restart(monitorUnit)
	})
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 65<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%s does not get full: %v", dir, err)
	}
	since := time.Now()
	h.restart(monitorUnit)
	h.healthy()
	eventually(t, "the next epoch", func() error {
		beat, err := h.redis.heartbeat()
		if err == nil && beat.Epoch != old.Epoch+1 {
			err = fmt.Errorf("epoch is %d, was %d", beat.Epoch, old.Epoch)
		}
		return err
	})
	eventually(t, "the journal tells it", func() error {
		journal, _, _ := run(t, "journalctl", "--unit="+monitorUnit, "--output=cat", "--no-pager", fmt.Sprintf("--since=@%d", since.Unix()))
		if !strings.Contains(journal, "the epoch is not kept") {
			return fmt.Errorf("it says\n%s", journal)
		}
		return nil
	})
	said, stderr, status := run(t, "gpuherd", "doctor")
	if status != 1 || stderr != "" || !strings.Contains(said, dir+" is full") || !strings.Contains(said, "→ make room: df -h "+dir) {
		t.Errorf("gpuherd doctor ended with %d:\n%s%s", status, said, stderr)
	}
}
