package monit

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/state"
)

var update = flag.Bool("update", false, "write the screens of now into testdata")

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func testCells(u state.Unit, _ time.Time) Cells {
	style := terminal.Good
	if u.Active != "active" {
		style = terminal.Bad
	}
	memory := terminal.None
	if u.MemoryBytes != nil {
		memory = terminal.Size(*u.MemoryBytes) + "/2G"
	}
	status := u.StatusText
	if u.Active == "failed" {
		status = "exit-code, status 3"
	}
	return Cells{
		State: terminal.Cell{Text: u.Sub, Style: style}, Uptime: terminal.Cell{Text: "3d4h"},
		Restarts: terminal.Cell{Text: fmt.Sprint(u.Restarts)}, Memory: terminal.Cell{Text: memory}, Status: terminal.Cell{Text: status},
	}
}

// herd is one of n workers, of which the second has failed.
func herd(n int) Snapshot {
	s := Snapshot{At: noon}
	for i := range n {
		w := Worker{Unit: state.Unit{
			Name: fmt.Sprintf("redis-worker@%d.service", i), GPU: ptr(i), Active: "active", Sub: "running",
			MemoryBytes: ptr(uint64(300+i) << 20), StatusText: fmt.Sprintf("job job-%d, attempt 1 of 3: %d%%", i, i*10),
		}, CPU: ptr(float64(i) * 12.5)}
		if i == 1 {
			w.Active, w.Sub, w.CPU, w.MemoryBytes, w.Restarts = "failed", "failed", nil, nil, 12
		}
		s.Workers = append(s.Workers, w)
		s.GPUs = append(s.GPUs, state.GPU{Index: i, Memory: 80 << 30, Health: state.Healthy, Temperature: ptr(40 + i), Utilisation: ptr(i * 7 % 101)})
	}
	s.GPUs[1].Health, s.GPUs[1].Reasons, s.GPUs[1].Temperature = state.Unhealthy, []string{"XID 79"}, nil
	return s
}

func logged(number, n int) LogLines {
	l := LogLines{Number: number}
	for i := range n {
		line := Line{At: noon.Add(time.Duration(i) * time.Second), Text: fmt.Sprintf("step %d of %d", i+1, n)}
		if i%10 == 9 {
			line.Text, line.Style = "Error: out of memory at"+strings.Repeat(" a very long address", 8), terminal.Bad
		}
		l.Lines = append(l.Lines, line)
	}
	return l
}

// A stage is a model under test, and the effects that it wanted.
type stage struct {
	t *testing.T
	Model
	effects []Effect
}

func newStage(t *testing.T, width, height int) *stage {
	t.Helper()
	s := &stage{t: t, Model: NewModel("host-a", terminal.Screen{Terminal: true}, testCells)}
	s.tell(tea.WindowSizeMsg{Width: width, Height: height})
	return s
}

func (s *stage) tell(messages ...tea.Msg) {
	s.t.Helper()
	for _, msg := range messages {
		var effect Effect
		if s.Model, effect = s.Update(msg); effect != nil {
			s.effects = append(s.effects, effect)
		}
		s.fits()
	}
}

// press presses keys: each word is one, but for those that begin with a quote,
// which are typed.
func (s *stage) press(keys ...string) {
	s.t.Helper()
	for _, key := range keys {
		if text, typed := strings.CutPrefix(key, "'"); typed {
			for _, r := range text {
				s.tell(tea.KeyPressMsg{Code: r, Text: string(r)})
			}
			continue
		}
		s.tell(keyPress(s.t, key))
	}
}

func keyPress(t *testing.T, key string) tea.KeyPressMsg {
	t.Helper()
	special := map[string]tea.KeyPressMsg{
		"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "backspace": {Code: tea.KeyBackspace},
		"up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown},
		"home": {Code: tea.KeyHome}, "end": {Code: tea.KeyEnd}, "space": {Code: tea.KeySpace, Text: " "},
		"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "ctrl+z": {Code: 'z', Mod: tea.ModCtrl}, "ctrl+u": {Code: 'u', Mod: tea.ModCtrl},
	}
	msg, ok := special[key]
	if !ok {
		msg = tea.KeyPressMsg{Code: []rune(key)[0], Text: key}
	}
	if got := msg.String(); got != key {
		t.Fatalf("key %q is %q to bubbletea", key, got)
	}
	return msg
}

