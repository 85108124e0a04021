package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"time"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/fleet"
)

// Sequences of xterm that a screen of its own needs.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	goHome      = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
)

// watchFleet shows the fleet, f first, until ctx ends, which is no error. On a
// terminal it has the screen to itself; elsewhere one reading follows the
// other. Redis being away is said, and passes.
func (a *app) watchFleet(ctx context.Context, r *fleetReader, f fleet.Fleet) error {
	show := a.appendFleet
	switch {
	case r.options.asJSON:
		show = a.fleetLine
	case a.out.Terminal && !a.out.Dumb:
		a.stdout.say(enterScreen)
		defer a.stdout.say(leaveScreen)
		show = a.drawFleet
	}
	t := time.NewTicker(r.options.interval)
	defer t.Stop()
	var err error
	for {
		if err := show(f, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		var next fleet.Fleet
		if next, err = r.read(ctx); err == nil {
			f = next
		} else if ctx.Err() != nil {
			return nil //nolint:nilerr // it was interrupted
		}
	}
}

// fleetLine writes f as one line of JSON, or says why it cannot be read.
func (a *app) fleetLine(f fleet.Fleet, problem error) error {
	if problem != nil {
		a.complain("%s", problem)
		return nil
	}
	enc := json.NewEncoder(terminal.JSON(a.stdout))
	enc.SetEscapeHTML(false)
	return enc.Encode(f)
}

// appendFleet writes f below what is there.
func (a *app) appendFleet(f fleet.Fleet, problem error) error {
	if problem != nil {
		a.complain("%s", problem)
		return nil
	}
	if err := writeFleet(a.stdout, a.out, f); err != nil {
		return err
	}
	a.stdout.say("\n")
	return a.stdout.failed()
}

// drawFleet replaces what the screen shows. Where Redis is away, f is how the
// fleet was last.
func (a *app) drawFleet(f fleet.Fleet, problem error) error {
	s := terminal.Detect(a.stdout.Writer, os.Getenv) // it may have another size by now
	if !s.Terminal {
		s = a.out
	}
	var text bytes.Buffer
	first := time.UnixMilli(f.AtMS).Format("15:04:05") + ", by Redis' clock"
	if problem != nil {
		first = "not current, of " + first + ": " + terminal.Inert(problem.Error())
	}
	text.WriteString(terminal.Cut(first, s.Width) + "\n\n")
	if err := writeFleet(&text, s, f); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	if s.Height > 1 && len(lines) > s.Height {
		lines = append(lines[:s.Height-1], s.Paint(terminal.Faint, "… more below: --failed or a HOST shows fewer"))
	}
	a.stdout.say("%s", goHome+strings.Join(lines, clearLine+"\r\n")+clearLine+clearRest)
	return a.stdout.failed()
}
