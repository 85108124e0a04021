package unitfile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// show writes what a file says, one line a section or entry, with line numbers.
func show(f *File) string {
	var b strings.Builder
	for _, s := range f.Sections {
		fmt.Fprintf(&b, "%d [%s]\n", s.Line, s.Name)
		for _, e := range s.Entries {
			fmt.Fprintf(&b, "%d %s=%q\n", e.Line, e.Key, e.Value)
		}
	}
	return b.String()
}

func TestParse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name, in, want string
		problems       []string
	}{
		{name: "empty"},
		{name: "comments only", in: "# a\n; b\n   # c\n"},
		{name: "plain", in: "[A]\nK=v\n[B]\nL=w", want: "1 [A]\n2 K=\"v\"\n3 [B]\n4 L=\"w\"\n"},
		{name: "white space", in: "  [A]  \n\tK \t=  v w  \n", want: "1 [A]\n2 K=\"v w\"\n"},
		{name: "empty value", in: "[A]\nK=\nL= \n", want: "1 [A]\n2 K=\"\"\n3 L=\"\"\n"},
		{name: "equals in value", in: "[A]\nEnvironment=A=b C==d\n", want: "1 [A]\n2 Environment=\"A=b C==d\"\n"},
		{name: "comment sign in value", in: "[A]\nK=v # no comment\nL=v;w\n", want: "1 [A]\n2 K=\"v # no comment\"\n3 L=\"v;w\"\n"},
		{name: "CRLF", in: "[A]\r\nK=v\r\n\r\nL=w\r\n", want: "1 [A]\n2 K=\"v\"\n4 L=\"w\"\n"},
		{name: "CR alone", in: "[A]\rK=v\rL=w", want: "1 [A]\n2 K=\"v\"\n3 L=\"w\"\n"},
		{name: "byte order mark", in: "\xef\xbb\xbf[A]\nK=v\n", want: "1 [A]\n2 K=\"v\"\n"},
		{name: "byte order mark before comment", in: "\xef\xbb\xbf# c\n[A]\nK=v\n", want: "2 [A]\n3 K=\"v\"\n"},
		{name: "section twice", in: "[A]\nK=1\n[B]\n[A]\nK=2\n", want: "1 [A]\n2 K=\"1\"\n3 [B]\n4 [A]\n5 K=\"2\"\n"},
		{name: "brackets in a name", in: "[a]b]\nK=v\n", want: "1 [a]b]\n2 K=\"v\"\n"},
		{name: "tab in value", in: "[A]\nK=a\tb\n", want: "1 [A]\n2 K=\"a\\tb\"\n"},

		{name: "continuation", in: "[A]\nK=a\\\nb\nL=c\n", want: "1 [A]\n2 K=\"a b\"\n4 L=\"c\"\n"},
		{name: "continuation keeps the space around it", in: "[A]\nK=a \\\n  b\n", want: "1 [A]\n2 K=\"a    b\"\n"},
		{name: "continuation with CRLF", in: "[A]\r\nK=a\\\r\nb\r\n", want: "1 [A]\n2 K=\"a b\"\n"},
		{name: "comments in a continuation", in: "[A]\nK=a\\\n# c\\\n  ; d\nb\\\n#e\n\nL=c\n", want: "1 [A]\n2 K=\"a b\"\n8 L=\"c\"\n"},
		{name: "empty line ends a continuation", in: "[A]\nK=a\\\n\nL=b\n", want: "1 [A]\n2 K=\"a\"\n4 L=\"b\"\n"},
		{name: "two backslashes are no continuation", in: "[A]\nK=a\\\\\nL=b\n", want: "1 [A]\n2 K=\"a\\\\\\\\\"\n3 L=\"b\"\n"},
		{name: "three are", in: "[A]\nK=a\\\\\\\nb\n", want: "1 [A]\n2 K=\"a\\\\\\\\ b\"\n"},
		{name: "backslash and space are none", in: "[A]\nK=a\\ \nL=b\n", want: "1 [A]\n2 K=\"a\\\\\"\n3 L=\"b\"\n"},
		{name: "continued key", in: "[A]\nK\\\n=v\n", want: "1 [A]\n2 K=\"v\"\n"},
		{name: "continued comment is not continued", in: "[A]\n# c \\\nK=v\n", want: "1 [A]\n3 K=\"v\"\n"},
		{name: "backslash at the end of the file", in: "[A]\nK=a\\", want: "1 [A]\n2 K=\"a\"\n",
			problems: []string{"warning: f:2: the file ends in a backslash, which continues the line"}},

		{name: "before any section", in: "K=v\nL=w\n[A]\nM=x\n", want: "3 [A]\n4 M=\"x\"\n",
			problems: []string{
				"f:1: K= stands before any section; put it under a [Section] line",
				"f:2: L= stands before any section; put it under a [Section] line",
			}},
		{name: "no equals sign", in: "[A]\nSecret\nhttp://user:secret@host/\nRestart always\nK=v\n", want: "1 [A]\n5 K=\"v\"\n",
			problems: []string{
				"f:2: no '=' in the line that begins with Secret; write Key=Value",
				"f:3: no '=' in the line; write Key=Value",
				"f:4: no '=' in the line that begins with Restart; write Key=Value",
			}},
		{name: "no key", in: "[A]\n =v\n", want: "1 [A]\n", problems: []string{"f:2: no key before '='; write Key=Value"}},
		{name: "header not ended", in: "[A]\nK=1\n[B\nL=2\n[C]\nM=3\n", want: "1 [A]\n2 K=\"1\"\n5 [C]\n6 M=\"3\"\n",
			problems: []string{"f:3: section header does not end in ']'; write [Section] alone on its line"}},
		{name: "bracket alone", in: "[\n", problems: []string{"f:1: section header does not end in ']'; write [Section] alone on its line"}},
		{name: "comment behind a header", in: "[A] # x\nK=v\n", problems: []string{"f:1: section header does not end in ']'; write [Section] alone on its line"}},
		{name: "header without a name", in: "[]\nK=v\n", problems: []string{"f:1: section header without a name"}},
		{name: "header with a quote", in: "[A\"]\nK=v\n", problems: []string{"f:1: section header holds a quote, backslash or control character"}},
		{name: "invalid UTF-8", in: "[A]\nK=\xff\nL=w\n# \xff is fine in a comment\n", want: "1 [A]\n3 L=\"w\"\n",
			problems: []string{"f:2: not valid UTF-8, line ignored"}},
		{name: "noncharacter", in: "[A]\nK=\uffff\n", want: "1 [A]\n", problems: []string{"f:2: not valid UTF-8, line ignored"}},
		{name: "invalid UTF-8 in a header", in: "[A]\n[B\xff]\nK=v\n", want: "1 [A]\n", problems: []string{"f:2: not valid UTF-8, line ignored"}},
		{name: "control character", in: "[A]\nK=a\x1bb\nL\x01=w\n", want: "1 [A]\n",
			problems: []string{
				`f:2: K=: control character in the value, line ignored; write it as \n, \t or \xNN inside quotes, where the key takes quotes`,
				"f:3: control character in a key, line ignored",
			}},
		{name: "NUL ends a line, is told once", in: "[A]\x00K=v\x00L=w", want: "1 [A]\n2 K=\"v\"\n3 L=\"w\"\n", problems: []string{"f:1: NUL byte in the file"}},
		{name: "line just short enough", in: "[A]\nK=" + long[3:] + "\n", want: "1 [A]\n2 K=\"" + long[3:] + "\"\n"},
		{name: "line too long", in: "[A]\nK=" + long + "\nL=w\n", want: "1 [A]\n3 L=\"w\"\n",
			problems: []string{"f:2: line is longer than 1048576 bytes with its continuations"}},
		{name: "continuation too long", in: "[A]\nK=" + long[:maxLine/2] + "\\\n" + long[:maxLine/2] + "\\\nz\\\nz\nL=w\n", want: "1 [A]\n6 L=\"w\"\n",
			problems: []string{"f:2: line is longer than 1048576 bytes with its continuations"}},
		{name: "header too long", in: "[A]\n[" + long + "]\nL=w\n", want: "1 [A]\n",
			problems: []string{"f:2: line is longer than 1048576 bytes with its continuations"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, ps := Parse("f", []byte(c.in))
			if diff := cmp.Diff(c.want, show(f)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			var got []string
			for _, p := range ps {
				if p.Warning {
					got = append(got, "warning: "+p.Error())
				} else {
					got = append(got, p.Error())
				}
			}
			if diff := cmp.Diff(c.problems, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			roundTrip(t, f)
		})
	}
}

func TestParseBoundsItsWork(t *testing.T) {
	t.Parallel()
	// A file of nothing but mistakes must not become a log of nothing else.
	_, ps := Parse("f", []byte("\xff\n"+strings.Repeat("nonsense\n\xff\n", 5_000)))
	var got []string
	for _, p := range ps {
		got = append(got, p.Error())
	}
	if diff := cmp.Diff([]string{
		"f:1: not valid UTF-8, line ignored; the same in line 3, 5, 7, 9, 11 and 4995 more",
		"f:2: no '=' in the line that begins with nonsense; the same in line 4, 6, 8, 10, 12 and 4994 more; write Key=Value",
	}, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	var lines strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&lines, "nonsense%d\n", i)
	}
	_, ps = Parse("f", []byte(lines.String()))
	if len(ps) != maxProblems+1 {
		t.Errorf("%d problems, want %d", len(ps), maxProblems+1)
	}
	if last := ps[len(ps)-1].Msg; last != "more problems follow that are not listed" {
		t.Errorf("last problem is %q", last)
	}
	f, ps := Parse("f", append([]byte("[A]\nK=v\n"), make([]byte, maxFile)...))
	if !ps.Failed() || len(f.Entries("A")) != 1 {
		t.Errorf("a file over the bound: %d entries, problems %v", len(f.Entries("A")), ps)
	}
}