// fits fails where the screen is larger than the terminal, or has what a
// terminal obeys.
func (s *stage) fits() {
	s.t.Helper()
	view := s.View()
	lines := strings.Split(view, "\n")
	if len(lines) > s.height {
		s.t.Fatalf("%d lines on a screen of %d:\n%s", len(lines), s.height, view)
	}
	for _, line := range lines {
		if terminal.Width(line) > s.width {
			s.t.Fatalf("a line of %d columns on a screen of %d: %q", terminal.Width(line), s.width, line)
		}
		if strings.ContainsFunc(line, unicode.IsControl) {
			s.t.Fatalf("a control character: %q", line)
		}
	}
}

func (s *stage) has(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		if !strings.Contains(s.View(), text) {
			s.t.Errorf("no %q in:\n%s", text, s.View())
		}
	}
}

func (s *stage) hasNot(text string) {
	s.t.Helper()
	if strings.Contains(s.View(), text) {
		s.t.Errorf("%q in:\n%s", text, s.View())
	}
}

func (s *stage) wanted(effects ...Effect) {
	s.t.Helper()
	if diff := cmp.Diff(effects, s.effects); diff != "" {
		s.t.Errorf("effects (-want +got):\n%s", diff)
	}
	s.effects = nil
}

func (s *stage) golden(name string) {
	s.t.Helper()
	file := filepath.Join("testdata", fmt.Sprintf("%s.%dx%d", name, s.width, s.height))
	got := s.View() + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatalf("%v; go test -update writes it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestScreens(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {200, 50}} {
		for _, tc := range []struct {
			name string
			do   func(*stage)
		}{
			{"start", func(s *stage) {
				s.Model = NewModel("host-a", terminal.Screen{Terminal: true}, testCells)
				s.tell(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
			}},
			{"empty", func(s *stage) { s.tell(Snapshot{At: noon}) }},
			{"herd", func(*stage) {}},
			{"no-gpus", func(s *stage) {
				h := herd(4)
				h.GPUs, h.NoGPUs = nil, "nobody answers"
				s.tell(h)
			}},
			{"lost", func(s *stage) {
				h := herd(4)
				h.Lost = true
				s.tell(h)
			}},
			{"many", func(s *stage) {
				s.tell(herd(64))
				for range 40 {
					s.press("j")
				}
			}},
			{"search", func(s *stage) { s.press("/", "'memory", "enter", "n") }},
			{"filter", func(s *stage) { s.press("&", "'error", "enter", "w") }},
			{"typing", func(s *stage) { s.press("/", "'out of") }},
			{"log", func(s *stage) { s.press("l", "pgup") }},
			{"events", func(s *stage) {
				h := herd(4)
				h.Events = []Line{
					{At: noon, Text: "redis-worker@1 failed: exit-code, status 3", Style: terminal.Bad},
					{At: noon.Add(time.Second), Text: "redis-worker@1 running, PID 12", Style: terminal.Good},
				}
				s.tell(h)
				s.press("e")
			}},
			{"details", func(s *stage) {
				s.press("enter")
				s.tell(Details{Unit: "redis-worker@0.service", Lines: []string{"Unit: redis-worker@0.service", "State: active/running"}})
			}},
			{"help", func(s *stage) { s.press("?") }},
			{"question", func(s *stage) { s.press("r") }},
			{"scale", func(s *stage) {
				s.press("+")
				s.tell(counted("redis-worker@0.service", 1))
			}},
			{"scaling", func(s *stage) {
				s.press("+")
				s.tell(counted("redis-worker@0.service", 1))
				s.press("y")
				s.tell(Progress{"start: 1 of 2 done, 3s, waiting for redis-worker@1.2"})
			}},
			{"unscaled", func(s *stage) {
				s.press("+")
				s.tell(counted("redis-worker@0.service", 1))
				s.press("y")
				s.tell(Scaled{Done{Text: "2 of 2 units did not start; see: gpuherd logs redis-worker@0.2 redis-worker@1.2; to undo it: gpuherd scale redis-worker 1"}})
			}},
			{"refused", func(s *stage) {
				s.press("s", "y")
				s.tell(Done{Text: "redis-worker@0: systemd does not let you stop it"})
			}},
		} {
			t.Run(fmt.Sprintf("%s %dx%d", tc.name, size[0], size[1]), func(t *testing.T) {
				t.Parallel()
				s := newStage(t, size[0], size[1])
				s.tell(herd(4), logged(1, 100))
				tc.do(s)
				s.golden(tc.name)
			})
		}
	}
}

func TestSelection(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(4))
	s.wanted(Follow{"redis-worker@0.service", 1})
	s.press("j", "down", "k")
	s.wanted(Follow{"redis-worker@1.service", 2}, Follow{"redis-worker@2.service", 3}, Follow{"redis-worker@1.service", 4})
	s.tell(LogLines{2, []Line{{Text: "of the first time"}}}, LogLines{4, []Line{{Text: "of this time"}}})
	s.has("of this time")
	s.hasNot("of the first time")
	s.press("G", "j", "g", "k")
	s.wanted(Follow{"redis-worker@3.service", 5}, Follow{"redis-worker@0.service", 6})

	// The selection is the worker's, not the row's.
	s.press("j", "j")
	s.effects = nil
	h := herd(4)
	h.Workers = h.Workers[1:]
	s.tell(h)
	s.wanted()
	s.has("> redis-worker@2")
	// It moves on when its worker leaves.
	h.Workers = h.Workers[:1]
	s.tell(h)
	s.wanted(Follow{"redis-worker@1.service", 9})
	h.Workers = nil
	s.tell(h)
	s.press("j", "r", "s", "enter")
	s.has("the herd is empty")
	s.wanted()
	s.tell(herd(2))
	s.wanted(Follow{"redis-worker@0.service", 10})
}

func TestControlIsAskedForFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(2))
	s.effects = nil
	for _, no := range []string{"n", "esc", "q", "enter"} {
		s.press("r")
		s.has("restart redis-worker@0? y yes, n no")
		s.press("j", "x") // neither yes nor no
		s.press(no)
		s.wanted()
		s.has("left as it is")
	}
	s.press("r", "y")
	s.wanted(Control{jobs.Restart, "redis-worker@0.service"})
	s.tell(Done{Text: "redis-worker@0: restarted in 53ms", OK: true})
	s.has("restarted in 53ms")
	s.press("s", "y")
	s.wanted(Control{jobs.Stop, "redis-worker@0.service"})
	s.press("j")
	s.has("s start")
	s.press("s", "Y")
	s.wanted(Follow{"redis-worker@1.service", 2}, Control{jobs.Start, "redis-worker@1.service"})
	// What is asked for is what was asked about, whatever happens meanwhile.
	s.press("r")
	h := herd(2)
	h.Workers = h.Workers[:1]
	s.tell(h)
	s.press("y")
	s.wanted(Follow{"redis-worker@0.service", 3}, Control{jobs.Restart, "redis-worker@1.service"})
	s.press("q")
	s.wanted(Quit{})
	s.press("ctrl+z")
	s.wanted(Suspend{})
}

// counted is an answer to Count, with the limits of 1 and 256 workers.
func counted(unit string, now int) Counted {
	return Counted{Unit: unit, Service: "redis-worker", Now: now, Possible: func(n int) error {
		if n < 1 || n > 256 {
			return fmt.Errorf("%d workers cannot be", n)
		}
		return nil
	}}
}

func TestScale(t *testing.T) {
	t.Parallel()
	count := Count{"redis-worker@0.service"}
	scale := func(n int) []Effect { return []Effect{count, Scale{"redis-worker", n}} }
	for name, tc := range map[string]struct {
		key  string
		now  int
		then []string // after the answer to Count
		want []Effect
		sees string
	}{
		"one more":             {"+", 1, []string{"y"}, scale(2), "redis-worker: scaling from 1 to 2…"},
		"one less":             {"-", 2, []string{"Y"}, scale(1), "redis-worker: scaling from 2 to 1…"},
		"asked":                {"-", 2, nil, []Effect{count}, "scale redis-worker from 2 to 1 worker on each device? y yes, n no, + - number"},
		"no":                   {"+", 1, []string{"n"}, []Effect{count}, "redis-worker: left as it is"},
		"left":                 {"+", 1, []string{"esc"}, []Effect{count}, "redis-worker: left as it is"},
		"Enter is no":          {"+", 1, []string{"enter"}, []Effect{count}, "redis-worker: left as it is"},
		"to none":              {"-", 1, nil, []Effect{count}, "0 workers cannot be"},
		"above the most":       {"+", 256, nil, []Effect{count}, "257 workers cannot be"},
		"further":              {"+", 1, []string{"+", "+", "-", "y"}, scale(3), "from 1 to 3…"},
		"not below the least":  {"-", 2, []string{"-", "-", "+", "y"}, scale(2), "from 2 to 2…"},
		"not above the most":   {"+", 255, []string{"+", "+", "y"}, scale(256), "from 255 to 256…"},
		"typed":                {"+", 1, []string{"1", "2"}, []Effect{count}, "from 1 to 12 workers"},
		"typed and done":       {"+", 1, []string{"1", "2", "y"}, scale(12), "from 1 to 12…"},
		"typed and mended":     {"+", 1, []string{"1", "2", "backspace", "6", "y"}, scale(16), "from 1 to 16…"},
		"begun anew":           {"+", 1, []string{"9", "+", "4", "y"}, scale(4), "from 1 to 4…"},
		"typed none":           {"+", 1, []string{"0", "y"}, []Effect{count}, "0 workers cannot be"},
		"typed too many":       {"+", 1, []string{"9", "9", "9", "9", "9", "9", "y"}, []Effect{count}, "9999 workers cannot be"},
		"other keys are quiet": {"+", 1, []string{"j", "x", "/"}, []Effect{count}, "from 1 to 2 workers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 80, 24)
			s.tell(herd(2))
			s.effects = nil
			s.press(tc.key)
			s.tell(counted("redis-worker@0.service", tc.now))
			s.press(tc.then...)
			s.wanted(tc.want...)
			s.has(tc.sees)
		})
	}
}

func TestScaleIsCountedFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.press("+") // nobody is there
	s.wanted()
	s.tell(herd(2))
	s.effects = nil
	count := Count{"redis-worker@0.service"}

	// No yes before there is a question, and what is pressed meanwhile counts.
	s.press("+", "y", "+")
	s.wanted(count)
	s.tell(counted("redis-worker@0.service", 1))
	s.has("from 1 to 3 workers")
	s.press("n")

	// An answer that nobody waits for is no question.
	s.press("+", "n")
	s.tell(counted("redis-worker@0.service", 1))
	s.press("y")
	s.wanted(count)
	s.press("r")
	s.tell(counted("redis-worker@0.service", 1))
	s.has("restart redis-worker@0?")
	s.press("n", "+")
	s.tell(counted("redis-worker@1.service", 1))
	s.hasNot("scale redis-worker")
	s.tell(Counted{Unit: "redis-worker@0.service", Refused: "it runs once a host"})
	s.has("it runs once a host")
	s.hasNot("scale redis-worker")
}

func TestWhileItScales(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(2))
	s.press("+")
	s.tell(counted("redis-worker@0.service", 1))
	s.press("y")
	s.effects = nil

	// Everything else goes on, and how far it is comes back to be seen.
	s.press("j")
	s.tell(Progress{"start: 0 of 2 done, 1s, waiting for redis-worker@0.2"})
	s.has("waiting for redis-worker@0.2", "> redis-worker@1")
	s.press("/", "'x")
	s.tell(Progress{"start: 1 of 2 done, 2s, waiting for redis-worker@1.2"})
	s.has("search: x")
	s.press("esc")
	s.has("waiting for redis-worker@1.2")
	s.tell(Done{Text: "redis-worker@0: restarted", OK: true})
	s.has("redis-worker@0: restarted")
	s.press("k")
	s.has("waiting for redis-worker@1.2")
	s.effects = nil

	// One after the other, and nothing is left half done unasked.
	s.press("-")
	s.has("redis-worker is being scaled; one after the other")
	s.press("q")
	s.has("quit, and leave that half done?")
	s.press("n", "q", "y")
	s.wanted(Quit{})
	s.press("ctrl+c")
	s.wanted(Quit{})

	// New workers come, and the selection stays with its own.
	h := herd(2)
	added := Worker{Unit: state.Unit{Name: "redis-worker@0.2.service", GPU: ptr(0), Active: "active", Sub: "running"}}
	h.Workers = []Worker{h.Workers[0], added, h.Workers[1]}
	s.tell(h, Scaled{Done{Text: "redis-worker has 2 workers a device (1 before)", OK: true}})
	s.has("> redis-worker@0 ", "redis-worker@0.2", "has 2 workers a device")
	s.hasNot("waiting for")
	s.tell(Progress{"too late"})
	s.press("j")
	s.hasNot("too late")
	s.has("> redis-worker@0.2", "Enter details")

	// A worker that goes leaves the selection to the next one.
	s.effects = nil
	s.tell(herd(2))
	s.has("> redis-worker@1")
	s.press("q")
	s.wanted(Follow{"redis-worker@1.service", 5}, Quit{})
}

