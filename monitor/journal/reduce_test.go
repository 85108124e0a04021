package journal

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

func records(t *testing.T, systemd string) []Record {
	t.Helper()
	var all []Record
	for _, l := range lines(t, systemd) {
		r, err := Parse([]byte(l))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// text returns a line for each phase. Invocations are named a, b, c … in the
// order in which a unit had them.
func text(past []state.Past) []string {
	names := map[string][]string{}
	var all []string
	for _, p := range past {
		u := p.Unit
		had := names[u.Name]
		i := slices.Index(had, u.InvocationID)
		if i < 0 {
			i = len(had)
			names[u.Name] = append(had, u.InvocationID)
		}
		l := fmt.Sprintf("%s %s %c %s", u.Name, p.Event, 'a'+rune(i), u.Result)
		if u.ExitCode != "" {
			l += fmt.Sprintf(" %s/%d", u.ExitCode, u.ExitStatus)
		}
		l += fmt.Sprintf(" restarts=%d", u.Restarts)
		if p.Uncertain {
			l += " uncertain"
		}
		all = append(all, l)
	}
	return all
}

// The recordings are of units that were killed and restarted (k), notify and
// reload (n), fail (f), are oneshots (o), have RestartMode=direct, which 252
// ignores (d), end well and wait for a restart (e), cannot be executed (x), do
// not become ready (t), have a condition (c), do not stop (i) or fail too often
// (s).
func TestReduceRecorded(t *testing.T) {
	t.Parallel()
	for _, systemd := range []string{"252", "257"} {
		want := []string{
			"k.service running a success restarts=0",
			"k.service failed a signal killed/9 restarts=0",
			"k.service running b success restarts=1",
			"k.service stopping b success restarts=1",
			"k.service stopped b success restarts=1",
			"k.service running c success restarts=2",
			"k.service stopping c success restarts=2",
			"k.service stopped c success restarts=2",
			"k.service running d success restarts=3",
			"k.service stopping d success restarts=3",
			"k.service stopped d success restarts=3",
			"n.service starting a success restarts=0",
			"n.service running a success restarts=0",
			"n.service stopped a success restarts=0",
			"n.service starting b success restarts=1",
			"n.service running b success restarts=1",
			"n.service stopping b success restarts=1",
			"n.service stopped b success restarts=1",
			"f.service running a success restarts=0",
			"f.service failed a exit-code exited/3 restarts=0",
			"o.service starting a success restarts=0",
			"o.service running a success restarts=0",
			"o.service stopped a success restarts=0",
			"d.service running a success restarts=0",
			"d.service failed a exit-code exited/3 restarts=0",
			"d.service running b success restarts=1",
			"d.service failed b exit-code exited/3 restarts=1",
			"d.service running c success restarts=2",
			"d.service failed c exit-code exited/3 restarts=2",
			"d.service stopped c exit-code exited/3 restarts=2",
			"e.service running a success restarts=0",
			"e.service stopped a success restarts=0",
			"x.service running a success restarts=0",
			"x.service failed a exit-code exited/203 restarts=0",
			"t.service starting a success restarts=0",
			"t.service failed a timeout restarts=0",
			"i.service running a success restarts=0",
			"i.service stopping a success restarts=0",
			"i.service failed a timeout killed/9 restarts=0",
			"s.service running a success restarts=0",
			"s.service failed a exit-code exited/1 restarts=0",
			"s.service running b success restarts=1",
			"s.service failed b exit-code exited/1 restarts=1",
		}
		past := Reduce(records(t, systemd), true, Since{})
		byUnit := func(a, b string) int { return int(a[0]) - int(b[0]) }
		got := text(past)
		slices.SortStableFunc(got, byUnit)
		slices.SortStableFunc(want, byUnit)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", systemd, diff)
		}
		for i, p := range past {
			if i > 0 && p.AtUS < past[i-1].AtUS || p.Unit.SinceMS != p.AtUS/1000 || p.Unit.Service == "" || p.Unit.Active == "" {
				t.Errorf("%s: phase %d is %+v", systemd, i, p)
			}
		}
	}
}

// Wherever the earlier monitor ended, what follows is told, and nothing that
// was told already.
func TestReduceFromAnywhere(t *testing.T) {
	t.Parallel()
	for _, systemd := range []string{"252", "257"} {
		all := records(t, systemd)
		past := Reduce(all, true, Since{})
		whole, bare := text(past), phases(past)
		for end := 1; end < len(all); end++ {
			told := Reduce(all[:end], true, Since{})
			since := Since{Seeds: map[string]state.Seed{}, MonoUS: all[end].MonoUS}
			for _, p := range told {
				since.Seeds[p.Unit.Name] = state.Seed{
					Restarts: p.Unit.Restarts, InvocationID: p.Unit.InvocationID, Phase: p.Event, SinceMS: p.Unit.SinceMS,
				}
			}
			got := text(append(slices.Clone(told), Reduce(all, true, since)...))
			if diff := cmp.Diff(whole, got); diff != "" {
				t.Fatalf("%s, told up to record %d (-want +got):\n%s", systemd, end, diff)
			}
			// However far back they are read beyond that. How a process ended
			// may be in an older one.
			for from := 0; from == 0 || all[from].MonoUS+uint64(slack.Microseconds()) < since.MonoUS; from++ {
				got := append(slices.Clone(told), Reduce(all[from:], true, since)...)
				if diff := cmp.Diff(bare, phases(got)); diff != "" {
					t.Fatalf("%s, told up to record %d, read from %d (-want +got):\n%s", systemd, end, from, diff)
				}
			}
		}
	}
}

// phases returns a line for each phase, without how it came about.
func phases(past []state.Past) []string {
	var all []string
	for _, p := range past {
		all = append(all, fmt.Sprintf("%s %s %s restarts=%d uncertain=%t", p.Unit.Name, p.Event, p.Unit.InvocationID, p.Unit.Restarts, p.Uncertain))
	}
	return all
}

func TestReduceHoles(t *testing.T) {
	t.Parallel()
	at := int64(0)
	r := func(kind Kind, invocation string) Record {
		at += 1000
		return Record{Kind: kind, Unit: "w.service", Invocation: invocation, AtUS: at, MonoUS: uint64(at)}
	}
	scheduled := func(n uint32, invocation string) Record {
		x := r(Scheduled, invocation)
		x.Restarts = n
		return x
	}
	running := map[string]state.Seed{"w.service": {Restarts: 7, InvocationID: "a", Phase: state.Running}}
	failed := map[string]state.Seed{"w.service": {Restarts: 7, InvocationID: "a", Phase: state.Failed}}
	for _, tt := range []struct {
		name    string
		seeds   map[string]state.Seed
		records []Record
		short   bool
		want    []string
	}{
		{"an end is missing", running, []Record{r(Started, "b"), r(Failed, "b")}, false,
			[]string{"w.service running a success restarts=8 uncertain", "w.service failed a  restarts=8"}},
		{"a beginning is missing", failed, []Record{r(Failed, "b"), r(Started, "c")}, false,
			[]string{"w.service failed a  restarts=8 uncertain", "w.service running b success restarts=9"}},
		{"how it ended is missing", running, []Record{r(Stopping, "a"), r(Stopped, "a")}, false,
			[]string{"w.service stopping a success restarts=7", "w.service stopped a success restarts=7 uncertain"}},
		{"whole restarts are missing", failed, []Record{scheduled(3, "a"), r(Started, "b"), r(Failed, "b"), scheduled(6, "d"), r(Started, "e")}, false,
			[]string{"w.service running a success restarts=8", "w.service failed a  restarts=8", "w.service running b success restarts=11 uncertain"}},
		{"the beginning of the journal is missing", failed, []Record{r(Started, "b"), r(Failed, "b")}, true,
			[]string{"w.service running a success restarts=8 uncertain", "w.service failed a  restarts=8"}},
		{"it is missing, but not of this unit", failed, []Record{scheduled(1, "a"), r(Started, "b")}, true,
			[]string{"w.service running a success restarts=8"}},
		{"journald dropped some", running, []Record{r(Failed, "a"), r(Started, "b"), {Kind: Suppressed}, r(Failed, "b"), r(Started, "c")}, false,
			[]string{"w.service failed a  restarts=7", "w.service running b success restarts=8", "w.service failed b  restarts=8 uncertain",
				"w.service running c success restarts=9"}},
		{"journald dropped some before", map[string]state.Seed{}, []Record{{Kind: Suppressed}, r(Started, "a")}, false,
			[]string{"w.service running a success restarts=0 uncertain"}},
		{"a condition keeps it from starting again", failed, []Record{r(Started, "a"), r(Started, "")}, false, nil},
		{"ExecCondition", failed, []Record{r(Starting, "b"), r(Skipped, "b")}, false,
			[]string{"w.service starting a success restarts=8", "w.service stopped a exec-condition restarts=8"}},
	} {
		if diff := cmp.Diff(tt.want, text(Reduce(tt.records, !tt.short, Since{Seeds: tt.seeds}))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// A unit of which no invocation was told has only the times to go by.
func TestReduceByTime(t *testing.T) {
	t.Parallel()
	records := []Record{
		{Kind: Started, Unit: "w.service", Invocation: "a", AtUS: 10_000, MonoUS: 10},
		{Kind: Succeeded, Unit: "w.service", Invocation: "a", AtUS: 20_000, MonoUS: 20},
		{Kind: Started, Unit: "w.service", Invocation: "b", AtUS: 30_000, MonoUS: 30},
	}
	last := []string{"w.service running a success restarts=0"}
	for name, since := range map[string]Since{
		"new":           {MonoUS: 25},
		"never started": {MonoUS: 25, Seeds: map[string]state.Seed{"w.service": {Phase: state.Stopped}}},
	} {
		if diff := cmp.Diff(last, text(Reduce(records, true, since))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// Its invocation is in none of the records, being that long ago.
	old := Since{Seeds: map[string]state.Seed{"w.service": {Restarts: 4, InvocationID: "z", Phase: state.Stopped, SinceMS: 25}}}
	if diff := cmp.Diff([]string{"w.service running a success restarts=5"}, text(Reduce(records, true, old))); diff != "" {
		t.Errorf("long ago (-want +got):\n%s", diff)
	}
}
