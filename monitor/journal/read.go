package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Bounds of one reading.
const (
	readTimeout = 15 * time.Second
	maxRecords  = 50_000   // far more events than the relay keeps
	maxBytes    = 64 << 20 // of journalctl's output
	maxLine     = 1 << 20
	maxStderr   = 4 << 10

	// slack is how much later than it happened a change may be told.
	slack = 2 * time.Second
)

// A Journal reads the records of one boot.
type Journal struct {
	BootID string // as /proc/sys/kernel/random/boot_id has it
	// Command is how journalctl is started; nil: by its name.
	Command []string

	// Bounds of one reading; 0: 15 s, 50,000 records and 64 MiB of output.
	Timeout    time.Duration
	MaxRecords int
	MaxBytes   int
}

// An Excerpt is the end of the journal, in its order.
type Excerpt struct {
	Records []Record
	// Short says why Records do not go back as far as was asked; nil: they do.
	Short error
}

// errEnough ends a reading early.
var errEnough = errors.New("enough")

// Since returns the records written at monoUS (CLOCK_MONOTONIC, µs) or later,
// and some before. It reads from the newest backwards, so what a bound cuts off
// is the oldest.
func (j *Journal) Since(ctx context.Context, monoUS uint64) Excerpt {
	ctx, cancel := context.WithTimeout(ctx, orElse(j.Timeout, readTimeout))
	defer cancel()
	var x Excerpt
	from := monoUS - min(monoUS, uint64(slack.Microseconds()))
	most := orElse(j.MaxRecords, maxRecords)
	names := map[string]string{} // one copy of each string that many records have
	odd := 0
	err := j.run(ctx, j.matches(), func(line []byte) error {
		r, bad := Parse(line)
		switch {
		case bad != nil:
			odd++
		case r.MonoUS < from:
			return errEnough
		case len(x.Records) == most:
			return fmt.Errorf("more than %d records", most)
		default:
			for _, s := range []*string{&r.Unit, &r.Invocation, &r.Job, &r.Result, &r.Command, &r.ExitCode} {
				if known, ok := names[*s]; ok {
					*s = known
				} else {
					names[*s] = *s
				}
			}
			x.Records = append(x.Records, r)
		}
		return nil
	})
	slices.Reverse(x.Records)
	switch {
	case errors.Is(err, errEnough):
	case err != nil:
		x.Short = err
	default:
		x.Short = j.reaches(ctx, monoUS)
	}
	if x.Short == nil && odd > 0 {
		x.Short = fmt.Errorf("%d entries could not be read", odd)
	}
	return x
}

// matches asks for what PID 1 said of units in this boot, and for what
// journald dropped of it. Fields that begin with an underscore are journald's
// own word: nobody else can write such a record.
func (j *Journal) matches() []string {
	args := []string{"--reverse", "--output-fields=" + fields, j.boot(), "_PID=1"}
	for id, kind := range kinds {
		if kind != Suppressed {
			args = append(args, "MESSAGE_ID="+id)
		}
	}
	for id, kind := range kinds {
		if kind == Suppressed {
			args = append(args, "+", j.boot(), "_TRANSPORT=driver", "OBJECT_PID=1", "MESSAGE_ID="+id)
		}
	}
	return args
}

func (j *Journal) boot() string { return "_BOOT_ID=" + strings.ReplaceAll(j.BootID, "-", "") }

// reaches returns nil where the journal still has something that is older.
func (j *Journal) reaches(ctx context.Context, monoUS uint64) error {
	err := j.run(ctx, []string{"--output-fields=_BOOT_ID", j.boot()}, func(line []byte) error {
		mono, err := monotonic(line)
		if err != nil {
			return err
		}
		if mono > monoUS {
			return fmt.Errorf("its oldest entry is %v younger", time.Duration(mono-monoUS)*time.Microsecond)
		}
		return errEnough
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil {
		return errors.New("no entry of this boot can be read")
	}
	return err
}

// run runs journalctl and hands each line of its output to take, until that
// returns an error, which run returns then.
func (j *Journal) run(ctx context.Context, args []string, take func(line []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	command := j.Command
	if command == nil {
		command = []string{"journalctl"}
	}
	command = append(slices.Clone(command), "--output=json", "--no-pager", "--quiet")
	command = append(command, args...)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second // should something else hold its output open
	var stderr limited
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("cannot read from journalctl: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start journalctl: %w", err)
	}
	// A process that inherited its output would else keep the reading going.
	defer context.AfterFunc(ctx, func() { _ = out.Close() })()
	var taken error
	most := orElse(j.MaxBytes, maxBytes)
	lines := bufio.NewScanner(io.LimitReader(out, int64(most)))
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	size := 0
	for taken == nil && lines.Scan() {
		size += len(lines.Bytes()) + 1
		taken = take(lines.Bytes())
	}
	if taken == nil && lines.Err() != nil && ctx.Err() == nil {
		taken = fmt.Errorf("cannot read what journalctl says: %w", lines.Err())
	}
	if taken == nil && size >= most {
		taken = fmt.Errorf("journalctl says more than %d bytes", most)
	}
	if taken != nil {
		cancel()
	}
	failed := cmd.Wait()
	switch {
	case taken != nil:
		return taken
	case ctx.Err() != nil:
		return fmt.Errorf("journalctl does not end: %w", ctx.Err())
	case failed != nil:
		return fmt.Errorf("journalctl: %w: %s", failed, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxStderr - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
