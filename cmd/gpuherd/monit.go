package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/jobs"
	"gpuherd/cmd/gpuherd/internal/monit"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator/config"
	"gpuherd/generator/service"
	"gpuherd/monitor/state"
)

func (a *app) monit() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "monit [SELECTION...]",
		Short: "Show the workers and their logs on a full screen, live",
		Long: `Show the workers as they are now, and below them the log of the chosen one, on
the whole terminal, from 80 columns and 24 lines on. States come from systemd as
they change, memory and CPU from the kernel's control groups every two seconds,
logs from journalctl; what the GPUs do from the monitor, or from Redis where
that does not answer. Without the two the rest is shown.

  j k        next, previous worker      Enter  everything of the worker
  l          its log; again: enlarge    e      events of workers and GPUs
  / n N      search in what is below    &      only lines with a text
  f w        follow new lines; wrap     r s    restart; stop, or start
  + -        more, fewer workers        ?      all keys
  q          quit

Restarting, starting, stopping and scaling is asked for first. Jobs go over
D-Bus, so that polkit decides who may. + and - do what scale does for the
service of the worker, which writes a file of root's; the question takes any
number. CPU is that of the last seconds, where list has the mean since the
start. What workers, logs and names hold for the terminal to obey is shown as
text. Where standard output is no terminal, this is list.`,
		Example:           "  gpuherd monit\n  gpuherd monit redis-worker",
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !a.out.Terminal || a.out.Dumb {
				return a.printList(cmd.Context(), args, all, false)
			}
			// What is wrong with the words, or with systemd, is said before
			// the screen opens.
			if _, err := a.units(cmd.Context(), args); err != nil {
				return err
			}
			return a.runMonit(cmd.Context(), a.monitOptions(args, all))
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show gpuherd's own units too")
	return cmd
}

// runMonit shows the screen, and afterwards says what it left half done.
func (a *app) runMonit(ctx context.Context, o monit.Options) error {
	var left error // read when the screen has ended, and what it did with it
	o.Scale = func(ctx context.Context, name string, n int, progress func(string)) monit.Done {
		done := a.scaleQuietly(ctx, name, n, progress)
		if ctx.Err() != nil && !done.OK {
			left = fmt.Errorf("scaling was interrupted; to do the rest: gpuherd scale %s %d", name, n)
		}
		return done
	}
	if err := monit.Run(ctx, o); err != nil {
		return err
	}
	return left
}

func (a *app) monitOptions(words []string, all bool) monit.Options {
	source, _ := config.HostSource("/") // without PID 1's environment the files decide
	conf, _ := config.Load(source)      // its problems are verify's to tell
	host, err := conf.HostName()
	if err != nil {
		host = "this host"
	}
	return monit.Options{
		Host:   host,
		Screen: a.out,
		Choose: func(names []string) []string { return monitored(names, words, all) },
		Cells:  monitCells,
		GPUs: func(ctx context.Context) ([]state.GPU, error) {
			gpus, err := gpusByHTTP(ctx, conf.Monitor.Listen)
			if err == nil {
				return gpus, nil
			}
			gpus, second := gpusByRedis(ctx, "/", conf)
			if second != nil {
				return nil, fmt.Errorf("the monitor: %w; Redis: %w", err, second)
			}
			return gpus, nil
		},
		Describe: a.describeQuietly,
		Control:  controlOne,
		Count:    a.countQuietly,
		Journal: func(unit string) []string {
			args := journalArgs(logOptions{follow: true, lines: "500", output: "json", noHostname: true}, []string{unit})
			return append([]string{"journalctl", "--all", "--output-fields=MESSAGE,PRIORITY"}, args...)
		},
	}
}

// monitored picks those of names that words select. Which units there are
// changes while the screen is open, so a word may select nothing.
func monitored(names, words []string, all bool) []string {
	var chosen []string
	switch {
	case len(words) > 0:
		for _, word := range words {
			found, _ := selection.Select(names, []string{word})
			chosen = append(chosen, found...)
		}
	case all:
		chosen = slices.Clone(names)
	default:
		return selection.Workers(names)
	}
	slices.SortFunc(chosen, selection.Compare)
	return slices.Compact(chosen)
}