const accessText = `[S]
List=a
One=1
[T]
List=t
[S]
List=
List=b
List=c
One=
`

func TestAccess(t *testing.T) {
	t.Parallel()
	f, ps := Parse("base", []byte(accessText))
	if len(ps) > 0 {
		t.Fatal(ps[0])
	}
	values := func(f *File, section, key string) string {
		var s []string
		for _, e := range f.Values(section, key) {
			s = append(s, fmt.Sprintf("%s:%d=%s", e.File, e.Line, e.Value))
		}
		return strings.Join(s, " ")
	}
	if got, want := values(f, "S", "List"), "base:8=b base:9=c"; got != want {
		t.Errorf("Values = %s, want %s", got, want)
	}
	if n := len(f.Entries("S")); n != 6 {
		t.Errorf("%d entries in S, want 6", n)
	}
	if e, ok := f.Last("S", "One"); !ok || e.Value != "" || e.Line != 10 {
		t.Errorf("Last(One) = %+v, %v; want the empty assignment of line 10", e, ok)
	}
	if _, ok := f.Last("S", "None"); ok {
		t.Error("Last found a key that is not there")
	}
	if !f.Has("T") || f.Has("U") {
		t.Error("Has is wrong")
	}

	before := show(f)
	dropin, _ := Parse("drop.conf", []byte("[S]\nList=d\n"))
	reset, _ := Parse("reset.conf", []byte("[S]\nList=\n"))
	m := Merge(f, dropin)
	if got, want := values(m, "S", "List"), "base:8=b base:9=c drop.conf:2=d"; got != want {
		t.Errorf("merged Values = %s, want %s", got, want)
	}
	if got := values(Merge(f, dropin, reset), "S", "List"); got != "" {
		t.Errorf("Values after a drop-in's reset = %s", got)
	}
	m.Add("S", "New", "x")
	m.Sections[0].Entries[0].Value = "changed"
	if diff := cmp.Diff(before, show(f)); diff != "" {
		t.Errorf("Merge shares with its base (-before +after):\n%s", diff)
	}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	f := &File{Name: "n", Header: []string{"Generated by gpuherd", ""}}
	f.Add("Unit", "Description", "x")
	f.Add("Service", "ExecStart", "/bin/true")
	f.Add("Unit", "After", "y")
	got, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := "# Generated by gpuherd\n#\n\n[Unit]\nDescription=x\nAfter=y\n\n[Service]\nExecStart=/bin/true\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBytesRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ section, key, value, want string }{
		{"S", "K", "a\nExecStart=/bin/evil", "newline or control character"},
		{"S", "K", "a\r", "newline or control character"},
		{"S", "K", "a\x00", "newline or control character"},
		{"S", "K", "a\x1b[31m", "newline or control character"},
		{"S", "K", "a\x7f", "newline or control character"},
		{"S", "K", "\xff", "invalid UTF-8"},
		{"S", "K", " a", "white space"},
		{"S", "K", "a\t", "white space"},
		{"S", "K", strings.Repeat("x", maxLine), "too long"},
		{"S", "", "a", "empty key"},
		{"S", "#K", "a", "would not read back"},
		{"S", "[K", "a", "would not read back"},
		{"S", "K=", "a", "would not read back"},
		{"S", "K ", "a", "would not read back"},
		{"S", "K\nL", "a", "newline or control character"},
		{"", "K", "a", "without a name"},
		{"S]\n[T", "K", "a", "control character"},
	} {
		f := &File{Name: "n"}
		f.Add(c.section, c.key, c.value)
		if b, err := f.Bytes(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("[%q] %q=%.20q: wrote %.60q, error %v; want error with %q", c.section, c.key, c.value, b, err, c.want)
		}
	}
	if _, err := (&File{Header: []string{"a\n[Service]"}}).Bytes(); err == nil {
		t.Error("a newline in the header was written")
	}
}

