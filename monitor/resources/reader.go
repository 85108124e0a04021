package resources

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// bufSize is more than any of these files has: the kernel hands each out in
// one read.
const bufSize = 4096

// A reader reads control groups. Doing so every few seconds is most of what an
// idle monitor does, so it keeps the files open: then each costs one system
// call, where opening and closing it anew costs two more, dearer ones.
type reader struct {
	root     string
	versions versions
	all      bool // read every file, and not just the live ones
	buf      []byte
	most     int               // groups to keep open
	kept     map[string]*group // by control group
}

// newReader returns a reader that keeps so many groups open.
func newReader(root string, most int) *reader {
	return &reader{root: root, versions: whole, buf: make([]byte, bufSize), most: most, kept: map[string]*group{}}
}

// affordable returns how many groups can stay open with half of the files that
// this process may have open.
func affordable() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	each := 0
	for _, version := range [][]hierarchy{whole.unified, whole.legacy} {
		files := 0
		for _, h := range version {
			files += 1 + len(h.files)
		}
		each = max(each, files)
	}
	return int(min(limit.Cur, 1<<20)) / 2 / each
}

// usage reads a control group: of v2, or of v1 where v2 does not have it, since
// systemd's hybrid form has the controllers in v1.
func (r *reader) usage(controlGroup string) (Usage, error) {
	if controlGroup == "" {
		return Usage{}, fmt.Errorf("%w: the unit has no control group now", ErrNotAvailable)
	}
	if controlGroup[0] != '/' || strings.Contains(controlGroup+"/", "/../") {
		return Usage{}, fmt.Errorf("%w: control group %q", ErrNotAvailable, controlGroup)
	}
	if g := r.kept[controlGroup]; g != nil {
		u, err := g.read(r.buf, r.all)
		if err == nil {
			return u, nil
		}
		r.drop(controlGroup)
		if !errors.Is(err, unix.ENODEV) {
			return Usage{}, err
		}
		// It was removed; there may be a new one of the same name.
	}
	g, err := r.open(controlGroup)
	if err != nil {
		return Usage{}, err
	}
	u, err := g.read(r.buf, r.all)
	if err != nil || len(r.kept) >= r.most {
		g.close()
	} else {
		r.kept[controlGroup] = g
	}
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: %s was removed just now", ErrNotAvailable, controlGroup)
	}
	return u, err
}

// only forgets groups that are not asked for any more.
func (r *reader) only(groups map[string]bool) {
	for name := range r.kept {
		if !groups[name] {
			r.drop(name)
		}
	}
}

func (r *reader) close() { r.only(nil) }

func (r *reader) drop(controlGroup string) {
	r.kept[controlGroup].close()
	delete(r.kept, controlGroup)
}

// open opens a control group. The error is ErrNotAvailable where there is none.
func (r *reader) open(controlGroup string) (*group, error) {
	g := &group{usage: Usage{Version: V2}}
	if err := g.open(r.root, r.versions.unified, controlGroup); err != nil || len(g.folders) > 0 {
		return g, err
	}
	// A host with v2 alone has no hierarchies to search in.
	g.usage.Version = V1
	if err := g.open(r.root, r.versions.legacy, controlGroup); err != nil || len(g.folders) > 0 {
		return g, err
	}
	return nil, fmt.Errorf("%w: there is no control group %s", ErrNotAvailable, controlGroup)
}

// A group is an open control group, in all its hierarchies that have it.
type group struct {
	folders []folder
	usage   Usage // what was read last
}

type folder struct {
	path  string
	fd    int
	files []file
	open  []int // file descriptors of files; −1: not there
	reads int   // how often it was read
}

// lookAgain is how many times a group is read until all its files are, and
// those that it lacked are looked for.
const lookAgain = 12

// open opens the group in those of hierarchies that have it.
func (g *group) open(root string, hierarchies []hierarchy, controlGroup string) error {
	for _, h := range hierarchies {
		path := filepath.Join(root, h.mount, controlGroup)
		fd, err := openat(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY)
		if missing(err) {
			continue
		}
		if err == nil && h.proof != "" {
			var stat unix.Stat_t
			if err = unix.Fstatat(fd, h.proof, &stat, 0); err != nil {
				_ = unix.Close(fd)
			}
			if missing(err) {
				continue
			}
		}
		if err != nil {
			g.close()
			return fmt.Errorf("cannot read control group %s: %w", path, err)
		}
		f := folder{path: path, fd: fd, files: h.files, open: make([]int, len(h.files))}
		for i := range f.open {
			f.open[i] = -1
		}
		g.folders = append(g.folders, f)
	}
	return nil
}

func (g *group) close() {
	for _, f := range g.folders {
		for _, fd := range f.open {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
		_ = unix.Close(f.fd)
	}
	g.folders = nil
}

// read reads the live files, or all. The error is ENODEV where the group was
// removed.
func (g *group) read(buf []byte, all bool) (Usage, error) {
	u := &g.usage
	for i := range g.folders {
		if err := g.folders[i].read(buf, u, all); err != nil {
			return Usage{}, err
		}
	}
	// What was read last of the peak may be older than the figure.
	if u.MemoryPeakBytes != nil && u.MemoryBytes != nil && *u.MemoryPeakBytes < *u.MemoryBytes {
		u.MemoryPeakBytes = u.MemoryBytes
	}
	return *u, nil
}

func (f *folder) read(buf []byte, u *Usage, all bool) error {
	look := f.reads%lookAgain == 0
	f.reads++
	for i, file := range f.files {
		if f.open[i] < 0 && !look || !file.live && !all && !look {
			continue
		}
		n, err := f.pread(i, buf)
		if missing(err) {
			continue
		}
		if err == nil {
			err = file.take(u, buf[:n])
		}
		if err != nil {
			return fmt.Errorf("cannot read %s/%s: %w", f.path, file.name, err)
		}
	}
	return nil
}

// pread reads a file, and opens it before where it was not there: a controller
// may be switched on later.
func (f *folder) pread(i int, buf []byte) (int, error) {
	if f.open[i] < 0 {
		fd, err := openat(f.fd, f.files[i].name, unix.O_RDONLY)
		if err != nil {
			return 0, err
		}
		f.open[i] = fd
	}
	for {
		n, err := unix.Pread(f.open[i], buf, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func openat(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// missing reports whether a file is not there. A kernel that was told psi=0
// answers EOPNOTSUPP in the place of pressure.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EOPNOTSUPP)
}
