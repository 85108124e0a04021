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
	log := newLogger(&out, true)
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
	newLogger(&out, false).Warn("late")
	if got := out.String(); !strings.HasPrefix(got, "time=") || !strings.HasSuffix(got, " level=WARN msg=late\n") {
		t.Errorf("to a terminal: %q", got)
	}
}
