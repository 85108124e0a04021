package unitfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse holds Parse to its word: it never panics, and whatever it read can
// be written and reads back the same, without a problem.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/units/*")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range seeds {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, nasty := range []string{
		"", "[", "[]", "=", "\\", "[A]\nK=\\", "[A]\n\\\n[B]\n\\\n#c\nK=v", "[A]\x00K=\x01\n\r\n\r", "[A]\nK=\xff\uffff\ufeff", "K=v\n[A]\nK=a\\ \n \v=\f",
	} {
		f.Add([]byte(nasty))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, ps := Parse("f", data)
		for _, p := range ps {
			if p.Line < 0 || p.Line > len(data)+1 || strings.ContainsAny(p.Error(), "\n\r\x00") {
				t.Errorf("bad problem %q", p.Error())
			}
		}
		roundTrip(t, file)
	})
}

// FuzzArgv checks that every argument list survives being quoted, written into
// a unit file and read back.
func FuzzArgv(f *testing.F) {
	f.Add("/bin/echo", "a b", `\x00"'`)
	f.Add(";", "%i $HOME ${X}", "\xff\n")
	f.Add("", " \\", "#")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		argv := []string{a, b, c}
		quoted, err := QuoteArgv(argv)
		if err != nil {
			if !strings.Contains(a+b+c, "\x00") {
				t.Fatalf("QuoteArgv(%q): %v", argv, err)
			}
			return
		}
		file := &File{Name: "f"}
		file.Add("Service", "ExecStart", quoted)
		if len(quoted) < maxLine/2 {
			roundTrip(t, file)
		}
		got, err := SplitArgv(quoted)
		if err != nil {
			t.Fatalf("SplitArgv(%q): %v", quoted, err)
		}
		if diff := cmp.Diff(doubled(argv), got); diff != "" {
			t.Errorf("quoted as %s (-before +after):\n%s", quoted, diff)
		}
	})
}

// FuzzSplitArgv: words of any value can be quoted again, unless an escape made
// no text of them.
func FuzzSplitArgv(f *testing.F) {
	f.Add(`/bin/sh -c 'a "b" \x41' \; "\U0001f600\q"`)
	f.Add(`'`)
	f.Add(`a\`)
	f.Fuzz(func(t *testing.T, value string) {
		argv, err := SplitArgv(value)
		if err != nil {
			return
		}
		quoted, err := QuoteArgv(argv)
		if err != nil {
			if !strings.Contains(value, "\x00") {
				t.Fatalf("QuoteArgv(%q): %v", argv, err)
			}
			return
		}
		again, err := SplitArgv(quoted)
		if err != nil {
			t.Fatalf("SplitArgv(%q): %v", quoted, err)
		}
		if diff := cmp.Diff(doubled(argv), again); diff != "" && len(argv) > 0 {
			t.Errorf("%q quoted as %s (-before +after):\n%s", value, quoted, diff)
		}
	})
}

func FuzzScalars(f *testing.F) {
	f.Add("1.5G", "Count")
	f.Add("1G 512M", "")
	f.Add("99999999999999999999E", "Cuont")
	f.Fuzz(func(t *testing.T, s, word string) {
		ParseSize(s) //nolint:errcheck // must not panic or hang
		ParseBool(s) //nolint:errcheck // likewise
		if got := Nearest(word, []string{word, s}); len(word) > 2 && len(word) <= 64 && got == "" {
			t.Errorf("Nearest(%q) does not find the word itself", word)
		}
	})
}
