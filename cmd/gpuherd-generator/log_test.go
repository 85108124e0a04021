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
		l.error("bad %s", "two\nlines\x1b[0m")
		l.warning("odd")
		l.info("%s", strings.Repeat("é", 1000))
	})
	tag := fmt.Sprintf("gpuherd-generator[%d]: ", os.Getpid())
	long := strings.Repeat("é", 450) + "…"
	if diff := cmp.Diff([]string{"<3>" + tag + "bad two lines [0m", "<4>" + tag + "odd", "<6>" + tag + long}, kmsg); diff != "" {
		t.Errorf("kmsg (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gpuherd-generator: bad two lines [0m", "gpuherd-generator: odd", "gpuherd-generator: " + long}, stderr); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
}

func TestProblemsListed(t *testing.T) {
	t.Parallel()
	var all unitfile.Problems
	for i := range 20 {
		all = append(all, &unitfile.Problem{File: "f", Line: i + 1, Msg: "m", Warning: i < 15})
	}
	kmsg, _ := logged(t, func(l *logger) { l.problems(all) })
	if len(kmsg) != maxListed+1 {
		t.Fatalf("%d lines: %q", len(kmsg), kmsg)
	}
	if !strings.Contains(kmsg[0], "f:16: m") || !strings.Contains(kmsg[5], "<4>") || !strings.HasSuffix(kmsg[maxListed], "13 more problems: gpuherd verify lists them") {
		t.Errorf("%q", kmsg)
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
