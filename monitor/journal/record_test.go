package journal

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines returns what journalctl said on a machine with a version of systemd.
func lines(t testing.TB, systemd string) []string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", systemd+".json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []string
	for s := bufio.NewScanner(f); s.Scan(); {
		all = append(all, s.Text())
	}
	if len(all) < 50 {
		t.Fatalf("only %d lines", len(all))
	}
	return all
}

func TestParse(t *testing.T) {
	t.Parallel()
	const times = `"__REALTIME_TIMESTAMP":"1700000000000200","__MONOTONIC_TIMESTAMP":"77"`
	for _, tt := range []struct {
		name, line string
		want       Record
	}{
		{"started", `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","UNIT":"w@0.service","INVOCATION_ID":"ab","JOB_TYPE":"start",` +
			`"_SOURCE_REALTIME_TIMESTAMP":"1700000000000100",` + times + `}`,
			Record{Kind: Started, Unit: "w@0.service", Invocation: "ab", Job: "start", AtUS: 1700000000000100, MonoUS: 77}},
		{"exited", `{"MESSAGE_ID":"98e322203f7a4ed290d09fe03c09fe15","UNIT":"w@0.service","COMMAND":"ExecStart","EXIT_CODE":"killed","EXIT_STATUS":"9",` + times + `}`,
			Record{Kind: Exited, Unit: "w@0.service", Command: "ExecStart", ExitCode: "killed", ExitStatus: 9, AtUS: 1700000000000200, MonoUS: 77}},
		{"dropped", `{"MESSAGE_ID":"a596d6fe7bfa4994828e72309e95d61e",` + times + `}`, Record{Kind: Suppressed, AtUS: 1700000000000200, MonoUS: 77}},
		{"a field twice, one too long, one that is no text", `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","UNIT":["a.service","b.service"],` +
			`"INVOCATION_ID":null,"JOB_TYPE":[255,254],"N_RESTARTS":{},` + times + `}`,
			Record{Kind: Started, Unit: "a.service", AtUS: 1700000000000200, MonoUS: 77}},
	} {
		got, err := Parse([]byte(tt.line))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	for name, line := range map[string]string{
		"nothing":     ``,
		"no object":   `[]`,
		"no id":       `{"UNIT":"a.service",` + times + `}`,
		"another id":  `{"MESSAGE_ID":"ab","UNIT":"a.service",` + times + `}`,
		"no unit":     `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf",` + times + `}`,
		"no time":     `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","UNIT":"a.service","__MONOTONIC_TIMESTAMP":"1"}`,
		"a wild time": `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","UNIT":"a.service","__REALTIME_TIMESTAMP":"1","__MONOTONIC_TIMESTAMP":"-1"}`,
		"cut off":     `{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","UN`,
	} {
		if r, err := Parse([]byte(line)); err == nil {
			t.Errorf("%s is taken for %+v", name, r)
		}
	}
}

func TestParseRecorded(t *testing.T) {
	t.Parallel()
	for _, systemd := range []string{"252", "257"} {
		for _, l := range lines(t, systemd) {
			r, err := Parse([]byte(l))
			if err != nil {
				t.Errorf("%s: %v", systemd, err)
			}
			if strings.Contains(l, "98e322203f7a4ed290d09fe03c09fe15") && (r.ExitCode == "" || r.Command == "") {
				t.Errorf("%s: an exit without its fields: %+v", systemd, r)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, systemd := range []string{"252", "257"} {
		for _, l := range lines(f, systemd)[:20] {
			f.Add([]byte(l))
		}
	}
	f.Add([]byte(`{"MESSAGE_ID":["39f53479d3a045ac8e11786248231fbf"],"UNIT":[[1]],"__REALTIME_TIMESTAMP":"9223372036854775807","__MONOTONIC_TIMESTAMP":"0"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if err != nil {
			return
		}
		if r.Kind == 0 || r.Unit == "" && r.Kind != Suppressed || r.AtUS < 0 {
			t.Errorf("%q is taken for %+v", line, r)
		}
		Reduce([]Record{r, r}, false, Since{})
	})
}
