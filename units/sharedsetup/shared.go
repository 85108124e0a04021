package sharedsetup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"gpuherd/generator/rootfs"
)

const (
	stateDir   = "/var/lib/gpuherd"
	sharedName = "shared" // stateDir/shared: the workers' home
	workerUser = "gpuherd-worker"
)

// makeShared makes the workers' shared folder, owned by their user where there
// is one. What an operator changed about it later is left alone.
//
// Its parent belongs to the monitor's user, who must not be able to point root
// elsewhere by a symbolic link: everything below is done inside an os.Root, on
// an open folder.
func (s *Setup) makeShared() error {
	const name = stateDir + "/" + sharedName
	if err := os.MkdirAll(s.path(stateDir), 0o755); err != nil {
		return fmt.Errorf("cannot make %s: %w", stateDir, err)
	}
	root, err := os.OpenRoot(s.path(stateDir))
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", stateDir, err)
	}
	defer root.Close()
	if err := root.Mkdir(sharedName, 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	uid, gid, ok := s.lookupUser(workerUser)
	if !ok {
		s.Log.Warn("no user " + workerUser + ": " + name + " stays root's")
		return nil
	}
	dir, err := root.OpenFile(sharedName, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", name, err)
	}
	defer dir.Close()
	if err := dir.Chown(uid, gid); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", name, workerUser, err)
	}
	return nil
}

// lookupUser reads the root's own /etc/passwd, where sysusers.d puts our
// users: no name service is up this early.
func (s *Setup) lookupUser(name string) (uid, gid int, ok bool) {
	data, err := rootfs.ReadFile(s.Root, "/etc/passwd", 16<<20)
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != name {
			continue
		}
		uid, uerr := strconv.Atoi(f[2])
		gid, gerr := strconv.Atoi(f[3])
		return uid, gid, uerr == nil && gerr == nil
	}
	return 0, 0, false
}
