// Package dropin keeps what the command line sets of a service, in one small
// drop-in of gpuherd.conf a service, which the operator can read and remove.
package dropin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"gpuherd/generator/config"
	"gpuherd/generator/rootfs"
	"gpuherd/generator/unitfile"
)

// header is the first line, by which a file is known as ours.
const header = "# Written by gpuherd"

const comment = header + `: scale, enable, disable, delete and save set what stands here.
# To undo all of it, remove this file and run systemctl daemon-reload.
`

// A File is the drop-in of one service. It exists where it has any key.
type File struct {
	root, service string
	before        []byte // nil: there was none
	keys          map[string][]string
}

// Path returns the file of a service, inside the root.
func Path(service string) string {
	return config.DropInDirs()[0] + "/90-" + service + ".conf"
}

// Open reads the file of a service below root. One that somebody else wrote is
// an error: it is the operator's.
func Open(root, service string) (*File, error) {
	f := &File{root: root, service: service, keys: map[string][]string{}}
	data, err := rootfs.ReadFile(root, f.Path(), rootfs.MaxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", f.Path(), err)
	case !strings.HasPrefix(string(data), header):
		return nil, fmt.Errorf("%s was not written by gpuherd; set it there, or give the file another name", f.Path())
	}
	f.before = data
	parsed, problems := unitfile.Parse(f.Path(), data)
	if problems.Failed() {
		return nil, problems[0]
	}
	for _, e := range parsed.Entries(f.section()) {
		f.keys[e.Key] = append(f.keys[e.Key], e.Value)
	}
	return f, nil
}

// Path returns where the file is, inside the root.
func (f *File) Path() string { return Path(f.service) }

func (f *File) section() string { return "Service " + f.service }

// Set has the key assigned these values, one a line; none takes it out.
func (f *File) Set(key string, values ...string) {
	if len(values) == 0 {
		delete(f.keys, key)
		return
	}
	f.keys[key] = values
}

// order is that of the keys in the file.
var order = []string{"Enabled", "Instances", "Stopped"}

// Write puts the file in its place at once, or takes it away where no key is
// left.
func (f *File) Write() error {
	var b strings.Builder
	for _, key := range order {
		for _, value := range f.keys[key] {
			fmt.Fprintf(&b, "%s=%s\n", key, value)
		}
	}
	if b.Len() == 0 {
		return f.put(nil)
	}
	return f.put([]byte(comment + "[" + f.section() + "]\n" + b.String()))
}

// Restore puts back what was there when the file was opened.
func (f *File) Restore() error { return f.put(f.before) }

func (f *File) put(data []byte) error {
	file := rootfs.Path(f.root, f.Path())
	if data == nil {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove %s: %w", f.Path(), cause(err))
		}
		return nil
	}
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = renameio.WriteFile(file, data, 0o644, renameio.IgnoreUmask())
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", f.Path(), cause(err))
	}
	return nil
}

// cause takes the name of a temporary file out of err.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
