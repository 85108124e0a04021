package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJournalArgs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		o     logOptions
		given bool // --lines was
		want  []string
	}{
		{"plain", logOptions{lines: "50", output: "with-unit", noHostname: true}, false, []string{"--no-pager", "--output=with-unit", "--lines=50", "--no-hostname", "--unit=a.service", "--unit=-x"}},
		{"all", logOptions{lines: "7", output: "short", follow: true, err: true, since: "-1h", until: "now"}, true, []string{"--no-pager", "--output=short", "--lines=7", "--follow", "--priority=err", "--since=-1h", "--until=now", "--unit=a.service", "--unit=-x"}},
		{"since shows all", logOptions{lines: "50", output: "short", since: "today"}, false, []string{"--no-pager", "--output=short", "--lines=all", "--since=today", "--unit=a.service", "--unit=-x"}},
		{"json", logOptions{lines: "all", output: "short", json: true}, true, []string{"--no-pager", "--output=json", "--lines=all", "--unit=a.service", "--unit=-x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if err := tc.o.check(tc.given); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, journalArgs(tc.o, []string{"a.service", "-x"})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, lines := range []string{"", "-1", "ten", "1e3"} {
		o := logOptions{lines: lines}
		if err := o.check(true); err == nil {
			t.Errorf("--lines %q was taken", lines)
		}
	}
}
