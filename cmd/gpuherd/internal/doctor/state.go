package doctor

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

const (
	// stateDir is the monitor's, and the workers' files are below it.
	stateDir    = "/var/lib/gpuherd"
	monitorUser = "gpuherd"
	// lowSpace is what the monitor alone needs, many times over, in bytes: a job
	// takes that at once.
	lowSpace = 16 << 20
)

// State says whether the monitor can write to its folder, and jobs to the one
// below it. The monitor runs on without, and says so in the journal alone.
func State(root string) Finding {
	const check = "state"
	info, err := os.Stat(rootfs.Path(root, stateDir))
	var disk unix.Statfs_t
	if err == nil {
		err = unix.Statfs(rootfs.Path(root, stateDir), &disk)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found(check, Warning, "systemctl restart gpuherd-monitor makes it", "there is no %s: the monitor has not run here", stateDir)
	case err != nil:
		return found(check, Skipped, "", "cannot look at %s: %v", stateDir, err)
	}
	room := space(disk)
	if room.Verdict == Problem {
		return room
	}
	const mend = "systemctl restart gpuherd-monitor gives it back"
	owner, ok := info.Sys().(*syscall.Stat_t)
	if uid, known := userID(root, monitorUser); ok && known && owner.Uid != uid {
		return found(check, Problem, mend, "%s belongs to the user with ID %d and not to %s: %s", stateDir, owner.Uid, monitorUser, forgets)
	}
	if info.Mode().Perm()&0o300 != 0o300 {
		return found(check, Problem, mend, "%s has the mode %#o: %s", stateDir, info.Mode().Perm(), forgets)
	}
	return room
}

// forgets is what becomes of it when the monitor cannot write.
const forgets = "the monitor runs on, and the next one knows what it missed only if Redis does"

// space judges the file system that the state is on.
func space(disk unix.Statfs_t) Finding {
	const (
		check = "state"
		mend  = "make room: df -h " + stateDir + ", then du -xh -d1 " + stateDir + "/shared, where jobs write"
	)
	switch free := disk.Bavail * uint64(disk.Bsize); {
	case disk.Flags&unix.ST_RDONLY != 0:
		return found(check, Problem, "journalctl -k tells why, if the kernel did that; mount -o remount,rw makes it writable", "%s is mounted read-only: %s", stateDir, forgets)
	case free == 0:
		return found(check, Problem, mend, "%s is full: %s; jobs cannot write there either", stateDir, forgets)
	case disk.Files > 0 && disk.Ffree == 0: // some file systems do not count them
		return found(check, Problem, "take files away that are not needed: find "+stateDir+"/shared -xdev -type f", "%s has no inode left for another file: %s", stateDir, forgets)
	case free < lowSpace:
		return found(check, Warning, mend, "%s left in %s", unitfile.FormatSize(free), stateDir)
	default:
		return found(check, OK, "", "%s can be written to, %s left", stateDir, unitfile.FormatSize(free))
	}
}

// userID returns the ID of a user in the passwd file below root.
func userID(root, name string) (uid uint32, ok bool) {
	data, err := rootfs.ReadFile(root, "/etc/passwd", rootfs.MaxFile)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 && f[0] == name {
			n, err := strconv.ParseUint(f[2], 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}
