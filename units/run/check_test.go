package run

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestParseChecks(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"http://127.0.0.1:8188/":             "",
		"https://u:hunter2@h/x?token=secret": "",
		"127.0.0.1:8188":                     "is no URL",
		"ftp://h/":                           "is no URL of http",
		"http://":                            "is no URL of http",
		"http://u:hunter2@h:bad/":            "is no URL: ",
	} {
		h, err := ParseHTTP(s)
		if (err == nil) != (want == "") || err != nil && (!strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
		if told := h.String(); strings.Contains(told, "hunter2") || strings.Contains(told, "secret") {
			t.Errorf("%s is told as %s", s, told)
		}
	}
	for s, fine := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "h:http": true, "/run/x": true, "h": false, "h:": false, "": false} {
		if _, err := ParseTCP(s); (err == nil) != fine {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestFileOfAnEarlierRun(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := NewFile(path)
	if err := f.check(t.Context(), nil); err == nil {
		t.Error("the old one counts")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context(), nil); err == nil {
		t.Error("no file counts")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// A line is found in whatever pieces it comes, in a line of any length, and
// everything is passed on as it is.
func TestMatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		parts []string
		found bool
	}{
		{"whole", []string{"a\nready now\nb\n"}, true},
		{"in pieces", []string{"a\nrea", "dy n", "ow\nb\n"}, true},
		{"not ended", []string{"ready now"}, false},
		{"goes on", []string{"ready now", " not\n"}, false},
		{"CRLF", []string{"ready now\r\n"}, true},
		{"not at its beginning", []string{"not ready now\n"}, false},
		{"over two lines", []string{"ready\n", " now\n"}, false},
		{"behind a long line", []string{strings.Repeat("x", 10<<20), "\nready now\n"}, true},
		{"late in a long line", []string{strings.Repeat("x", 10<<20), "ready now\n"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := newMatch(regexp.MustCompile(`^ready now$`))
			inR, inW, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			done := make(chan struct{})
			go func() { defer close(done); m.copy(out, inR) }()
			for _, part := range test.parts {
				if _, err := io.WriteString(inW, part); err != nil {
					t.Fatal(err)
				}
			}
			_ = inW.Close()
			<-done
			_ = inR.Close()
			select {
			case <-m.found:
				if !test.found {
					t.Error("found")
				}
			default:
				if test.found {
					t.Error("not found")
				}
			}
			got, err := os.ReadFile(out.Name())
			if err != nil || !bytes.Equal(got, []byte(strings.Join(test.parts, ""))) {
				t.Errorf("%d bytes passed on: %v", len(got), err)
			}
		})
	}
}

// The header is what journald's stdout stream expects, and writing waits.
func TestOpenStream(t *testing.T) {
	t.Parallel()
	socket, lines := listenLines(t)
	f, err := OpenStream(t.Context(), socket, "python3", 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("trouble\n"); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if got, want := <-lines, "python3\n\n3\n1\n0\n0\n0\ntrouble\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := OpenStream(t.Context(), socket+"x", "x", 3); err == nil {
		t.Error("no error without journald")
	}
}
