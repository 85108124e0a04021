package unitfile

import (
	"errors"
	"fmt"
	"strings"
)

// Bytes returns the file as text: Header as comment lines, then the sections
// in order with an empty line between them. The same file always gives the
// same bytes, and Parse reads them back as the same sections and entries.
//
// It refuses what would come back as something else: newlines and other control characters
// (but tabs), invalid UTF-8, surrounding white space, a key with '='. To put such a string in a value, quote it with
// QuoteWord or QuoteArgv first.
func (f *File) Bytes() ([]byte, error) { return f.Append(nil) }

// Append is Bytes, behind what b holds, and in its memory where there is room.
// Of a file that is refused nothing is appended.
func (f *File) Append(b []byte) ([]byte, error) {
	if err := f.Check(); err != nil {
		return b, err
	}
	for _, line := range f.Header {
		b = append(b, strings.TrimRight("# "+line, " \t")...)
		b = append(b, '\n')
	}
	for i, s := range f.Sections {
		if i > 0 || len(f.Header) > 0 {
			b = append(b, '\n')
		}
		b = append(b, '[')
		b = append(b, s.Name...)
		b = append(b, "]\n"...)
		for _, e := range s.Entries {
			b = append(b, e.Key...)
			b = append(b, '=')
			b = append(b, e.Value...)
			if continues(e.Value) {
				// A space behind it keeps the backslash from being
				// a continuation; the reader drops the space.
				b = append(b, ' ')
			}
			b = append(b, '\n')
		}
	}
	return b, nil
}

// Check says why the file cannot be written, as Bytes would.
func (f *File) Check() error {
	for _, line := range f.Header {
		if hasControl(line) || !validText(line) {
			return fmt.Errorf("cannot write %s: control character or invalid UTF-8 in its header", f.Name)
		}
	}
	for _, s := range f.Sections {
		if err := checkSection(s.Name); err != nil {
			return fmt.Errorf("cannot write %s: [%q]: %w", f.Name, s.Name, err)
		}
		for _, e := range s.Entries {
			if err := checkEntry(e); err != nil {
				return fmt.Errorf("cannot write %s: %q in [%s]: %w", f.Name, e.Key, s.Name, err)
			}
		}
	}
	return nil
}

func checkEntry(e Entry) error {
	switch {
	case e.Key == "":
		return errors.New("empty key")
	case e.Key != strings.Trim(e.Key, whitespace) || strings.ContainsRune(e.Key, '=') || strings.ContainsRune("[#;", rune(e.Key[0])):
		return errors.New("the key would not read back")
	case hasControl(e.Key) || hasControl(e.Value):
		return errors.New("newline or control character")
	case !validText(e.Key) || !validText(e.Value):
		return errors.New("invalid UTF-8")
	case e.Value != strings.Trim(e.Value, whitespace):
		return errors.New("the value begins or ends with white space")
	}
	n := len(e.Key) + len("=") + len(e.Value)
	if continues(e.Value) {
		n++
	}
	if n >= maxLine {
		return errors.New("the line would be too long")
	}
	return nil
}
