package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/monitor/bus"
)

// A check is one line of ping.
type check struct {
	Name    string `json:"name"` // "systemd", "target", "units", "unit NAME", "configuration", "monitor"
	OK      bool   `json:"ok"`
	Skipped bool   `json:"skipped,omitempty"` // it could not be made here; OK is true
	Detail  string `json:"detail"`            // what was found
}

func (a *app) ping() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ping",
		Short: "Say whether all is well on this host",
		Long: `Check that systemd answers, gpuherd.target and every unit of the herd are
active, the programs in /etc/gpuherd/setup.d did not fail, the configuration has
no problem that costs something (as verify finds it; left out where PID 1's
environment cannot be read, which is for root), and the monitor is ready (its
/readyz, at [Monitor] Listen=). One line a check; the exit code is 0 if all is
well and 1 if not, so it serves as a container's health check.

--json prints an array, one object a check: name, ok, detail, and skipped where
it was left out.`,
		Example: "  gpuherd ping\n  gpuherd ping --timeout 2s --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("--timeout %s is not positive; write --timeout 5s", timeout)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			checks := append(a.pingHerd(ctx), pingConfiguration("/"), pingMonitor(ctx))
			if asJSON {
				if err := a.printJSON(checks); err != nil {
					return err
				}
			}
			well := true
			for _, c := range checks {
				well = well && c.OK
				if !asJSON {
					a.printCheck(c)
				}
			}
			if !well {
				return errFailed
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long all checks together may take")
	return cmd
}

func (a *app) printCheck(c check) {
	mark := a.out.Paint(terminal.Good, "ok")
	switch {
	case c.Skipped:
		mark = a.out.Paint(terminal.Faint, "-") + " "
	case !c.OK:
		mark = a.out.Paint(terminal.Bad, "✗") + " "
	}
	a.stdout.say("%s  %s\n", mark, terminal.Inert(c.Detail))
}

// pingHerd asks systemd. Without an answer there is one check, that failed.
func (a *app) pingHerd(ctx context.Context) []check {
	conn, err := a.systemd(ctx)
	if err != nil {
		return []check{{Name: "systemd", Detail: err.Error()}}
	}
	target, err := conn.Observe(ctx, []string{bus.Target})
	if err != nil {
		return []check{{Name: "systemd", Detail: a.noSystemd(err).Error()}}
	}
	checks := []check{{Name: "systemd", OK: true, Detail: "systemd answers on D-Bus"}}
	if len(target) == 0 {
		return append(checks, check{Name: "target", Detail: bus.Target + " is not installed; install gpuherd's units and run systemctl daemon-reload"})
	}
	active := target[0].Active == "active"
	c := check{Name: "target", OK: active, Detail: bus.Target + " is " + target[0].Active}
	if !active {
		c.Detail += "; systemctl enable --now " + bus.Target
	}
	return append(append(checks, c), a.pingUnits(ctx, conn)...)
}

// gpuherd-setup's unit, and how its status tells of the operator's programs.
const (
	setupUnit   = "shared-setup.service"
	hooksFailed = "FAILED in setup.d"
)

