package monit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"gpuherd/cmd/gpuherd/internal/terminal"
)

const (
	// settle is how long a worker is selected before its journal is read, so
	// that going down a list starts no process for each.
	settle = 120 * time.Millisecond
	// maxEntry is the longest entry that is read, in bytes of its JSON: a byte
	// takes up to four there.
	maxEntry = 1 << 20
	// maxText is how much of a message is shown, in bytes.
	maxText = 8 << 10
)

// A follower runs journalctl for the worker that is selected.
type follower struct {
	command func(unit string) []string
	send    func(tea.Msg)

	wanted chan Follow // holds one: the newest
}

func newFollower(command func(unit string) []string, send func(tea.Msg)) *follower {
	return &follower{command: command, send: send, wanted: make(chan Follow, 1)}
}

// follow asks for another unit. Only one goroutine may call it.
func (f *follower) follow(w Follow) {
	select {
	case <-f.wanted: // nobody has begun with it
	default:
	}
	f.wanted <- w
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-f.wanted:
			end()
			end = f.begin(ctx, w)
		}
	}
}

// begin reads one journal until the function that it returns is called, which
// waits for the end.
func (f *follower) begin(ctx context.Context, w Follow) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if pause(ctx, settle) {
			f.read(ctx, w)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// read hands on one journal until ctx ends, or says why it cannot.
func (f *follower) read(ctx context.Context, w Follow) {
	in := &inbox{changed: make(chan struct{}, 1)}
	var handing sync.WaitGroup
	done := make(chan struct{})
	handing.Go(func() {
		for more := true; more; {
			select {
			case <-done:
				more = false
			case <-in.changed:
				pause(ctx, calm)
			}
			if lines := in.take(); len(lines) > 0 && ctx.Err() == nil {
				f.send(LogLines{w.Number, lines})
			}
		}
	})
	if err := journal(ctx, f.command(w.Unit), in.put); err != nil && ctx.Err() == nil {
		in.put(Line{Text: terminal.Inert(err.Error()), Style: terminal.Bad})
	}
	close(done)
	handing.Wait()
}

// An inbox holds lines until they are taken, the newest.
type inbox struct {
	changed chan struct{} // holds one: there are lines

	mu    sync.Mutex
	lines []Line
}

func (in *inbox) put(l Line) {
	in.mu.Lock()
	if len(in.lines) >= 2*keep {
		in.lines = append(in.lines[:0], in.lines[keep:]...)
	}
	in.lines = append(in.lines, l)
	in.mu.Unlock()
	select {
	case in.changed <- struct{}{}:
	default:
	}
}

func (in *inbox) take() []Line {
	in.mu.Lock()
	defer in.mu.Unlock()
	lines := in.lines
	in.lines = nil
	return lines
}

// journal runs the command and puts each entry that it writes.
func journal(ctx context.Context, command []string, put func(Line)) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second // should something else hold its output open
	// Ctrl+C on the terminal is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = &remarks{put: put}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = out.Close() })() // a grandchild may hold it open
	readErr := entries(out, put)
	switch err := cmd.Wait(); {
	case err != nil:
		return fmt.Errorf("%s: %w", command[0], err)
	case readErr != nil:
		return readErr
	}
	return errors.New(command[0] + " has ended; select the worker anew to read on")
}

// remarks are the lines that a program writes to stderr, the first of them: why
// there is no log, or that some of it is not for this user.
type remarks struct {
	put  func(Line)
	told int
	rest []byte
}

// Write implements io.Writer.
func (r *remarks) Write(p []byte) (int, error) {
	const most, longest = 10, 1 << 10
	for _, b := range p {
		switch {
		case b != '\n':
			if len(r.rest) < longest {
				r.rest = append(r.rest, b)
			}
			continue
		case r.told < most:
			r.put(Line{Text: plain(string(r.rest)), Style: terminal.Busy})
		}
		r.told++
		r.rest = r.rest[:0]
	}
	return len(p), nil
}

// entries reads lines of JSON, as journalctl writes them. One that is too long
// is told, and not read.
func entries(from io.Reader, put func(Line)) error {
	r := bufio.NewReaderSize(from, 64<<10)
	var entry []byte
	size := 0
	for {
		part, err := r.ReadSlice('\n')
		size += len(part)
		if size <= maxEntry {
			entry = append(entry, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case size > maxEntry:
			put(Line{Text: "(an entry of " + terminal.Size(uint64(size)) + " is too long to be shown here)", Style: terminal.Faint})
		case len(bytes.TrimSpace(entry)) > 0:
			if line, ok := parseEntry(entry); ok {
				put(line)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		entry, size = entry[:0], 0
	}
}

// parseEntry reads an entry of `journalctl --output=json`, systemd.journal-fields(7).
func parseEntry(data []byte) (Line, bool) {
	var e struct {
		Message  message `json:"MESSAGE"`
		Priority message `json:"PRIORITY"`
		Time     message `json:"__REALTIME_TIMESTAMP"`
	}
	if json.Unmarshal(data, &e) != nil {
		return Line{}, false
	}
	line := Line{Text: plain(string(e.Message))}
	if us, err := strconv.ParseInt(string(e.Time), 10, 64); err == nil {
		line.At = time.UnixMicro(us)
	}
	switch e.Priority {
	case "0", "1", "2", "3":
		line.Style = terminal.Bad
	case "4":
		line.Style = terminal.Busy
	case "7":
		line.Style = terminal.Faint
	}
	return line, true
}

// A message is a value in journalctl's JSON: a string, an array of bytes where
// it has control characters or is no UTF-8, or an array of such values where
// the entry has the field more than once, of which the first counts.
type message string

// UnmarshalJSON implements json.Unmarshaler.
func (m *message) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*m = message(s)
		return nil
	}
	var numbers []uint8
	var values []json.RawMessage
	_ = json.Unmarshal(data, &values) // null, or nothing of journalctl's
	if len(values) == 0 {
		return nil
	}
	for _, value := range values {
		n, err := strconv.ParseUint(string(value), 10, 8)
		if err != nil {
			return m.UnmarshalJSON(values[0])
		}
		numbers = append(numbers, byte(n))
	}
	*m = message(numbers)
	return nil
}

// colour matches the escape sequences that only colour text, ECMA-48's SGR.
var colour = regexp.MustCompile("\x1b\\[[0-9;:]*m")

// plain returns a message as it is shown: without its colours, which would
// show as escapes, its tabs as spaces, all else that a terminal obeys inert,
// and not endlessly long.
func plain(text string) string {
	size := len(text)
	if size > maxText {
		end := maxText
		for end > maxText-utf8.UTFMax && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	text = strings.TrimRight(colour.ReplaceAllLiteralString(text, ""), " \t\r\n")
	text = terminal.Inert(strings.ReplaceAll(text, "\t", "    "))
	if size > maxText {
		text += "… (of " + terminal.Size(uint64(size)) + ")"
	}
	return text
}
