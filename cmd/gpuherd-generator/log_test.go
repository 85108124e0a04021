package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/unitfile"
)

// logged runs f with a logger that believes systemd started it.
func logged(t *testing.T, f func(*logger)) (kmsg, stderr []string) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "kmsg")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var buf bytes.Buffer
	f(&logger{stderr: &buf, kmsg: int(file.Fd())})
	data, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), strings.Split(strings.TrimSuffix(buf.String(), "\n"), "\n")
}

func TestKernelLog(t *testing.T) {
	t.Parallel()
	kmsg, stderr := logged(t, func(l *logger) {
		l.error("bad %s", "two\nlines\x1b[0m\u009b2J\xff")
		l.warning("odd")
		l.info("%s", strings.Repeat("é", 1000))
	})
	tag := fmt.Sprintf("gpuherd-generator[%d]: ", os.Getpid())
	long := strings.Repeat("é", 450) + "…"
	if diff := cmp.Diff([]string{"<3>" + tag + "bad two lines [0m 2J\ufffd", "<4>" + tag + "odd", "<6>" + tag + long}, kmsg); diff != "" {
		t.Errorf("kmsg (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gpuherd-generator: bad two lines [0m 2J\ufffd", "gpuherd-generator: odd", "gpuherd-generator: " + long}, stderr); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
}

func TestProblemsListed(t *testing.T) {
	t.Parallel()
	problems := func(file string, errors, warnings int) (all unitfile.Problems) {
		for i := range warnings {
			all = append(all, &unitfile.Problem{File: file, Line: i + 1, Msg: "w", Warning: true})
		}
		for i := range errors {
			all = append(all, &unitfile.Problem{File: file, Line: i + 1, Msg: "e"})
		}
		return all
	}
	var many unitfile.Problems
	for i := range 9 {
		many = append(many, problems(fmt.Sprintf("f%d", i), 2, 0)...)
	}
	var hundreds unitfile.Problems
	for i := range 300 {
		hundreds = append(hundreds, problems(fmt.Sprintf("/etc/gpuherd/services/f%d.service", i), 1, 0)...)
	}
	tests := map[string]struct {
		all  unitfile.Problems
		want []string // of the kernel log, its tag left out
	}{
		"none": {nil, []string{""}},
		"few":  {append(problems("a", 1, 1), problems("b", 1, 0)...), []string{"<3>a:1: e", "<4>a:1: w", "<3>b:1: e"}},
		"one file": {problems("a", 5, 15), []string{
			"<3>a:1: e", "<3>a:2: e", "<3>a:3: e", "<3>a:4: e", "<3>a:5: e", "<4>a:1: w", "<4>a:2: w (+ 13 more in this file)",
			"<3>13 more problems: gpuherd verify lists them",
		}},
		"one hides no other": {append(append(problems("conf", 20, 0), problems("w", 0, 2)...), problems("b", 1, 0)...), []string{
			"<3>conf:1: e", "<3>conf:2: e", "<3>conf:3: e", "<3>conf:4: e (+ 16 more in this file)", "<3>b:1: e", "<4>w:1: w", "<4>w:2: w",
			"<3>16 more problems: gpuherd verify lists them",
		}},
		"many files": {many, []string{
			"<3>f0:1: e (+ 1 more in this file)", "<3>f1:1: e (+ 1 more in this file)", "<3>f2:1: e (+ 1 more in this file)", "<3>f3:1: e (+ 1 more in this file)",
			"<3>f4:1: e (+ 1 more in this file)", "<3>f5:1: e (+ 1 more in this file)", "<3>f6:1: e (+ 1 more in this file)",
			"<3>11 more problems, which gpuherd verify lists, also in f7, f8",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kmsg, _ := logged(t, func(l *logger) { l.problems(tt.all) })
			tag := fmt.Sprintf("gpuherd-generator[%d]: ", os.Getpid())
			for i := range kmsg {
				kmsg[i] = strings.Replace(kmsg[i], tag, "", 1)
			}
			if diff := cmp.Diff(tt.want, kmsg); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	kmsg, _ := logged(t, func(l *logger) { l.problems(hundreds) })
	last := kmsg[len(kmsg)-1]
	if len(kmsg) != maxListed+1 || !strings.HasSuffix(last, " more files") || strings.Contains(last, "…") {
		t.Errorf("%d lines, the last %q", len(kmsg), last)
	}
}

func TestNoKernelLogByHand(t *testing.T) {
	t.Parallel()
	if l := newLogger(&bytes.Buffer{}, false); l.kmsg != -1 {
		t.Error("by hand it writes to the kernel log")
	}
}

func TestJournalWhereThereIsNoKernelLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "dev-log")
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	missing := filepath.Join(dir, "kmsg")
	l := logger{stderr: io.Discard, kmsg: openLog(missing, path)}
	if l.kmsg < 0 {
		t.Fatal("the journal was not opened")
	}
	defer syscall.Close(l.kmsg)
	l.error("bad")
	l.warning("odd")
	for _, want := range []string{"<3>gpuherd-generator[%d]: bad\n", "<4>gpuherd-generator[%d]: odd\n"} {
		buf := make([]byte, 1000)
		n, err := journal.Read(buf)
		if got, want := string(buf[:n]), fmt.Sprintf(want, os.Getpid()); err != nil || got != want {
			t.Errorf("the journal got %q (%v), want %q", got, err, want)
		}
	}
	if fd := openLog(missing, missing); fd >= 0 {
		t.Errorf("opened %d where there is no log", fd)
	}
}
