package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/monitor/fleet"
	"gpuherd/units/queue"
)

// fleetOptions are the flags of fleet.
type fleetOptions struct {
	queueOptions

	failed   bool
	states   []string
	asJSON   bool
	watch    bool
	interval time.Duration
}

func (a *app) fleet() *cobra.Command {
	var o fleetOptions
	cmd := &cobra.Command{
		Use:   "fleet [HOST...]",
		Short: "Show every host that Redis knows",
		Long: `Show one row a host, as the monitors tell Redis, then the sum of it and the
queue. It works on any machine that reaches Redis. A HOST is a name in Redis or
a glob on such names; without one: every host.

STATE is alive while the monitor's heart beats; lost, with the time since the
last beat, once it has been silent for 15 seconds; offline where the monitor
said that it ends; unread where Redis gave an error. Times are by Redis' clock.
What a host that is not alive does is not known: its figures are the last ones,
and count in no sum. UNITS and JOBS are active units of all, and units with a
job in hand. GPUS is those not unhealthy of all. RESTARTS/BOOT counts each start
of its units after their first in this boot, and never goes back; RESTARTS of
gpuherd list are systemd's automatic ones since the last start by hand. TROUBLE
is what failed and which GPUs are unhealthy, why.

A host that is no more stays until it is removed from the list: redis-cli ZREM
gpuherd:hosts HOST.

Redis is the one that --redis or REDIS_URL names, else the configured one; its
password as for gpuherd queue.

--json prints an object: at_ms; total, an object with hosts, alive, lost,
offline, unread, units, gpus, jobs; omitted (0); hosts, an array of host, state,
seen_ms, ago_ms, version, boot_id, epoch, uptime, units (total, active,
activating, deactivating, inactive, failed), failed (names of units), restarts,
jobs, gpus (total, healthy, unhealthy, unknown), unhealthy (index, reasons),
error; queue, an object with queue, at_ms, paused, waiting, running, delayed,
dead, oldest_waiting_ms, or queue_error, why not. uptime is in seconds. What is
not known is left out. With --watch each reading is one line.

Exit codes: 0 whatever the hosts' state, 1 where Redis could not be read, 2
where no host has such a name.`,
		Example:           "  gpuherd fleet\n  gpuherd fleet 'gpu-*' --watch\n  gpuherd fleet --failed\n  gpuherd fleet --state lost --json",
		ValidArgsFunction: a.completeHosts(&o.queueOptions),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return a.showFleet(cmd.Context(), args, &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.failed, "failed", false, "only hosts that somebody should look at: lost or unread, or with a failed unit or an unhealthy GPU")
	f.StringSliceVar(&o.states, "state", nil, "only hosts in these `states`: "+strings.Join(fleet.States, ", "))
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object")
	f.BoolVarP(&o.watch, "watch", "w", false, "show it again and again, until interrupted")
	f.DurationVar(&o.interval, "interval", 2*time.Second, "how long --watch waits between readings")
	f.StringVar(&o.redis, "redis", "", "`URL` of Redis instead of the configured one; a password belongs in REDIS_URL")
	f.StringVar(&o.queue, "queue", "", "`name` of the queue instead of the configured one")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(fleet.States, cobra.ShellCompDirectiveNoFileComp)) // fails only where there is no such flag
	return cmd
}

// leastInterval keeps a watcher from being a load on Redis.
const leastInterval = 100 * time.Millisecond

func (o *fleetOptions) check(patterns []string) error {
	for _, s := range o.states {
		if !slices.Contains(fleet.States, s) {
			return usagef("--state %q is none; states are %s", s, strings.Join(fleet.States, ", "))
		}
	}
	if o.interval < leastInterval {
		return usagef("--interval %s is too short; the least is %s", o.interval, leastInterval)
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return usagef("%q is no glob: %w", p, err)
		}
	}
	return nil
}

// A fleetReader reads the hosts that the command line asks for.
type fleetReader struct {
	fleet.Reader
	redisPlace
	options  *fleetOptions
	patterns []string
	queue    string
}

func (a *app) openFleet(o *fleetOptions, patterns []string) (*fleetReader, error) {
	conf, place, client, err := openRedis(o.redis)
	if err != nil {
		return nil, err
	}
	name := orElse(o.queue, conf.Worker.Queue)
	if _, err := queue.New(client, conf.Redis.Prefix, name, queue.Options{}); err != nil {
		_ = client.Close()
		return nil, usageError{err}
	}
	return &fleetReader{
		Reader: fleet.Reader{Client: client, Prefix: conf.Redis.Prefix}, redisPlace: *place,
		options: o, patterns: patterns, queue: name,
	}, nil
}

func (r *fleetReader) close() { _ = r.Client.Close() } // it was only read

// read reads them, and the queue. It is a usageError where a pattern matches no
// host.
func (r *fleetReader) read(ctx context.Context) (fleet.Fleet, error) {
	l, err := r.List(ctx, 0)
	if err != nil {
		return fleet.Fleet{}, r.trouble(err)
	}
	if err := r.choose(&l); err != nil {
		return fleet.Fleet{}, err
	}
	f, err := r.Read(ctx, l)
	if err != nil {
		return fleet.Fleet{}, r.trouble(err)
	}
	f = f.Only(func(h *fleet.Host) bool {
		return (!r.options.failed || h.Failing()) && (len(r.options.states) == 0 || slices.Contains(r.options.states, h.State))
	})
	r.AddQueue(ctx, &f, r.queue)
	return f, nil
}