// A long name does not push the numbers out of the question, and long news
// break between words.
func TestLongNames(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(2))
	s.press("+")
	c := counted("redis-worker@0.service", 100)
	c.Service = strings.Repeat("long-", 40)
	s.tell(c)
	s.has("… from 100 to 101 workers on each device? y yes, n no, + - number")
	s.press("n")
	s.tell(Done{Text: strings.Repeat("a word ", 41) + strings.Repeat("long", 30) + " end"})
	s.has("word a word a\nword a", "longl…")
	s.hasNot("end")
}

func TestWrapWords(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"none":       {"", nil},
		"fits":       {"one two", []string{"one two"}},
		"exactly":    {"0123456789", []string{"0123456789"}},
		"breaks":     {"0123456 89 1", []string{"0123456 89", "1"}},
		"long word":  {"0123456789ab cd", []string{"012345678…", "cd"}},
		"too much":   {"one two three four five six seven", []string{"one two", "three four", "five six …"}},
		"wide":       {"漢字漢字漢字 漢", []string{"漢字漢字…", "漢"}},
		"two spaces": {"01234567  9ab", []string{"01234567 ", "9ab"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, wrapWords(tc.text, 10, 3)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestScrolling(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(2), logged(1, 100))
	s.has("12:01:39", "following")
	s.press("pgup")
	s.hasNot("12:01:39")
	s.has("stopped")
	before := s.View()
	// New lines move nothing, not even when old ones are dropped.
	s.tell(logged(1, 100))
	if diff := cmp.Diff(before, s.View()); diff != "" {
		t.Errorf("the screen moved (-before +after):\n%s", diff)
	}
	s.press("l", "g")
	s.has("12:00:00 step 1 of 100")
	s.press("k", "k")
	s.has("12:00:00 step 1 of 100")
	s.press("j")
	s.hasNot("12:00:00 step 1 of 100\n")
	s.press("G")
	s.has("following")
	s.press("f")
	s.has("stopped")
	s.tell(LogLines{1, []Line{{Text: "the newest"}}})
	s.hasNot("the newest")
	s.press("f")
	s.has("the newest")
	s.press("esc")
	s.has("UNIT")
	for range 30 {
		s.tell(logged(1, 100))
	}
	if n := len(s.panes[logs].lines); n != keep {
		t.Errorf("%d lines are kept, want %d", n, keep)
	}
}

func TestSearchAndFilter(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(2))
	texts := []string{"Alpha", "beta", "alpha two", "gamma", "50% [x](y)"}
	l := LogLines{Number: 1}
	for _, text := range texts {
		l.Lines = append(l.Lines, Line{Text: text})
	}
	s.tell(l)
	s.press("/", "'alpha", "enter")
	s.has(">alpha two")
	s.press("n")
	s.has(">Alpha")
	s.press("n")
	s.has(`no other line has "alpha"`, ">Alpha")
	s.press("N")
	s.has(">alpha two")
	s.press("/", "'Alpha", "enter") // with upper case, exactly so
	s.has(">Alpha")
	s.press("/", "'[x](", "enter")
	s.has(">50% [x](y)")
	s.press("/", "'nowhere", "enter")
	s.has(`no line has "nowhere"`)
	s.press("&", "'ALPHb", "backspace", "ctrl+u", "'alpha", "enter")
	s.has("Alpha", "alpha two", `only "alpha"`)
	s.hasNot("beta")
	s.tell(LogLines{1, []Line{{Text: "delta"}, {Text: "alpha three"}}})
	s.has("alpha three")
	s.hasNot("delta")
	s.press("&", "esc")
	s.hasNot("beta")
	s.press("esc")
	s.has("beta", "delta")
	s.press("n")
	s.has("nothing is searched for")
	s.press("/")
	s.tell(tea.PasteMsg{Content: "al\x1b[2Jpha\n"})
	s.has(`search: al\x1b[2Jpha`)
}

func TestPanes(t *testing.T) {
	t.Parallel()
	s := newStage(t, 80, 24)
	s.tell(herd(2), logged(1, 5))
	s.effects = nil
	s.press("enter")
	s.wanted(Describe{"redis-worker@0.service"})
	s.has("asking systemd…")
	s.tell(Details{Unit: "redis-worker@1.service", Lines: []string{"of another"}})
	s.hasNot("of another")
	s.tell(Details{Unit: "redis-worker@0.service", Lines: []string{"of this one"}})
	s.has("of this one")
	s.press("q") // back, not out
	s.wanted()
	s.has("log of redis-worker@0", "step 4 of 5")
	s.press("?")
	s.has("help", "Ctrl+Z")
	s.press("esc", "e")
	s.has("events since")
	s.press("e")
	s.has("log of redis-worker@0")
	s.press("ctrl+c")
	s.wanted(Quit{})
}

func TestDetailsAreLive(t *testing.T) {
	t.Parallel()
	describe := Describe{"redis-worker@0.service"}
	answer := func(up string) Details {
		d := Details{Unit: describe.Unit, Lines: []string{"State: up " + up}}
		for i := range 40 {
			d.Lines = append(d.Lines, fmt.Sprintf("Environment: V%d=%s", i, up))
		}
		return d
	}
	later := func(d time.Duration) Snapshot {
		h := herd(2)
		h.At = noon.Add(d)
		return h
	}
	s := newStage(t, 80, 24)
	s.tell(herd(2))
	s.effects = nil
	s.tell(later(time.Hour)) // nobody looks at them
	s.wanted()
	s.press("enter")
	s.wanted(describe)

	// One question at a time, and each second at most.
	s.tell(later(time.Hour+2*time.Second), later(time.Hour+4*time.Second))
	s.wanted()
	s.tell(answer("4s"))
	s.has("up 4s")
	s.tell(later(time.Hour + 6*time.Second))
	s.wanted(describe)
	s.tell(answer("6s"), later(time.Hour+6*time.Second+renewal/2))
	s.wanted()
	s.has("up 6s")
	s.hasNot("4s")

	// What somebody reads stays where it is.
	s.press("G", "/", "'V35=", "enter")
	s.tell(later(time.Hour+8*time.Second), answer("8s"))
	s.wanted(describe)
	s.has(">Environment: V35=8s")
	s.hasNot("State:")
	s.press("g")
	s.has("State: up 8s")
	s.press("enter")

	// Another's, asked for meanwhile, is not taken for an answer.
	s.effects = nil
	s.tell(Details{Unit: "redis-worker@1.service"}, later(2*time.Hour))
	s.wanted()
	s.tell(answer("1h"), later(3*time.Hour))
	s.wanted(describe)
	s.tell(answer("2h"))

	// Not while systemd is lost, and no more once they are left.
	lost := later(4 * time.Hour)
	lost.Lost = true
	s.tell(lost)
	s.wanted()
	s.tell(later(5 * time.Hour))
	s.wanted(describe)
	s.press("q")
	s.tell(answer("5h"), later(6*time.Hour))
	s.wanted()
	s.hasNot("5h")

	// Its worker may leave: then whoever is asked says so.
	s.press("enter")
	s.tell(answer("6h"))
	s.effects = nil
	left := later(7 * time.Hour)
	left.Workers = nil
	s.tell(left)
	s.wanted(describe)
}

// What workers and logs say must never move the cursor; fits looks at each
// screen.
func TestHostileTextIsInert(t *testing.T) {
	t.Parallel()
	const evil = "\x1b[2J\x1b]0;owned\x07\u009b2J\u202egnp\r\n\xff"
	for _, size := range [][2]int{{1, 1}, {39, 9}, {40, 10}, {41, 11}, {80, 24}, {200, 50}, {500, 3}} {
		s := newStage(t, size[0], size[1])
		h := herd(3)
		for i := range h.Workers {
			w := &h.Workers[i]
			w.Name, w.Sub, w.StatusText = evil+w.Name, evil, evil
			h.GPUs[i].Health = evil
		}
		s.host = evil
		s.tell(h, Done{Text: evil}, LogLines{1, []Line{{Text: plain(evil)}, {Text: plain("漢字かな交じり文" + evil)}}})
		s.press("j", "r", "n", "l", "w", "e", "?", "esc", "/", "'x", "enter", "&")
		s.tell(tea.PasteMsg{Content: evil + strings.Repeat("字", 300)})
		s.press("enter", "enter", "q")
	}
}

func TestColours(t *testing.T) {
	t.Parallel()
	m := NewModel("host-a", terminal.Screen{Terminal: true, Color: true}, testCells)
	m, _ = m.Update(herd(3))
	m, _ = m.Update(logged(1, 20))
	m.panes[logs].find = newPattern("memory")
	view := m.View()
	for _, want := range []string{"\x1b[7m> redis-worker@0", "\x1b[31mfailed\x1b[0m", "\x1b[32mrunning\x1b[0m", "\x1b[7mmemory\x1b[0m"} {
		if !strings.Contains(view, want) {
			t.Errorf("no %q in %q", want, view)
		}
	}
}
