package journal

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := newLogger(&out, nil, true)
	log.Debug("not shown")
	log.Info("ready", "redis", "redis://127.0.0.1")
	log.With("job", "a b").WithGroup("g").Warn("late", "time", 3)
	log.Error("cannot start", "error", "two\nlines")
	want := "<6>msg=ready redis=redis://127.0.0.1\n" +
		"<4>msg=late job=\"a b\" g.time=3\n" +
		"<3>msg=\"cannot start\" error=\"two\\nlines\"\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("to the journal (-want +got):\n%s", diff)
	}

	out.Reset()
	newLogger(&out, nil, false).Warn("late")
	if got := out.String(); !strings.HasPrefix(got, "time=") || !strings.HasSuffix(got, " level=WARN msg=late\n") {
		t.Errorf("to a terminal: %q", got)
	}
}

func TestJobLines(t *testing.T) {
	t.Parallel()
	path, next := listen(t)
	n, err := openNative(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var out bytes.Buffer
	log := newLogger(&out, n, true)
	log.Info("ready")
	log.Warn("late", "job", "j 1")
	log.With("job", "j2").Info("job finished")
	for _, want := range []string{"MESSAGE=msg=late job=\"j 1\"\nPRIORITY=4\n", "MESSAGE=msg=\"job finished\" job=j2\nPRIORITY=6\n"} {
		got := next()
		if !strings.HasPrefix(got, want) || !strings.Contains(got, "\nJOB_ID=j") {
			t.Errorf("entry %q, want %q, and JOB_ID=", got, want)
		}
	}
	if want := "<6>msg=ready\n"; out.String() != want {
		t.Errorf("to stderr %q, want %q", out.String(), want)
	}
	n.Close()
	n.path = "/nonexistent"
	log.Warn("late", "job", "j 1") // the journal is gone
	if want := "<6>msg=ready\n<4>msg=late job=\"j 1\"\n"; out.String() != want {
		t.Errorf("to stderr %q, want %q", out.String(), want)
	}
}
