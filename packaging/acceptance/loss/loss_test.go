package loss

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A check that finds nothing has to be one that could.
func TestCheck(t *testing.T) {
	t.Parallel()
	journal := []Logged{
		{Unit: "w", Invocation: "a", End: true}, {Unit: "w", Invocation: "b"}, {Unit: "w", Invocation: "b", End: true},
		{Unit: "w", Invocation: "c"}, {Unit: "w", Invocation: "c", End: true}, {Unit: "w", Invocation: "d"},
	}
	u := func(seq uint64, event, invocation string, restarts uint64) Told {
		return Told{BootID: "x", Epoch: 1, Seq: seq, Type: "unit", Unit: "w", Event: event, Invocation: invocation, Restarts: restarts}
	}
	resynced := func(e Told) Told { e.Resynced = true; return e }
	epoch := func(n uint64, e Told) Told { e.Epoch = n; return e }
	whole := []Told{u(5, "failed", "a", 0), u(6, "starting", "b", 1), u(7, "running", "b", 1), u(8, "stopping", "b", 1), u(9, "stopped", "b", 1),
		u(10, "running", "c", 2), u(11, "failed", "c", 2), u(12, "running", "d", 3)}
	without := func(i ...int) []Told {
		var some []Told
		for n, e := range whole {
			keep := true
			for _, x := range i {
				keep = keep && x != n
			}
			if keep {
				e.Seq = uint64(len(some) + 1)
				some = append(some, e)
			}
		}
		return some
	}
	for _, tt := range []struct {
		name   string
		stream []Told
		want   []string // of each difference, how it begins
	}{
		{"whole", whole, nil},
		{"an end lacks", without(4), []string{"w: before 1.5 (running of c) lack 1"}},
		{"a start lacks", without(5), []string{"w: before 1.6 (failed of c) lack 1"}},
		{"the last lacks", without(7), []string{"w: the stream ends before 1 more"}},
		{"the last two lack", without(6, 7), []string{"w: the stream ends before 2 more"}},
		{"some lack, as is said", append(without(4, 5, 6, 7), resynced(u(5, "running", "d", 3))), nil},
		{"some lack, and a gap tells of it", append(whole[:4:4], Told{BootID: "x", Epoch: 1, Seq: 11, Type: "gap", From: 9, To: 11}, whole[7]), nil},
		{"the last lack, and a gap tells of it", append(whole[:5:5], Told{BootID: "x", Epoch: 1, Seq: 12, Type: "gap", From: 10, To: 12}), nil},
		{"Redis lost what was read", append(whole[:8:8], Told{BootID: "x", Epoch: 1, Seq: 12, Type: "gap", From: 1, To: 12}), nil},
		{"numbers lack", append(whole[:4:4], resynced(whole[7])), []string{"1.9 lacks"}},
		{"told twice", append(whole[:8:8], whole[7]), []string{"1.12 comes after 1.12", "1.12 is told twice", "w: 1.12 tells once more"}},
		{"told again by the next", append(whole[:8:8], epoch(2, u(1, "failed", "c", 3))), []string{"w: 2.1 tells once more"}},
		{"the beginning of an epoch lacks", append(whole[:7:7], epoch(2, u(2, "running", "d", 3))), []string{"2.1 lacks"}},
		{"back to an epoch", append(append(whole[:6:6], epoch(2, u(1, "failed", "c", 2))), whole[7]), []string{"1.12 comes after 2.1"}},
		{"in another order", append(whole[:5:5], u(10, "failed", "c", 2), u(11, "running", "c", 2), u(12, "running", "d", 3)),
			[]string{"w: 1.11 comes late", "w: before 1.10 (failed of c) lack 1"}},
		{"not in the journal", append(whole[:8:8], u(13, "failed", "d", 3)), []string{"w: the journal knows nothing of 1.13"}},
		{"restarts go back", append(whole[:7:7], u(12, "running", "d", 1)), []string{"w: 1.12 counts 1 restarts after 2"}},
		{"another boot", append(whole[:7:7], Told{BootID: "y", Epoch: 1, Seq: 12, Type: "unit", Unit: "w", Event: "running", Invocation: "d", Restarts: 3}),
			[]string{"1.12 is of boot y"}},
	} {
		got := Check(tt.stream, journal).Unexplained
		ok := len(got) == len(tt.want)
		for _, w := range tt.want {
			found := false
			for _, g := range got {
				found = found || strings.HasPrefix(g, w)
			}
			ok = ok && found
		}
		if !ok {
			t.Errorf("%s: found %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReadJournal(t *testing.T) {
	t.Parallel()
	for _, systemd := range []string{"252", "257"} {
		f, err := os.Open("../../../monitor/journal/testdata/" + systemd + ".json")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all, err := ReadJournal(f)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string][2]int{}
		for _, l := range all {
			c := counts[l.Unit]
			if l.End {
				c[1]++
			} else {
				c[0]++
			}
			counts[l.Unit] = c
			if l.AtUS == 0 {
				t.Errorf("no time: %+v", l)
			}
		}
		want := map[string][2]int{"k.service": {4, 4}, "n.service": {2, 2}, "f.service": {1, 1}, "o.service": {1, 1}, "d.service": {3, 3},
			"e.service": {1, 1}, "x.service": {1, 1}, "t.service": {1, 1}, "i.service": {1, 1}, "s.service": {2, 2}}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("%s: starts and ends (-want +got):\n%s", systemd, diff)
		}
	}
}
