package journal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// journalctl makes a Journal of which journalctl is a shell script. $reverse
// tells it which of the two questions it is asked.
func journalctl(t *testing.T, script string) *Journal {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journalctl")
	text := "case \"$*\" in *--reverse*) reverse=yes;; *) reverse=;; esac\n" + script
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Journal{BootID: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", Command: []string{"/bin/sh", path}, Timeout: 20 * time.Second}
}

// reversed writes a recording as `journalctl --reverse` would and returns its
// path and its records in their order.
func reversed(t *testing.T) (string, []Record) {
	t.Helper()
	all := lines(t, "257")
	var b strings.Builder
	for i := range all {
		b.WriteString(all[len(all)-1-i] + "\n")
	}
	path := filepath.Join(t.TempDir(), "reversed")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, records(t, "257")
}

func TestSince(t *testing.T) {
	t.Parallel()
	path, all := reversed(t)
	oldest := `echo '{"__MONOTONIC_TIMESTAMP":"5"}'`
	for _, tt := range []struct {
		name   string
		script string
		from   uint64
		most   int
		want   int    // records
		short  string // in the error; empty: none
	}{
		{"back to a record", "cat " + path, all[10].MonoUS + 2_000_000, 0, len(all) - 10, ""},
		{"back beyond the first", "[ $reverse ] && exec cat " + path + "; " + oldest + "; exec sleep 1000", 6, 0, len(all), ""},
		{"the journal begins later", "[ $reverse ] && exec cat " + path + "; " + oldest, 4, 0, len(all), "oldest entry is 1µs younger"},
		{"of this boot there is nothing", "exit 0", 4, 0, 0, "no entry of this boot"},
		{"no permission", "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", 4, 0, 0, "insufficient permissions"},
		{"it fails half-way", "[ $reverse ] && head -n 7 " + path + "; echo 'Bad message' >&2; exit 1", 4, 0, 7, "Bad message"},
		{"too many", "cat " + path, 4, 20, 20, "more than 20 records"},
		{"something odd between", "echo '{}'; echo nonsense; cat " + path, all[10].MonoUS + 2_000_000, 0, len(all) - 10, "2 entries could not be read"},
		{"a line without an end", "head -c 2000000 /dev/zero", 4, 0, 0, "cannot read what journalctl says"},
		{"it ends as it is read", "cat " + path + "; exit 3", all[0].MonoUS, 0, len(all), "exit status 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j := journalctl(t, tt.script)
			j.MaxRecords = tt.most
			x := j.Since(t.Context(), tt.from)
			if len(x.Records) != tt.want {
				t.Errorf("%d records, want %d", len(x.Records), tt.want)
			}
			for i, r := range x.Records {
				if r != all[len(all)-len(x.Records)+i] && tt.name != "it fails half-way" {
					t.Fatalf("record %d is %+v", i, r)
				}
			}
			switch {
			case x.Short == nil && tt.short != "":
				t.Errorf("whole, want %q", tt.short)
			case x.Short != nil && (tt.short == "" || !strings.Contains(x.Short.Error(), tt.short)):
				t.Errorf("short: %v, want %q", x.Short, tt.short)
			}
		})
	}
}

// A journalctl that hangs, or that something else keeps open, ends with its
// time, and what it said until then is used.
func TestSinceHangs(t *testing.T) {
	t.Parallel()
	path, all := reversed(t)
	for name, script := range map[string]string{
		"hangs":                  "cat " + path + "; exec sleep 1000",
		"leaves somebody behind": "cat " + path + "; sleep 5 & exec sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := journalctl(t, script)
			j.Timeout = 300 * time.Millisecond
			x := j.Since(t.Context(), 4)
			if len(x.Records) != len(all) || !errors.Is(x.Short, context.DeadlineExceeded) {
				t.Errorf("%d records, %v", len(x.Records), x.Short)
			}
		})
	}
}

// A flood ends at its bound.
func TestSinceFlood(t *testing.T) {
	t.Parallel()
	j := journalctl(t, `exec yes '{"nothing":"of interest, and a long line of it to come to the end earlier"}'`)
	j.MaxBytes = 1 << 20
	x := j.Since(t.Context(), 4)
	if x.Short == nil || !strings.Contains(x.Short.Error(), "more than 1048576 bytes") {
		t.Errorf("%d records, %v", len(x.Records), x.Short)
	}
}

func TestSinceNoJournalctl(t *testing.T) {
	t.Parallel()
	j := &Journal{Command: []string{"/nonexistent/journalctl"}}
	if x := j.Since(t.Context(), 4); x.Short == nil || !strings.Contains(x.Short.Error(), "cannot start journalctl") {
		t.Errorf("%d records, %v", len(x.Records), x.Short)
	}
}

// The question is one that journalctl understands, as far as there is one here.
func TestArguments(t *testing.T) {
	t.Parallel()
	j := &Journal{BootID: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"}
	got := strings.Join(j.matches(), " ")
	for _, want := range []string{"_BOOT_ID=aaaaaaaabbbbccccddddeeeeeeeeeeee _PID=1 ", " + _BOOT_ID=aaaaaaaabbbbccccddddeeeeeeeeeeee _TRANSPORT=driver "} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if n := strings.Count(got, "MESSAGE_ID="); n != len(kinds) {
		t.Errorf("%d message ids, want %d", n, len(kinds))
	}
}
