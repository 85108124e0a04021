package preflight

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"gpuherd/generator/rootfs"
)

// NotExecutable says why a program, by its absolute path inside root, cannot be
// executed, and what mends it; nothing where it can. The error is that it
// cannot be looked at.
func NotExecutable(root, program string) (why, mend string, err error) {
	info, err := stat(root, program)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist", "put it there or correct the path", nil
	case err != nil:
		return "", "", err
	case !info.Mode().IsRegular():
		return "is no file", "write the path of a program", nil
	case info.Mode().Perm()&0o111 == 0:
		return "is not executable", "chmod a+x " + program, nil
	}
	// A script without its interpreter does not exist to execve(2): so ends the
	// Python environment that was moved.
	if name := interpreter(root, program); path.IsAbs(name) && isSystem(root) {
		if _, err := stat(root, name); errors.Is(err, fs.ErrNotExist) {
			return "is a script for " + name + ", which does not exist", "install that or correct the script's first line", nil
		}
	}
	return "", "", nil
}

// stat follows links, inside the root; from a link that leads out of it comes
// an error that is not fs.ErrNotExist.
func stat(root, name string) (fs.FileInfo, error) {
	if root == "/" {
		info, err := os.Stat(name)
		return info, cause(err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, cause(err)
	}
	defer r.Close() //nolint:errcheck // nothing was written
	info, err := r.Stat(strings.TrimPrefix(path.Clean(name), "/"))
	return info, cause(err)
}

// cause takes the path, which messages name already, from err.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// interpreter returns the program that a script names in its first line, or
// nothing.
func interpreter(root, script string) string {
	f, err := os.Open(rootfs.Path(root, script))
	if err != nil {
		return ""
	}
	defer f.Close()           //nolint:errcheck // nothing was written
	head := make([]byte, 256) // of more the kernel takes no notice
	n, _ := f.Read(head)
	line, isScript := bytes.CutPrefix(head[:n], []byte("#!"))
	line, _, whole := bytes.Cut(line, []byte("\n"))
	if words := strings.Fields(string(line)); isScript && whole && len(words) > 0 {
		return words[0]
	}
	return ""
}
