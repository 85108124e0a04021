// Package unitfile reads and writes systemd's unit-file language, which is
// also the language of gpuherd.conf and of gpuherd's service files.
//
// The grammar is that of systemd.syntax(7): sections, Key=Value entries,
// comments, continuation lines, repeated keys, and the empty assignment that
// resets a list. The package does no I/O: callers hand it bytes and a name for
// messages.
package unitfile

// A File is one unit file: its sections in the order in which they stand.
// A section name may occur more than once; readers see them as one, as
// systemd does.
type File struct {
	// Name is what messages call the file: usually its path.
	Name string
	// Header holds the comment lines that the writer puts on top, each
	// without its leading "# ". The parser leaves it empty.
	Header   []string
	Sections []*Section
}

// A Section is one [Name] block of a file.
type Section struct {
	Name    string
	Line    int // line of the [Name] header, from 1; 0 in a file made in memory
	Entries []Entry
}

// An Entry is one Key=Value assignment. Value has its continuation lines
// joined with a space and surrounding white space removed; quotes, escapes and
// specifiers in it are as written.
type Entry struct {
	Key   string
	Value string
	File  string // the file it came from, for messages after merging drop-ins
	Line  int    // line of the key, from 1; 0 in a file made in memory
}
