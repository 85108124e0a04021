package terminal

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInert(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain, ünïcode, 日本語 …":          "plain, ünïcode, 日本語 …",
		"\x1b[31mred\x1b[0m":             `\x1b[31mred\x1b[0m`,
		"\x1b]0;title\x07":               `\x1b]0;title\x07`,
		"a\nb\tc\rd":                     `a\nb\tc\rd`,
		"\u009b31m":                      `\x9b31m`,
		"\x7f":                           `\x7f`,
		"bad \xff\xc3":                   `bad \xff\xc3`,
		"\u202egnp.exe":                  `\u202egnp.exe`,
		"line\u2028separator":            `line\u2028separator`,
		"the replacement \ufffd is text": "the replacement \ufffd is text",
	} {
		if got := Inert(in); got != want {
			t.Errorf("Inert(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestJSONIsInertAndTheSame(t *testing.T) {
	t.Parallel()
	in := map[string]string{"status": "\x1b[2J \u009b31m \x7f \u202e ü"}
	var b bytes.Buffer
	if err := json.NewEncoder(JSON(&b)).Encode(in); err != nil {
		t.Fatal(err)
	}
	if want := `{"status":"\u001b[2J \u009b31m \u007f \u202e ü"}` + "\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	var out map[string]string
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func sample() *Table {
	t := &Table{Columns: []Column{{Title: "UNIT"}, {Title: "N", Right: true}, {Title: "STATUS"}}}
	t.Add(Cell{Text: "redis-worker@0"}, Cell{Text: "7"}, Cell{Text: "job job-1, 40% of a horse", Style: Good})
	t.Add(Cell{Text: "日本"}, Cell{Text: "1234"})
	t.Add(Cell{Text: "a"}, Cell{Text: "1"}, Cell{Text: "\x1b[2Jx"})
	return t
}

func TestTableWidths(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		screen Screen
		want   string
	}{
		{Screen{}, `
UNIT               N  STATUS
redis-worker@0     7  job job-1, 40% of a horse
日本            1234
a                  1  \x1b[2Jx
`},
		{Screen{Width: 80}, `
UNIT               N  STATUS
redis-worker@0     7  job job-1, 40% of a horse
日本            1234
a                  1  \x1b[2Jx
`},
		{Screen{Width: 30}, `
UNIT               N  STATUS
redis-worker@0     7  job job…
日本            1234
a                  1  \x1b[2Jx
`},
		{Screen{Width: 25}, `
UNIT               N  ST…
redis-worker@0     7  jo…
日本            1234
a                  1  \x…
`},
		{Screen{Width: 18}, `
UNIT
redis-worker@0
日本            1…
a
`},
		{Screen{Width: 5}, `
UNIT
redi…
日本
a
`},
		{Screen{Width: 30, Color: true}, "\n" + "\x1b[1mUNIT\x1b[0m               \x1b[1mN\x1b[0m  \x1b[1mSTATUS\x1b[0m\n" +
			"redis-worker@0     7  \x1b[32mjob job…\x1b[0m\n" +
			"日本            1234\n" +
			"a                  1  \\x1b[2Jx\n"},
	} {
		var b bytes.Buffer
		if err := sample().Write(&b, tc.screen); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), b.String()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.screen, diff)
		}
		if tc.screen.Width > 0 && !tc.screen.Color {
			for line := range strings.Lines(b.String()) {
				if w := Width(strings.TrimSuffix(line, "\n")); w > tc.screen.Width {
					t.Errorf("%d columns on a screen of %d: %q", w, tc.screen.Width, line)
				}
			}
		}
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in    string
		width int
		want  string
	}{
		{"abc", 3, "abc"}, {"abc", 2, "a…"}, {"abc", 1, "…"}, {"abc", 0, ""},
		{"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"e\u0301e\u0301", 2, "e\u0301e\u0301"},
	} {
		if got := Cut(tc.in, tc.width); got != tc.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", tc.in, tc.width, got, tc.want)
		}
	}
}

func TestDetectOffATerminal(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if got := Detect(&b, func(string) string { return "80" }); got != (Screen{}) {
		t.Errorf("a buffer is no terminal, got %+v", got)
	}
}
