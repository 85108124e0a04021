package monit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/state"
)

func TestEntries(t *testing.T) {
	t.Parallel()
	binary, err := json.Marshal([]int{0x1b, '[', '2', 'J', 'x', 0xff})
	if err != nil {
		t.Fatal(err)
	}
	in := strings.Join([]string{
		`{"MESSAGE":"plain","PRIORITY":"6","__REALTIME_TIMESTAMP":"1777636800000000"}`,
		`{"MESSAGE":"bad","PRIORITY":"3"}`,
		`{"MESSAGE":"warning","PRIORITY":"4"}`,
		`{"MESSAGE":` + string(binary) + `,"PRIORITY":"7"}`,
		`{"MESSAGE":["first","second"]}`,
		`{"MESSAGE":null}`,
		`no JSON`,
		``,
		`{"MESSAGE":"` + strings.Repeat("x", maxEntry) + `"}`,
		`{"MESSAGE":"` + strings.Repeat("é", maxText) + `"}`,
		`{"MESSAGE":"\u001b[31mred\u001b[0m\ttab \r"}`,
		`{"MESSAGE":"the last, cut o`,
	}, "\n")
	var got []Line
	if err := entries(strings.NewReader(in), func(l Line) { got = append(got, l) }); err != nil {
		t.Fatal(err)
	}
	want := []Line{
		{At: time.UnixMicro(1777636800000000), Text: "plain"},
		{Text: "bad", Style: terminal.Bad},
		{Text: "warning", Style: terminal.Busy},
		{Text: `\x1b[2Jx\xff`, Style: terminal.Faint},
		{Text: "first"},
		{},
		{Text: "(an entry of 1M is too long to be shown here)", Style: terminal.Faint},
		{Text: strings.Repeat("é", maxText/2) + "… (of 16K)"},
		{Text: "red    tab"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add([]byte(`{"MESSAGE":[27,91],"PRIORITY":"3","__REALTIME_TIMESTAMP":"1"}` + "\n"))
	f.Add([]byte(`{"MESSAGE":[[["x"]]]}` + "\n{\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := entries(bytes.NewReader(data), func(l Line) {
			if l.Text != terminal.Inert(l.Text) {
				t.Errorf("%q is not inert", l.Text)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// collect returns a send and what is read of the messages sent.
func collect() (func(tea.Msg), chan LogLines) {
	ch := make(chan LogLines, 100)
	return func(msg tea.Msg) {
		if l, ok := msg.(LogLines); ok {
			ch <- l
		}
	}, ch
}

// next waits for a line of a follow that begins so.
func next(t *testing.T, ch chan LogLines, number int, begins string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case l := <-ch:
			for _, line := range l.Lines {
				if l.Number == number && strings.HasPrefix(line.Text, begins) {
					return
				}
			}
		case <-timeout:
			t.Fatalf("no line %q of follow %d", begins, number)
		}
	}
}

func TestFollower(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	send, lines := collect()
	f := newFollower(func(unit string) []string {
		switch unit {
		case "missing":
			return []string{"/nonexistent/journalctl"}
		case "refused":
			return []string{"sh", "-c", "echo No journal files were opened >&2; exit 1"}
		case "hint":
			return []string{"sh", "-c", "echo 'Hint: not all of it is for you' >&2; exec sleep 600"}
		case "ends":
			return []string{"true"}
		}
		// A child of it holds the output open.
		return []string{"sh", "-c", fmt.Sprintf(`echo '{"MESSAGE":"of %s"}'; sleep 600`, unit)}
	}, send)
	done := make(chan struct{})
	go func() {
		f.run(ctx)
		close(done)
	}()
	for i, want := range []struct{ unit, line string }{
		{"a", "of a"}, {"b", "of b"}, {"missing", "fork/exec /nonexistent/journalctl"},
		{"refused", "No journal files"}, {"refused", "sh: exit status 1"}, {"hint", "Hint: not all"}, {"ends", "true has ended"}, {"c", "of c"},
	} {
		f.follow(Follow{want.unit, i})
		next(t, lines, i, want.line)
	}
	cancel()
	<-done
}

// A flood of lines keeps the newest, and is handed on in a few messages.
func TestFollowerKeepsTheNewest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	send, lines := collect()
	f := newFollower(func(string) []string {
		return []string{"sh", "-c", `i=0; while [ $i -lt 20000 ]; do echo "{\"MESSAGE\":\"line $i\"}"; i=$((i+1)); done; sleep 600`}
	}, send)
	done := make(chan struct{})
	go func() {
		f.run(ctx)
		close(done)
	}()
	f.follow(Follow{"a", 1})
	next(t, lines, 1, "line 19999")
	cancel()
	<-done
}

func TestRates(t *testing.T) {
	t.Parallel()
	figures := func(ns ...uint64) map[string]state.Figures {
		m := map[string]state.Figures{"none": {}}
		for i, n := range ns {
			m[string(rune('a'+i))] = state.Figures{CPUNS: &n}
		}
		return m
	}
	cpu, before := rates(nil, figures(100, 5e9), noon)
	if len(cpu) != 0 {
		t.Errorf("a rate of one reading: %v", cpu)
	}
	cpu, before = rates(before, figures(1e9+100, 1e9, 7), noon.Add(2*time.Second)) // b began anew, c is new
	if diff := cmp.Diff(map[string]float64{"a": 50}, cpu); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	cpu, _ = rates(before, figures(1e9+100, 2e9), noon.Add(3*time.Second))
	if diff := cmp.Diff(map[string]float64{"a": 0, "b": 100}, cpu); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
