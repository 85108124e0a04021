package unitfile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is said of one place is said once, and is an error if it ever was one.
func TestUniqueProblems(t *testing.T) {
	t.Parallel()
	ps := Problems{
		{File: "a", Line: 1, Key: "K", Msg: "m", Fix: "f", Warning: true},
		{File: "a", Line: 2, Key: "K", Msg: "m"},
		{File: "a", Line: 1, Key: "K", Msg: "m", Fix: "g"},
		{File: "a", Line: 1, Key: "K", Msg: "another"},
		{File: "b", Line: 1, Key: "K", Msg: "m", Warning: true},
		{File: "b", Line: 1, Key: "K", Msg: "m", Warning: true},
	}
	want := Problems{
		{File: "a", Line: 1, Key: "K", Msg: "m", Fix: "f"},
		{File: "a", Line: 2, Key: "K", Msg: "m"},
		{File: "a", Line: 1, Key: "K", Msg: "another"},
		{File: "b", Line: 1, Key: "K", Msg: "m", Warning: true},
	}
	if diff := cmp.Diff(want, ps.Unique()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
