package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/doctor"
	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/monitor/bus"
	"gpuherd/monitor/state"
	"gpuherd/units/redisclient"
)

const (
	// stuckAfter is how long a job of systemd may take before it is told.
	stuckAfter = 5 * time.Minute
	// A unit that restarted so often, the last time so lately, flaps.
	flappingRestarts = 5
	flappingWithin   = 10 * time.Minute
)

func (a *app) doctor() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with this host, and say how to mend it",
		Long: `Look at systemd's version, control groups, the NVIDIA driver, its device nodes
and the inventory, whether the generator ran and when, Redis (that it answers,
its policy when full, its persistence, its clock), the monitor's folder (that it
can be written to, and has room), the journal and its bounds, the clock, jobs of
systemd that do not end, units that restart again and again, units that run and
are not configured any more, and at all that ping looks at.
One line a finding, and below it how to mend it. Nothing is changed.

The exit code is 1 if anything is a problem, and 0 if there are only warnings or
what could not be looked at; as root it sees all.

--json prints an array, one object a finding: check, verdict (ok, warning,
problem, skipped), detail, mend.`,
		Example: "  gpuherd doctor\n  gpuherd doctor --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("--timeout %s is not positive; write --timeout 30s", timeout)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			findings := a.examine(ctx)
			if asJSON {
				if err := a.printJSON(findings); err != nil {
					return err
				}
			}
			ill := false
			for _, f := range findings {
				ill = ill || f.Verdict == doctor.Problem
				if !asJSON {
					a.printFinding(f)
				}
			}
			if ill {
				return errFailed
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long all of it may take")
	return cmd
}

func (a *app) printFinding(f doctor.Finding) {
	mark := map[string]string{
		doctor.OK:      a.out.Paint(terminal.Good, "ok"),
		doctor.Warning: a.out.Paint(terminal.Busy, "!") + " ",
		doctor.Problem: a.out.Paint(terminal.Bad, "✗") + " ",
		doctor.Skipped: a.out.Paint(terminal.Faint, "-") + " ",
	}[f.Verdict]
	a.stdout.say("%s  %s\n", mark, terminal.Inert(f.Detail))
	if f.Mend != "" {
		a.stdout.say("    → %s\n", terminal.Inert(f.Mend))
	}
}

// examine looks at everything. What fails costs its own findings alone.
func (a *app) examine(ctx context.Context) []doctor.Finding {
	const root = "/"
	source, err := config.HostSource(root)
	if err != nil {
		source = config.Source{Root: root} // ping's check of the configuration says so
	}
	result := generator.Compute(generator.Options{Root: source.Root, Environ: source.Environ})
	findings := a.examineSystemd(ctx)
	findings = append(findings, doctor.Cgroup(root))
	findings = append(findings, doctor.GPUs(root, result)...)
	findings = append(findings, doctor.Generator(root, result, a.now()))
	redisclient.LogTo(slog.New(slog.DiscardHandler)) // the finding says it
	redisCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	findings = append(findings, doctor.Redis(redisCtx, root, result.Config.Redis)...)
	cancel()
	findings = append(findings, doctor.State(root))
	findings = append(findings, doctor.Journald(root)...)
	findings = append(findings, doctor.Clock())
	for _, c := range append(a.pingHerd(ctx), pingConfiguration(root), pingMonitor(ctx)) {
		if c.Name == "systemd" && !c.OK {
			continue // examineSystemd has said it
		}
		findings = append(findings, ofCheck(c))
	}
	return findings
}

// ofCheck makes a finding of a check of ping.
func ofCheck(c check) doctor.Finding {
	switch {
	case c.Skipped:
		return doctor.Finding{Check: c.Name, Verdict: doctor.Skipped, Detail: c.Detail}
	case !c.OK:
		return trouble(c.Name, c.Detail)
	}
	return doctor.Finding{Check: c.Name, Verdict: doctor.OK, Detail: c.Detail}
}

// trouble makes a problem of a message that has its mend behind the last
// semicolon.
func trouble(name, message string) doctor.Finding {
	f := doctor.Finding{Check: name, Verdict: doctor.Problem, Detail: message}
	if i := strings.LastIndex(message, "; "); i >= 0 {
		f.Detail, f.Mend = message[:i], message[i+2:]
	}
	return f
}

