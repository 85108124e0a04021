// Package rootfs reads small files that operators and the kernel wrote, below
// a root that is "/" on a live machine and any folder in a test or under
// --root. It never blocks on a FIFO, never opens a device, follows absolute
// symbolic links inside the root, and refuses what is too large.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// MaxFile is the size above which a configuration file is refused, in bytes.
const MaxFile = 1 << 20

// ErrMasked is returned for a symbolic link to /dev/null, by which systemd's
// configuration folders switch off a file of lower precedence.
var ErrMasked = errors.New("masked by a link to /dev/null")

// maxLinks is the kernel's own limit on a chain of symbolic links.
const maxLinks = 40

// Path returns where the absolute path name lies below root.
func Path(root, name string) string {
	if root == "" || root == "/" {
		return name
	}
	return filepath.Join(root, name)
}

// ReadFile returns the content of the regular file name (an absolute path)
// below root. It returns ErrMasked for a link to /dev/null, an error that
// matches fs.ErrNotExist where there is none, and an error that says what is
// wrong for everything else that is no readable regular file of at most limit
// bytes.
func ReadFile(root, name string, limit int64) ([]byte, error) {
	for range maxLinks {
		info, err := os.Lstat(Path(root, name))
		if err != nil {
			return nil, cause(err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(Path(root, name))
			if err != nil {
				return nil, cause(err)
			}
			if target == os.DevNull {
				return nil, ErrMasked
			}
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(name), target)
			}
			// Clean of an absolute path cannot climb above the root.
			name = path.Clean(target)
			continue
		}
		return readRegular(Path(root, name), info, limit)
	}
	return nil, errors.New("too many levels of symbolic links")
}

func readRegular(file string, info fs.FileInfo, limit int64) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return nil, errors.New(kind(info.Mode()))
	}
	// O_NONBLOCK and O_NOFOLLOW: the file may have been exchanged since Lstat.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	if info, err = f.Stat(); err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New(kind(info.Mode()))
	}
	if info.Size() > limit {
		return nil, tooLarge(limit)
	}
	// Files of procfs say size 0, so the limit is checked while reading too.
	data := make([]byte, 0, max(info.Size()+1, 512))
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, tooLarge(limit)
		}
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, cause(err)
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
	}
}

func tooLarge(limit int64) error {
	return fmt.Errorf("larger than %d bytes", limit)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory, not a file"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO, not a file"
	case m&fs.ModeSocket != 0:
		return "a socket, not a file"
	case m&fs.ModeDevice != 0:
		return "a device, not a file"
	}
	return "not a regular file"
}

// cause strips the path from err: messages name the file already, as it is
// called inside the root.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// A Dir is one folder that was looked into.
type Dir struct {
	Path string // absolute, inside the root
	Err  error  // why it could not be listed; a missing folder is no error
}

// A Found file is one that holds after the folders' precedence.
type Found struct {
	Name string // base name
	Path string // absolute, inside the root
}

// Stacked lists the entries of dirs whose names end in suffix, hidden ones
// left out: of equal names the one in the earlier folder holds, as in
// systemd's configuration folders. The result is sorted by name over all
// folders. Folders that exist but cannot be listed are returned as well.
func Stacked(root, suffix string, dirs ...string) (found []Found, failed []Dir) {
	seen := map[string]bool{}
	for _, dir := range dirs {
		names, err := Names(root, dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				failed = append(failed, Dir{Path: dir, Err: err})
			}
			continue
		}
		for _, name := range names {
			if seen[name] || strings.HasPrefix(name, ".") || !strings.HasSuffix(name, suffix) {
				continue
			}
			seen[name] = true
			found = append(found, Found{Name: name, Path: path.Join(dir, name)})
		}
	}
	slices.SortFunc(found, func(a, b Found) int { return strings.Compare(a.Name, b.Name) })
	return found, failed
}

// Names lists what is in the folder dir (an absolute path) below root, in no
// order. The error matches fs.ErrNotExist where there is no such folder.
func Names(root, dir string) ([]string, error) {
	// Stat first: opening a FIFO that stands where a folder should would block.
	file := Path(root, dir)
	info, err := os.Stat(file)
	if err != nil {
		return nil, cause(err)
	}
	if !info.IsDir() {
		return nil, syscall.ENOTDIR
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, cause(err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	names, err := f.Readdirnames(-1)
	return names, cause(err)
}
