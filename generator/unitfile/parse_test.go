package unitfile

import (
	"testing"
)

func TestSmoke(t *testing.T) {
	f, ps := Parse("x", []byte("\xef\xbb\xbf[A]\r\nK=a \\\r\n# c\r\n  b\r\n"))
	if len(ps) != 0 {
		t.Fatal(ps[0])
	}
	if e, ok := f.Last("A", "K"); !ok || e.Value != "a  b" || e.Line != 2 {
		t.Fatalf("%+v", e)
	}
	b, err := f.Bytes()
	if err != nil || string(b) != "[A]\nK=a  b\n" {
		t.Fatalf("%q %v", b, err)
	}
}