// pingUnits checks the herd: one line where all are active, else one for each
// that is not.
func (a *app) pingUnits(ctx context.Context, conn *bus.Conn) []check {
	herd, err := conn.Herd(ctx)
	if err != nil {
		return []check{{Name: "units", Detail: a.noSystemd(err).Error()}}
	}
	seen, err := conn.Observe(ctx, herd)
	if err != nil {
		return []check{{Name: "units", Detail: a.noSystemd(err).Error()}}
	}
	known := map[string]bool{}
	var bad []check
	for _, o := range seen {
		known[o.Name] = true
		short := selection.Short(o.Name)
		w := worker{Unit: o.Unit()}
		if o.Active == "active" {
			// Setup succeeds all the same, so that the workers start.
			if o.Name == setupUnit && strings.Contains(w.StatusText, hooksFailed) {
				bad = append(bad, check{Name: "unit " + o.Name, Detail: fmt.Sprintf("%s says: %s; gpuherd logs %s", short, w.StatusText, short)})
			}
			continue
		}
		detail := fmt.Sprintf("%s is %s/%s", short, o.Active, o.Sub)
		if o.Result != "" && o.Result != "success" {
			detail += " (" + w.Ending() + ")"
		}
		bad = append(bad, check{Name: "unit " + o.Name, Detail: detail + "; gpuherd logs " + short})
	}
	for _, name := range herd {
		if !known[name] {
			bad = append(bad, check{Name: "unit " + name, Detail: selection.Short(name) + " is wanted and has no unit file"})
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return []check{{Name: "units", OK: true, Detail: fmt.Sprintf("%d units of the herd are active", len(herd))}}
}

// pingConfiguration runs the generator's decisions as verify does: what it
// left out is not missed by systemd.
func pingConfiguration(root string) check {
	c := check{Name: "configuration"}
	source, err := config.HostSource(root)
	if err != nil {
		c.OK, c.Skipped = true, true
		c.Detail = "configuration is not checked: " + err.Error() + "; only root may"
		return c
	}
	problems := problemsOf(root, generator.Compute(generator.Options{Root: source.Root, Environ: source.Environ}))
	var errs int
	for _, p := range problems {
		if p.Warning {
			continue
		}
		if errs++; errs == 1 {
			c.Detail = p.Error()
		}
	}
	if errs == 0 {
		c.OK, c.Detail = true, "configuration is fine"
		return c
	}
	if errs > 1 {
		c.Detail += "; " + count(errs-1, "more problem")
	}
	c.Detail += "; gpuherd verify"
	return c
}

// pingMonitor asks the monitor whether it is ready, where the configuration
// says that it listens.
func pingMonitor(ctx context.Context) check {
	source, sourceErr := config.HostSource("/")
	cfg, _ := config.Load(source) // its problems are verify's to tell
	address, err := monitorURL(cfg.Monitor.Listen, "/readyz")
	if err != nil {
		return check{Name: "monitor", Detail: err.Error()}
	}
	c := askMonitor(ctx, address)
	if !c.OK {
		c.Detail += "; gpuherd logs gpuherd-monitor"
		if sourceErr != nil {
			c.Detail += " (as root ping would also see an address set in PID 1's environment)"
		}
	}
	return c
}

func askMonitor(ctx context.Context, address string) check {
	c := check{Name: "monitor"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		c.Detail = fmt.Sprintf("cannot ask the monitor: %s", err)
		return c
	}
	// The monitor is local: a proxy of the environment is not meant. Nothing
	// secret is sent, and the certificate is for the name that others use.
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
	resp, err := client.Do(req)
	if err != nil {
		c.Detail = fmt.Sprintf("cannot reach the monitor: %s", err)
		if errors.Is(err, context.DeadlineExceeded) {
			c.Detail = "the monitor does not answer at " + address + " in time"
		}
		return c
	}
	defer resp.Body.Close()                                //nolint:errcheck // only read
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // whatever came is shown, but for the checks that are well
	if resp.StatusCode != http.StatusOK {
		var failed []string
		for line := range strings.Lines(string(body)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, ": ok") {
				failed = append(failed, line)
			}
		}
		c.Detail = "the monitor is not ready: " + resp.Status
		if len(failed) > 0 {
			c.Detail += ", " + strings.Join(failed, "; ")
		}
		return c
	}
	c.OK, c.Detail = true, "the monitor is ready"
	return c
}

// monitorURL returns the URL of a path of the monitor, on this host where it
// listens on every address. What others can reach is served over TLS.
func monitorURL(listen, path string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("cannot tell where the monitor listens: %w", err)
	}
	scheme := "https://"
	if config.Loopback(host) {
		scheme = "http://"
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return scheme + net.JoinHostPort(host, port) + path, nil
}
