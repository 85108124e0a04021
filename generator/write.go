package generator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// ErrDeadline is returned by a Writer that ran out of time; nothing was left
// behind.
var ErrDeadline = errors.New("out of time")

// Write puts the units into the folder dir, which must exist. Each file
// appears under its name only when it is whole. Write never leaves dir, even
// where symbolic links in it point elsewhere.
func (r *Result) Write(dir string) error {
	return r.WriteUntil(dir, nil)
}

// WriteUntil is Write, but stops when expired says so, removes what it wrote
// and returns ErrDeadline. A nil expired never does.
func (r *Result) WriteUntil(dir string, expired func() bool) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot write units: %w", err)
	}
	defer func() { _ = root.Close() }() // a folder has nothing to flush
	w := writer{root: root, made: map[string]bool{}}
	defer func() {
		w.leave()
		if err != nil {
			w.undo()
			err = fmt.Errorf("cannot write units to %s: %w", dir, err)
		}
	}()
	late := func() bool { return expired != nil && expired() }
	for _, f := range r.Plan.Files {
		if late() {
			return ErrDeadline
		}
		if w.text, err = f.Unit.Append(w.text[:0]); err != nil {
			return err
		}
		if err := w.file(f.Path, w.text); err != nil {
			return err
		}
	}
	for _, l := range r.Plan.Links {
		if late() {
			return ErrDeadline
		}
		if err := w.link(l.Path, l.Target); err != nil {
			return err
		}
	}
	return nil
}

type writer struct {
	root  *os.Root
	made  map[string]bool // folders that exist
	wrote []string        // what undo removes
	text  []byte          // one file after the other, in the same memory

	// The folder that was written into last stays open: what lies in one
	// folder is written in a row, and hundreds of folders are walked to
	// once each instead of at every step.
	name   string
	folder *os.Root
}

// temporary is a name that systemd does not read: it is hidden.
func temporary(base string) string { return ".gpuherd-" + base }

func (w *writer) file(name string, data []byte) error {
	dir, err := w.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	tmp := temporary(base)
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		// Left by a run that was killed.
		if err = dir.Remove(tmp); err == nil {
			f, err = dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = dir.Rename(tmp, base)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(tmp))
	}
	w.wrote = append(w.wrote, name)
	return nil
}

func (w *writer) link(name, target string) error {
	dir, err := w.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	err = dir.Symlink(target, base)
	if errors.Is(err, fs.ErrExist) {
		if old, rerr := dir.Readlink(base); rerr == nil && old == target {
			return nil
		}
		tmp := temporary(base)
		if err = dir.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err = dir.Symlink(target, tmp); err == nil {
			err = dir.Rename(tmp, base)
		}
	}
	if err != nil {
		return err
	}
	w.wrote = append(w.wrote, name)
	return nil
}

// enter returns the folder of that name, and makes it where it is missing.
func (w *writer) enter(name string) (*os.Root, error) {
	switch name {
	case ".":
		return w.root, nil
	case w.name:
		return w.folder, nil
	}
	if err := w.dir(name); err != nil {
		return nil, err
	}
	folder, err := w.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	w.leave()
	w.name, w.folder = name, folder
	return folder, nil
}

// leave closes the folder that was written into last.
func (w *writer) leave() {
	if w.folder != nil {
		_ = w.folder.Close() // a folder has nothing to flush
	}
	w.name, w.folder = "", nil
}

func (w *writer) dir(name string) error {
	if name == "." || w.made[name] {
		return nil
	}
	if strings.Contains(name, "/") {
		if err := w.dir(path.Dir(name)); err != nil {
			return err
		}
	}
	if err := w.root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	w.made[name] = true
	return nil
}

// undo removes what was written; folders stay where others use them too.
func (w *writer) undo() {
	for _, name := range w.wrote {
		_ = w.root.Remove(name)
	}
	for name := range w.made {
		_ = w.root.Remove(name) // fails unless empty
	}
}

// Files returns what Write would write, by path below the folder; a link has
// "-> " and its target for content.
func (r *Result) Files() (map[string]string, error) {
	files := make(map[string]string, len(r.Plan.Files)+len(r.Plan.Links))
	for _, f := range r.Plan.Files {
		data, err := f.Unit.Bytes()
		if err != nil {
			return nil, err
		}
		files[f.Path] = string(data)
	}
	for _, l := range r.Plan.Links {
		files[l.Path] = "-> " + l.Target
	}
	return files, nil
}