// examineSystemd asks for systemd's version, its jobs and the herd's restarts.
func (a *app) examineSystemd(ctx context.Context) []doctor.Finding {
	failed := func(err error) []doctor.Finding {
		return []doctor.Finding{trouble("systemd", a.noSystemd(err).Error())}
	}
	conn, err := a.jobs(ctx)
	if err != nil {
		return []doctor.Finding{trouble("systemd", err.Error())}
	}
	version, err := conn.GetManagerProperty("Version")
	if err != nil {
		return failed(err)
	}
	findings := []doctor.Finding{doctor.SystemdVersion(strings.Trim(version, `"`))}
	observer, err := a.systemd(ctx)
	if err != nil {
		return append(findings, failed(err)...)
	}
	herd, err := observer.Herd(ctx)
	if err != nil {
		return append(findings, failed(err)...)
	}
	seen, err := observer.Observe(ctx, herd)
	if err != nil {
		return append(findings, failed(err)...)
	}
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return append(findings, failed(err)...)
	}
	findings = append(findings, jobsFinding(jobs, seen, a.now()), flappingFinding(seen, a.now()))
	return append(findings, strayFindings(a.strays(ctx, nil))...)
}

// strayFindings has a finding for each of the strays.
func strayFindings(strays []string, err error) []doctor.Finding {
	const name = "not configured"
	switch {
	case err != nil:
		return []doctor.Finding{{Check: name, Verdict: doctor.Skipped, Detail: fmt.Sprintf("cannot look for what runs and is not configured: %v", err)}}
	case len(strays) == 0:
		return []doctor.Finding{{Check: name, Verdict: doctor.OK, Detail: "no worker runs that is not configured any more"}}
	}
	var all []doctor.Finding
	for _, unit := range strays {
		all = append(all, doctor.Finding{
			Check: name + " " + unit, Verdict: doctor.Warning,
			Detail: unit + " runs, but nothing configures it: " + bus.Target + " does not want it, and nothing binds it to a GPU when it is started again",
			Mend:   "gpuherd stop " + selection.Short(unit) + " ends it; to keep it, bring back its GPU or its service file (gpuherd explain), then systemctl daemon-reload",
		})
	}
	return all
}

// since is when a unit last changed its state; zero: not known.
func since(o state.Observation) time.Time {
	if ms := o.Unit().SinceMS; ms > 0 {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

func jobsFinding(jobs []sd.JobStatus, seen []state.Observation, now time.Time) doctor.Finding {
	var stuck []string
	for _, j := range jobs {
		for _, o := range seen {
			if began := since(o); o.Name == j.Unit && !began.IsZero() && now.Sub(began) > stuckAfter {
				stuck = append(stuck, fmt.Sprintf("%s of %s (%s for %s)", j.JobType, selection.Short(j.Unit), j.Status, doctor.Span(now.Sub(began))))
			}
		}
	}
	if len(stuck) > 0 {
		slices.Sort(stuck)
		return doctor.Finding{
			Check: "jobs", Verdict: doctor.Warning, Detail: "jobs of systemd do not end: " + strings.Join(stuck, ", "),
			Mend: "systemctl list-jobs --before shows what they wait for; systemctl cancel JOB gives one up",
		}
	}
	return doctor.Finding{Check: "jobs", Verdict: doctor.OK, Detail: fmt.Sprintf("no job of the herd is stuck; systemd has %d", len(jobs))}
}

func flappingFinding(seen []state.Observation, now time.Time) doctor.Finding {
	var flapping []string
	for _, o := range seen {
		if n := o.Unit().Restarts; n >= flappingRestarts && now.Sub(since(o)) < flappingWithin {
			flapping = append(flapping, fmt.Sprintf("%s (%d restarts)", selection.Short(o.Name), n))
		}
	}
	if len(flapping) > 0 {
		return doctor.Finding{
			Check: "flapping", Verdict: doctor.Problem, Detail: "restart again and again: " + strings.Join(flapping, ", "),
			Mend: "gpuherd logs --err tells why; gpuherd describe, how the last one ended",
		}
	}
	return doctor.Finding{Check: "flapping", Verdict: doctor.OK, Detail: "no unit restarts again and again"}
}