// choose leaves in l what the patterns match.
func (r *fleetReader) choose(l *fleet.List) error {
	if len(r.patterns) == 0 {
		return nil
	}
	all := l.Hosts
	l.Hosts = nil
	found := make([]bool, len(r.patterns))
	for _, h := range all {
		chosen := false
		for i, p := range r.patterns {
			match, _ := path.Match(p, h.Host) // check has found it to be a glob
			match = match || p == h.Host
			found[i], chosen = found[i] || match, chosen || match
		}
		if chosen {
			l.Hosts = append(l.Hosts, h)
		}
	}
	if i := slices.Index(found, false); i >= 0 {
		return usagef("Redis knows no host %q, of %d; gpuherd fleet shows them all", r.patterns[i], len(all))
	}
	return nil
}

func (a *app) showFleet(ctx context.Context, patterns []string, o *fleetOptions) error {
	r, err := a.openFleet(o, patterns)
	if err != nil {
		return err
	}
	defer r.close()
	f, err := r.read(ctx)
	if err != nil {
		return err
	}
	switch {
	case o.watch:
		return a.watchFleet(ctx, r, f)
	case o.asJSON:
		return a.printJSON(f)
	case len(f.Hosts) == 0:
		a.complain("%s", r.none())
	}
	return writeFleet(a.stdout, a.out, f)
}

// none says why there is no host to show.
func (r *fleetReader) none() string {
	if r.options.failed || len(r.options.states) > 0 {
		return "no host is of that kind"
	}
	return "no monitor has told this Redis of its host yet; see systemctl status gpuherd-monitor, and [Redis] URL= and Prefix= on the hosts"
}

// writeFleet writes a fleet for people.
func writeFleet(w io.Writer, s terminal.Screen, f fleet.Fleet) error {
	var text bytes.Buffer
	if len(f.Hosts) > 0 {
		if err := fleetTable(f).Write(&text, s); err != nil {
			return err
		}
		text.WriteByte('\n')
	}
	fmt.Fprintln(&text, f.Total)
	if f.Queue != nil {
		fmt.Fprintln(&text, terminal.Inert(f.Queue.String()))
	} else {
		fmt.Fprintln(&text, "queue:", terminal.Inert(f.QueueError))
	}
	_, err := w.Write(text.Bytes())
	return err
}

func fleetTable(f fleet.Fleet) *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "HOST"}, {Title: "STATE"}, {Title: "UPTIME", Right: true}, {Title: "UNITS", Right: true}, {Title: "GPUS", Right: true},
		{Title: "JOBS", Right: true}, {Title: "RESTARTS/BOOT", Right: true}, {Title: "VERSION"}, {Title: "TROUBLE"},
	}}
	for i := range f.Hosts {
		h := &f.Hosts[i]
		figures, bad := terminal.Plain, terminal.Bad
		if h.State != fleet.Alive {
			figures, bad = terminal.Faint, terminal.Faint // nobody knows whether they still hold
		}
		where := func(wrong bool) terminal.Style {
			if wrong {
				return bad
			}
			return figures
		}
		t.Add(
			terminal.Cell{Text: h.Host},
			hostState(h),
			terminal.Cell{Text: hostUptime(h), Style: figures},
			terminal.Cell{Text: fmt.Sprintf("%d/%d", h.Units.Active, h.Units.Total), Style: where(h.Units.Failed > 0)},
			terminal.Cell{Text: fmt.Sprintf("%d/%d", h.GPUs.Total-h.GPUs.Unhealthy, h.GPUs.Total), Style: where(h.GPUs.Unhealthy > 0)},
			terminal.Cell{Text: strconv.Itoa(h.Jobs), Style: figures},
			terminal.Cell{Text: strconv.FormatUint(h.Restarts, 10), Style: figures},
			terminal.Cell{Text: orElse(h.Version, terminal.None), Style: figures},
			terminal.Cell{Text: h.Trouble(), Style: where(h.Failing())},
		)
	}
	return t
}

func hostState(h *fleet.Host) terminal.Cell {
	switch h.State {
	case fleet.Alive:
		return terminal.Cell{Text: h.State, Style: terminal.Good}
	case fleet.Offline:
		return terminal.Cell{Text: h.State + " " + terminal.Span(h.For()), Style: terminal.Faint}
	}
	return terminal.Cell{Text: h.State + " " + terminal.Span(h.For()), Style: terminal.Bad}
}

func hostUptime(h *fleet.Host) string {
	if h.State != fleet.Alive {
		return terminal.None
	}
	return terminal.Span(time.Duration(h.Uptime * float64(time.Second)))
}

// completeHosts offers the names of hosts to shell completion.
func (a *app) completeHosts(o *queueOptions) cobra.CompletionFunc {
	const few = 1000
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		r, err := a.openFleet(&fleetOptions{queueOptions: *o}, nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer r.close()
		l, _ := r.List(ctx, few) // without Redis nothing is offered
		var names []string
		for _, h := range l.Hosts {
			if terminal.Inert(h.Host) == h.Host && !slices.Contains(args, h.Host) {
				names = append(names, h.Host)
			}
		}
		slices.Sort(names)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