// monitCells are the cells of list, but for the state, which is systemd's
// SubState alone.
func monitCells(u state.Unit, now time.Time) monit.Cells {
	w := worker{Unit: u}
	if u.Active == "active" && u.SinceMS > 0 {
		up := max(0, now.UnixMilli()-u.SinceMS)
		w.UptimeMS = &up
	}
	restarts := terminal.Cell{Text: strconv.FormatUint(u.Restarts, 10)}
	if u.Restarts > 0 {
		restarts.Style = terminal.Busy
	}
	return monit.Cells{
		State:    terminal.Cell{Text: u.Sub, Style: stateStyle(u.Active)},
		Uptime:   terminal.Cell{Text: w.uptime()},
		Restarts: restarts,
		Memory:   terminal.Cell{Text: w.memory(), Style: w.memoryStyle()},
		Status:   terminal.Cell{Text: w.Says()},
	}
}

// quiet is the app for a verb that the screen runs. What it says must not reach
// the terminal, which the screen has; complaints get what goes to stderr.
func (a *app) quiet(complaints io.Writer) *app {
	quiet := newApp()
	quiet.rootDir = a.rootDir
	quiet.stdout, quiet.stderr = &output{Writer: io.Discard}, &output{Writer: complaints}
	quiet.out, quiet.err = terminal.Screen{}, terminal.Screen{}
	return quiet
}

// describeQuietly is describe, as lines.
func (a *app) describeQuietly(ctx context.Context, unit string) ([]string, error) {
	quiet := a.quiet(io.Discard)
	defer quiet.disconnect()
	descriptions, err := quiet.describeUnits(ctx, []string{unit})
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for i := range descriptions {
		if err := terminal.Fields(&text, terminal.Screen{}, descriptions[i].fields()); err != nil {
			return nil, err
		}
	}
	return strings.Split(strings.TrimRight(text.String(), "\n"), "\n"), nil
}

// controlOne asks systemd for a job on one unit, waits for its end, and says
// what became of it.
func controlOne(ctx context.Context, verb jobs.Verb, unit string) monit.Done {
	name := selection.Short(unit)
	conn, err := sd.NewSystemConnectionContext(ctx)
	if err != nil {
		return monit.Done{Text: name + ": " + err.Error()}
	}
	defer conn.Close()
	if err := conn.Subscribe(); err != nil { // else JobRemoved may not come, see runJobs
		return monit.Done{Text: name + ": " + err.Error()}
	}
	o := jobs.Run(ctx, conn, verb, []string{unit}, true, jobs.Listener{})[0]
	if jobs.Unauthorized(o.Err()) {
		return monit.Done{Text: fmt.Sprintf("%s: systemd does not let you %s it; run gpuherd as root, or allow it by a polkit rule", name, verb)}
	}
	return monit.Done{Text: name + ": " + o.String(), OK: o.OK}
}

// countQuietly says what scale would begin from.
func (a *app) countQuietly(_ context.Context, unit string) monit.Counted {
	c := monit.Counted{Unit: unit, Possible: func(n int) error {
		_, err := instances(strconv.Itoa(n))
		return err
	}}
	name, _, _ := service.ParseUnit(unit)
	r, s, err := a.quiet(io.Discard).scalable(name)
	if err != nil {
		c.Refused = err.Error()
		return c
	}
	c.Service = s.Name
	c.Now, _ = instancesOf(r, s)
	return c
}

// scaleQuietly is scale, and says what became of it.
func (a *app) scaleQuietly(ctx context.Context, name string, n int, progress func(string)) monit.Done {
	var complaints bytes.Buffer
	quiet := a.quiet(&complaints)
	quiet.told = progress
	defer quiet.disconnect()
	c, err := changer{quiet, false}.scaleTo(ctx, name, n)
	return scaled(c, err, complaints.String())
}

// scaled is on one line what scale did, its error, and what it complained of.
func scaled(c *planChange, err error, complaints string) monit.Done {
	var said []string
	for line := range strings.Lines(complaints) {
		said = append(said, strings.TrimPrefix(strings.TrimSpace(line), "gpuherd: "))
	}
	var status exitStatus // of an error that the complaints tell
	switch {
	case err == nil:
		said = append([]string{c.Done}, said...)
	case !errors.As(err, &status):
		said = []string{err.Error()}
	}
	if err != nil && c != nil && c.Undo != "" {
		said = append(said, "to undo it: "+c.Undo)
	}
	return monit.Done{Text: strings.Join(said, "; "), OK: err == nil}
}
