package redaction

import (
	"strings"
	"testing"
)

func TestRedactor(t *testing.T) {
	t.Parallel()
	r := New(func(line string) string { return strings.ReplaceAll(line, "shaped", "by-line") })
	r.Learn("# password of all\nTOKEN=\"hunter2/with slash\"\nURL=redis://u:sw0rdfish@h/0\n\nX=ab\n")
	r.Learn("plain-password\n")
	for in, want := range map[string]string{
		"a hunter2/with slash b":               "a *** b",
		"hunter2%2Fwith+slash":                 "***",
		"auth sw0rdfish failed":                "auth *** failed",
		"plain-password":                       "***",
		"ab is too short, and shaped is not":   "ab is too short, and by-line is not",
		"# password of all stands as it did":   "# password of all stands as it did",
		"connect redis://u:sw0rdfish@h/0 done": "connect *** done",
	} {
		if got := string(r.Text([]byte(in))); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func TestNothingKnown(t *testing.T) {
	t.Parallel()
	r := New(func(line string) string { return line })
	if got := string(r.Text([]byte("one\ntwo"))); got != "one\ntwo" {
		t.Errorf("%q", got)
	}
}