// text writes what a file says without its line numbers, unambiguously.
func text(f *File) string {
	var b strings.Builder
	for _, s := range f.Sections {
		fmt.Fprintf(&b, "%d [%s]\n", len(s.Name), s.Name)
		for _, e := range s.Entries {
			fmt.Fprintf(&b, "%d=%d %s=%s\n", len(e.Key), len(e.Value), e.Key, e.Value)
		}
	}
	return b.String()
}

// sameText compares what files say, not where they say it.
var sameText = cmp.Options{
	cmpopts.IgnoreFields(File{}, "Name", "Header"),
	cmpopts.IgnoreFields(Section{}, "Line"),
	cmpopts.IgnoreFields(Entry{}, "File", "Line"),
	cmpopts.EquateEmpty(),
}

// roundTrip writes f and reads it back.
func roundTrip(t *testing.T, f *File) {
	t.Helper()
	b, err := f.Bytes()
	if err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	g, ps := Parse(f.Name, b)
	for _, p := range ps {
		t.Errorf("problem in what was written: %v", p)
	}
	if text(f) == text(g) { // a quick look, for the fuzzer's sake
		return
	}
	if diff := cmp.Diff(f, g, sameText); diff != "" {
		t.Errorf("written and read again (-before +after):\n%s", diff)
	}
}
