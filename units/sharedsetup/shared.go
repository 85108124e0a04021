package sharedsetup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gpuherd/generator/rootfs"
)

const (
	stateDir   = "/var/lib/gpuherd"
	sharedName = "shared" // stateDir/shared: the workers' home
	workerUser = "gpuherd-worker"

	monitorUser = "gpuherd"
)

// makeShared makes the workers' shared folder and gives it to their user. A
// folder that an operator gave to somebody else is left alone.
//
// The parent goes to the monitor's user, whose StateDirectory= it is: with
// another owner systemd would hand everything in it to the monitor when that
// starts (systemd.exec(5)). Since that user could then point root elsewhere by
// a symbolic link, the rest is done inside an os.Root, on open folders.
func (s *Setup) makeShared() error {
	const name = stateDir + "/" + sharedName
	if err := os.MkdirAll(s.path(stateDir), 0o755); err != nil {
		return fmt.Errorf("cannot make %s: %w", stateDir, err)
	}
	root, err := os.OpenRoot(s.path(stateDir))
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", stateDir, err)
	}
	defer func() { _ = root.Close() }()
	if err := root.Mkdir(sharedName, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	monitor, ok := s.lookupUser(monitorUser)
	if !ok {
		s.Log.Warn("no user " + monitorUser + " (systemd-sysusers makes it): " + stateDir + " stays as it is")
	} else if err := give(root, ".", monitor, 0); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", stateDir, monitorUser, err)
	}
	worker, ok := s.lookupUser(workerUser)
	if !ok {
		s.Log.Warn("no user " + workerUser + " (systemd-sysusers makes it): " + name + " stays as it is")
	} else if err := give(root, sharedName, worker, 0, monitor.uid); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", name, workerUser, err)
	}
	return nil
}

// makeRequestDir makes the folder in which the monitor and udev ask for a
// rescan: the monitor's group may write to it.
func (s *Setup) makeRequestDir() error {
	if err := s.makeDir(requestDir, 0o770); err != nil {
		return err
	}
	monitor, ok := s.lookupUser(monitorUser)
	if !ok || os.Geteuid() != 0 {
		return nil // no monitor that could ask
	}
	if err := os.Lchown(s.path(requestDir), 0, monitor.gid); err != nil {
		return fmt.Errorf("cannot give %s to the group of %s: %w", requestDir, monitorUser, err)
	}
	return nil
}

// give changes the owner of a folder that belongs to one of from.
func give(root *os.Root, name string, to user, from ...int) error {
	dir, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == to.uid || !slices.Contains(from, int(st.Uid)) {
		return nil
	}
	return dir.Chown(to.uid, to.gid)
}

type user struct{ uid, gid int }

// lookupUser reads the root's own /etc/passwd, where sysusers.d puts our
// users: no name service is up this early.
func (s *Setup) lookupUser(name string) (u user, ok bool) {
	data, err := rootfs.ReadFile(s.Root, "/etc/passwd", 16<<20)
	if err != nil {
		return u, false
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != name {
			continue
		}
		uid, uerr := strconv.Atoi(f[2])
		gid, gerr := strconv.Atoi(f[3])
		return user{uid, gid}, uerr == nil && gerr == nil
	}
	return u, false
}
