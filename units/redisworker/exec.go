package redisworker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"gpuherd/units/journal"
	"gpuherd/units/queue"
	"gpuherd/units/subreaper"
)

// Exit codes of sysexits.h by which a job says what became of it.
const (
	exitPermanent = 65 // EX_DATAERR: the input is wrong and will stay so
	exitRetry     = 75 // EX_TEMPFAIL
)

const (
	stopGrace   = 2 * time.Second // between SIGTERM and SIGKILL
	pipeGrace   = 2 * time.Second // for a pipe that an escaped process holds
	stderrTail  = 4 << 10
	maxProgress = 4 << 10 // bytes of JSON
	maxText     = 256     // bytes of progress that is not JSON
)

// Exec runs a program for each job, without a shell, in a process group of its
// own:
//
//	stdin   the payload as it is
//	fd 3    the result; where nothing comes there, the last line of stdout that is not empty
//	fd 4    progress, a line each: a number (per cent), JSON or any text
//	exit    0 succeeded, 75 (EX_TEMPFAIL) try again, 65 (EX_DATAERR) never will; any other failed
//
// What it prints goes to Journal, with the job's ID as the field JOB_ID=, or
// where that is nil to Output, line by line after the job's ID. Its environment
// is Env without what systemd meant for the worker alone, and JOB_ID,
// JOB_ATTEMPT, JOB_MAX_ATTEMPTS and JOB_TRACE. Once the program itself has
// ended, what is left of its process group is killed.
type Exec struct {
	Argv   []string
	Env    []string  // os.Environ()
	Output io.Writer // gets whole lines, from several goroutines
	// Journal, unless nil, gets them instead as long as it takes them.
	Journal *journal.Native

	// Subreaper: this process called subreaper.Become and has no children but
	// the job's, so that what escaped the process group is killed too.
	Subreaper bool
}

// Check says whether the program is there.
func (e *Exec) Check(context.Context) error {
	if len(e.Argv) == 0 {
		return errors.New("cannot run jobs: no program is configured")
	}
	if _, err := exec.LookPath(e.Argv[0]); err != nil {
		return fmt.Errorf("cannot run jobs: %w", err)
	}
	return nil
}

// Run implements Executor.
func (e *Exec) Run(ctx context.Context, a Attempt, progress func(string)) Outcome {
	ctx, cancel := limited(ctx, a)
	defer cancel()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), e.Argv[0], e.Argv[1:]...)
	cmd.Env = environment(e.Env, a)
	p, err := startProcess(cmd)
	if err != nil {
		return Outcome{Verdict: Unable, Error: "cannot start: " + err.Error()}
	}

	var out stdout
	var result, stderr capture
	result.most, stderr.most, stderr.tail = queue.MaxPayload, stderrTail, true
	out.log = &joblog{id: a.ID, priority: stdoutPriority, journal: e.Journal, w: e.Output}
	errs := joblog{id: a.ID, priority: stderrPriority, journal: e.Journal, w: e.Output}
	var readers sync.WaitGroup
	readers.Go(func() { readLines(p.stdout, out.line) })
	readers.Go(func() {
		readLines(p.stderr, func(part []byte, end bool) {
			stderr.add(part)
			if end {
				stderr.add([]byte{'\n'})
			}
			errs.write(part)
		})
	})
	readers.Go(func() { _, _ = io.Copy(&result, p.result) })
	var line capture
	line.most = maxProgress
	readers.Go(func() {
		readLines(p.progress, func(part []byte, end bool) {
			line.add(part)
			if !end {
				return
			}
			if text := progressText(line.buf, line.over); text != "" {
				progress(text)
			}
			line.reset()
		})
	})
	readers.Go(func() {
		// A program need not read its input: EPIPE is no error.
		_, _ = p.stdin.Write(a.Payload)
		_ = p.stdin.Close()
	})

	killed := p.wait(ctx)
	p.closeAfter(pipeGrace)
	readers.Wait()
	p.close()

	o := Outcome{Stderr: strings.TrimSpace(string(stderr.buf)), Leftover: !p.gone()}
	if e.Subreaper && !subreaper.End() {
		o.Leftover = true
	}
	last, tooLong := out.last()
	fd3 := len(result.buf) > 0
	switch code := p.state.ExitCode(); {
	case killed:
		o.cut(ctx, a)
	case code == 0 && (fd3 && result.over || !fd3 && tooLong):
		o.Verdict, o.Error = Permanent, tooBig
	case code == 0 && fd3:
		o.Result = result.buf
	case code == 0:
		o.Result = last
	case code == exitPermanent:
		o.Verdict, o.Error = Permanent, reason("exit status 65 (permanent)", o.Stderr)
	case code == exitRetry:
		o.Verdict, o.Error = Failed, reason("exit status 75 (try again)", o.Stderr)
	default:
		o.Verdict, o.Error = Failed, reason(describe(p.state), o.Stderr)
	}
	if fd3 || o.Verdict != Succeeded {
		out.flush()
	}
	return o
}

// progressText returns a line of progress as it is told: JSON as it is, which
// a number is too, and anything else as text that may be shown anywhere, cut
// where it is long. "" says nothing.
func progressText(line []byte, cut bool) string {
	line = bytes.TrimSpace(line)
	if !cut && utf8.Valid(line) && json.Valid(line) {
		return string(line)
	}
	return inert(string(line))
}

// inert is text that may be shown anywhere: one line, cut where it is long.
func inert(s string) string {
	var text strings.Builder
	for _, r := range s { // a byte that is no UTF-8 is U+FFFD here
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsGraphic(r):
			r = unicode.ReplacementChar
		}
		if text.Len()+utf8.RuneLen(r) > maxText {
			break
		}
		text.WriteRune(r)
	}
	return strings.TrimSpace(text.String())
}

// describe is "exit status 1" or "killed by SIGSEGV".
func describe(s *os.ProcessState) string {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return "ended by signal " + strconv.Itoa(int(ws.Signal())) + " (" + ws.Signal().String() + ")"
	}
	return s.String()
}

// reason adds the last line of stderr, which is what most programs die with.
func reason(how, stderr string) string {
	last := stderr[strings.LastIndexByte(stderr, '\n')+1:]
	if len(last) > 200 {
		last = last[:200]
	}
	if last == "" {
		return how
	}
	return how + ": " + strings.ToValidUTF8(last, "\uFFFD")
}

// environment is the worker's, but for what systemd tells the worker alone: a
// job must not speak for its unit, nor think that its stderr is the journal's,
// nor be led to the password of Redis.
func environment(base []string, a Attempt) []string {
	own := []string{
		"NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "FDSTORE=", "CREDENTIALS_DIRECTORY=",
		"JOURNAL_STREAM=", "SYSTEMD_EXEC_PID=", "JOB_",
	}
	env := slices.DeleteFunc(slices.Clone(base), func(v string) bool {
		return slices.ContainsFunc(own, func(name string) bool { return strings.HasPrefix(v, name) })
	})
	if a.Number == 0 {
		return env // it is no job
	}
	env = append(env, "JOB_ID="+a.ID, "JOB_ATTEMPT="+strconv.Itoa(a.Number), "JOB_MAX_ATTEMPTS="+strconv.Itoa(a.MaxAttempts))
	if a.Trace != "" && !strings.Contains(a.Trace, "\x00") {
		env = append(env, "JOB_TRACE="+a.Trace)
	}
	return env
}
