package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"gpuherd/generator/unitfile"
)

// keysPerFile is how many unknown keys each file of a hostile machine has.
const keysPerFile = 100

// hostileMachine is one with thousands of unknown keys, and with names and
// texts that would move a terminal's cursor, turn its direction of writing or
// break a line in two.
func hostileMachine(t *testing.T, files int) string {
	t.Helper()
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const services = "etc/gpuherd/services/"
	for i := range files {
		text := "[Service]\nExecStart=/bin/true\n[X-GPU]\n"
		for n := range keysPerFile {
			text += fmt.Sprintf("\u202eColour%d=red\n", n)
		}
		put(fmt.Sprintf("%sbad%03d.service", services, i), text)
	}
	for _, evil := range evilTexts {
		put(services+"a"+evil+".service", "[Service]\nExecStart=/bin/true\n")
		put(services+"b"+evil+".servcie", "")
		put(services+"c"+evil+".service.d/x.conf", "")
		put("etc/gpuherd/gpuherd.conf.d/"+evil+".conf", "[GPU]\n"+evil+"=1\nCount="+evil+"\n["+evil+"]\n[Service "+evil+"]\nEnabled="+evil+"\n")
	}
	put("proc/1/environ", "NUM_GPUS=\x1b[2J\x00REDIS_URL=redis://\x1b[2J\x00")
	put("proc/cmdline", "gpuherd.\x1b[2J=1 gpuherd.enable_\u202e=1")
	return root
}

var evilTexts = []string{"\x1b[31m", "\x1b]0;title\x07", "\u009b2J", "\u202egnp", "two\nlines", "\x7f\r", "\xff\xfe", "\u2028"}

func inert(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is no UTF-8", what)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if i := strings.IndexFunc(line, func(r rune) bool {
			return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
		}); i >= 0 {
			t.Errorf("%s has a character that a terminal obeys: %q", what, line)
		}
	}
}

func TestThousandsOfHostileProblems(t *testing.T) {
	t.Parallel()
	const problems = 10_000
	root := hostileMachine(t, problems/keysPerFile)
	answer := func(args ...string) (status int, stdout, stderr string) {
		var out, errs bytes.Buffer
		a := newApp()
		a.stdout, a.stderr = &output{Writer: &out}, &output{Writer: &errs}
		status = a.run(t.Context(), append(args, "--root", root))
		return status, out.String(), errs.String()
	}

	status, text, stderr := answer("verify")
	inert(t, "verify", text)
	lines := strings.Count(text, "\n")
	if told := strings.Count(text, "=: unknown key in [X-GPU]; known are "); status != exitFailed || told != problems || stderr != "" {
		t.Errorf("status %d, %d unknown keys are told, want %d; %s", status, told, problems, stderr)
	}

	status, text, _ = answer("verify", "--json")
	inert(t, "verify --json", text)
	var all unitfile.Problems
	if err := json.Unmarshal([]byte(text), &all); err != nil || status != exitFailed || len(all) != lines {
		t.Errorf("status %d, %d problems as JSON, %d as text: %v", status, len(all), lines, err)
	}

	root = hostileMachine(t, 10)
	for _, args := range [][]string{{"explain"}, {"explain", "--json"}, {"explain", "bad001"}, {"explain", evilTexts[0]}} {
		_, text, stderr := answer(args...)
		inert(t, strings.Join(args, " "), text)
		inert(t, strings.Join(args, " "), stderr)
		if text == "" && stderr == "" {
			t.Errorf("%q: no answer", args)
		}
	}
}
