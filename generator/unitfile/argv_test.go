package unitfile

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitArgv(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want []string
		err  string
	}{
		{in: ""},
		{in: " \t "},
		{in: "a b\tc  d", want: []string{"a", "b", "c", "d"}},
		{in: `'a b' "c d" e' 'f`, want: []string{"a b", "c d", "e f"}},
		{in: `"" '' a""`, want: []string{"", "", "a"}},
		{in: `"it's" 'say "x"'`, want: []string{"it's", `say "x"`}},
		{in: `'a\tb' "a\tb" a\tb a\sb`, want: []string{"a\tb", "a\tb", "a\tb", "a b"}},
		{in: `\a\b\f\n\r\v\\\"\'`, want: []string{"\a\b\f\n\r\v\\\"'"}},
		{in: `\x41\101\u00e9\U0001f600`, want: []string{"AAé😀"}},
		{in: `\xc3\xa9 \xff`, want: []string{"é", "\xff"}},
		{in: `a\ b`, want: []string{`a\ b`}}, // an unknown escape is kept, with what it escapes
		{in: `\q \8 \x4 \x0g \x00 \000 \400 \u12 \u0000 \U00110000 \U0000d800`,
			want: []string{`\q`, `\8`, `\x4`, `\x0g`, `\x00`, `\000`, `\400`, `\u12`, `\u0000`, `\U00110000`, `\U0000d800`}},
		{in: `\ud800`, want: []string{"\xed\xa0\x80"}}, // as systemd has it
		{in: `a\`, want: []string{`a\`}},
		{in: `/bin/sh -c 'echo $HOME %i'`, want: []string{"/bin/sh", "-c", "echo $HOME %i"}},
		{in: `a \; b ";" ';' \x3b`, want: []string{"a", ";", "b", ";", ";", ";"}},
		{in: `a;b a; ;b`, want: []string{"a;b", "a;", ";b"}},
		{in: `a\;`, want: []string{`a\;`}},
		{in: "a ; b", err: `';' alone`},
		{in: "a ;", err: `';' alone`},
		{in: `'a`, err: "quote ' is not closed"},
		{in: `"a\"`, err: `quote " is not closed`},
		{in: `"a\`, err: `quote " is not closed`},
		{in: `a 'b'"`, err: `quote " is not closed`},
	} {
		got, err := SplitArgv(c.in)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("SplitArgv(%q) = %q, error %v; want error with %q", c.in, got, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("SplitArgv(%q): %v", c.in, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("SplitArgv(%q) (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestSplitCommands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want [][]string
	}{
		{"", nil},
		{"a b", [][]string{{"a", "b"}}},
		{"a b ; c ;\td", [][]string{{"a", "b"}, {"c"}, {"d"}}},
		{"a ;", [][]string{{"a"}}},
		{"a\t; ", [][]string{{"a"}}},
		{`a \; b;c ";" d`, [][]string{{"a", ";", "b;c", ";", "d"}}},
		{"; a", [][]string{{";", "a"}}}, // in front there is no command to end
		{"a ; ; b", [][]string{{"a"}, {";", "b"}}},
	} {
		got, err := SplitCommands(c.in)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("SplitCommands(%q): %v (-want +got):\n%s", c.in, err, diff)
		}
	}
	if got, err := SplitCommands(`a ; "b`); err == nil {
		t.Errorf("an open quote was taken: %q", got)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, argv, word string }{
		{"plain", "plain", "plain"},
		{"", `""`, `""`},
		{"a b", `"a b"`, `"a b"`},
		{`say "x"`, `"say \"x\""`, `"say \"x\""`},
		{"it's", `"it's"`, `"it's"`},
		{`a\b`, `"a\\b"`, `"a\\b"`},
		{"a\nb\tc\x01\x7f", `"a\nb\tc\x01\x7f"`, `"a\nb\tc\x01\x7f"`},
		{"100% $HOME", `"100%% $$HOME"`, `"100%% $HOME"`},
		{"é😀", "é😀", "é😀"},
		{"\xff\uffff", `"\xff\xef\xbf\xbf"`, `"\xff\xef\xbf\xbf"`},
		{";", `";"`, `";"`},
		{"#x", `"#x"`, `"#x"`},
		{"a#;", "a#;", "a#;"},
	} {
		if got, err := QuoteArgv([]string{c.in}); err != nil || got != c.argv {
			t.Errorf("QuoteArgv(%q) = %s, %v; want %s", c.in, got, err, c.argv)
		}
		if got, err := QuoteWord(c.in); err != nil || got != c.word {
			t.Errorf("QuoteWord(%q) = %s, %v; want %s", c.in, got, err, c.word)
		}
	}
	if _, err := QuoteArgv([]string{"a", "b\x00"}); err == nil {
		t.Error("QuoteArgv took a NUL byte")
	}
	if got, err := QuoteArgv(nil); err != nil || got != "" {
		t.Errorf("QuoteArgv(nil) = %q, %v", got, err)
	}
}

// doubled is what QuoteArgv leaves to systemd to undo.
func doubled(argv []string) []string {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = strings.NewReplacer("%", "%%", "$", "$$").Replace(a)
	}
	return out
}
