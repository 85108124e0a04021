package unitfile

import "slices"

// Entries returns every entry of every section of that name, in order.
func (f *File) Entries(section string) []Entry {
	var all []Entry
	for _, s := range f.Sections {
		if s.Name == section {
			all = append(all, s.Entries...)
		}
	}
	return all
}

// Values returns the assignments of key that count where the key makes a list:
// those after the last empty one, which resets the list (systemd.syntax(7)).
func (f *File) Values(section, key string) []Entry {
	var list []Entry
	for _, e := range f.Entries(section) {
		switch {
		case e.Key != key:
		case e.Value == "":
			list = nil
		default:
			list = append(list, e)
		}
	}
	return list
}

// Last returns the last assignment of key, the one that counts where the key
// takes one value. An empty assignment counts: it is returned with ok true.
func (f *File) Last(section, key string) (e Entry, ok bool) {
	for _, e := range slices.Backward(f.Entries(section)) {
		if e.Key == key {
			return e, true
		}
	}
	return Entry{}, false
}

// Has reports whether the file has a section of that name, even an empty one.
func (f *File) Has(section string) bool {
	return slices.ContainsFunc(f.Sections, func(s *Section) bool { return s.Name == section })
}

// Merge returns base with its drop-ins behind it, in the order given: what
// systemd sees as one unit. Entries keep the file and line they came from; the
// result shares nothing with what it was made of.
func Merge(base *File, dropins ...*File) *File {
	m := &File{Name: base.Name, Header: slices.Clone(base.Header)}
	for _, f := range append([]*File{base}, dropins...) {
		for _, s := range f.Sections {
			m.Sections = append(m.Sections, &Section{Name: s.Name, Line: s.Line, Entries: slices.Clone(s.Entries)})
		}
	}
	return m
}

// Add appends an assignment to the last section of that name, and makes the
// section at the end of the file where there is none. What cannot be written
// is refused by Bytes.
func (f *File) Add(section, key, value string) {
	e := Entry{Key: key, Value: value, File: f.Name}
	for _, s := range slices.Backward(f.Sections) {
		if s.Name == section {
			s.Entries = append(s.Entries, e)
			return
		}
	}
	f.Sections = append(f.Sections, &Section{Name: section, Entries: append(make([]Entry, 0, 16), e)})
}
