package resources

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Services returns the names of the services that have a control group in the
// slice, such as "gpuherd.slice", or in a slice below it, sorted: those that
// run. There is none where there is no such slice. The error says which folder
// could not be read.
func Services(root, slice string) ([]string, error) {
	for _, version := range [][]hierarchy{unified, legacy} {
		var found []string
		exists := false
		for _, h := range version {
			dir := filepath.Join(root, h.mount, slice)
			if _, err := os.Stat(filepath.Join(dir, h.proof)); err != nil {
				if missing(err) {
					continue
				}
				return nil, err
			}
			exists = true
			in, err := servicesIn(dir)
			if err != nil {
				return nil, err
			}
			found = append(found, in...)
		}
		if exists { // as a group is opened: v1 has what v2 does not
			slices.Sort(found)
			return slices.Compact(found), nil
		}
	}
	return nil, nil
}

// servicesIn returns the services with a folder in dir, or in a slice's folder
// there. What a service keeps below its own group is its own.
func servicesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) { // its last unit has ended just now
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		switch name := entry.Name(); path.Ext(name) {
		case ".service":
			// systemd escapes the name of memory.service, for one, since the kernel's files have such names.
			found = append(found, strings.TrimPrefix(name, "_"))
		case ".slice":
			in, err := servicesIn(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			found = append(found, in...)
		}
	}
	return found, nil
}
