package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gpuherd/cmd/gpuherd/internal/selection"
	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator/gpu"
)

// A description is everything of one unit, and the JSON of describe: a worker
// and what systemd, the inventory and the kernel add.
type description struct {
	worker
	Description   string     `json:"description"`
	Load          string     `json:"load"`                 // LoadState: "loaded", "bad-setting", …
	LoadError     string     `json:"load_error,omitempty"` // why it could not be loaded
	Source        string     `json:"source,omitempty"`     // the service file it was generated from
	Fragment      string     `json:"fragment,omitempty"`   // the unit file that systemd reads
	DropIns       []string   `json:"drop_ins"`             // in the order in which they apply
	Reload        bool       `json:"need_daemon_reload"`   // a file changed since systemd read it
	Slice         string     `json:"slice,omitempty"`
	User          string     `json:"user,omitempty"` // empty: root
	Tasks         *uint64    `json:"tasks,omitempty"`
	ControlGroup  string     `json:"control_group,omitempty"`
	DevicePolicy  string     `json:"device_policy,omitempty"` // "closed": only its own GPU
	Devices       []string   `json:"devices"`                 // DeviceAllow=: "/dev/char/195:0 rw"
	Device        *gpu.GPU   `json:"device,omitempty"`        // from the inventory
	MIG           *gpu.MIG   `json:"mig,omitempty"`           // the MIG device, where it is one
	Environment   []variable `json:"environment"`             // secrets redacted
	EnvironmentOf string     `json:"environment_of"`          // "process": as it runs; "unit": as its files say, without EnvironmentFile=
	LastStartMS   int64      `json:"last_start_ms,omitempty"` // unix time, ms, of the last main process' start
	LastEndMS     int64      `json:"last_end_ms,omitempty"`   // and of its end; absent while it runs
	Logs          string     `json:"logs"`                    // the command that shows its journal
}

func (a *app) describe() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "describe SELECTION...",
		Aliases: []string{"show"},
		Short:   "Show everything of one worker",
		Long: `Show what systemd, the GPU inventory and the kernel know of the selected units:
state and last result, files and drop-ins, GPU and device rules, memory, and the
environment. As root, or as the worker's user, the environment is that of the
running process, otherwise what the unit's files say. Values of variables that
look like secrets, and passwords in URLs, are not shown. Restarts are systemd's
automatic ones, while the monitor's figure in Redis counts starts by hand too
and never goes back.

--json prints an array: the fields of list --json, and description, load,
load_error, source, fragment, drop_ins, need_daemon_reload, slice, user, tasks,
control_group, device_policy, devices, device, mig, environment (name, value,
redacted), environment_of, last_start_ms, last_end_ms, logs.`,
		Example:           "  gpuherd describe 0\n  gpuherd describe redis-worker@1 --json",
		Annotations:       remotely,
		ValidArgsFunction: a.completeUnits,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("describe what?; name a worker, such as gpuherd describe 0")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			descriptions, err := a.describeUnits(cmd.Context(), args)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(descriptions)
			}
			for i := range descriptions {
				if i > 0 {
					a.stdout.say("\n")
				}
				if err := terminal.Fields(a.stdout, a.out, descriptions[i].fields()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) describeUnits(ctx context.Context, words []string) ([]description, error) {
	figures := a.askFigures(ctx)
	workers, err := a.herd(ctx, words, false)
	if err != nil {
		return nil, err
	}
	a.addFigures(workers, <-figures)
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	conn, err := a.jobs(ctx)
	if err != nil {
		return nil, err
	}
	inventory, err := gpu.ReadInventory(a.rootDir)
	switch {
	case a.remote != "":
		inventory = nil // it is of this machine
	case err != nil:
		inventory = nil
		if slices.ContainsFunc(workers, func(w worker) bool { return w.GPU != nil }) {
			a.complain("%s; nothing is known of the GPUs", err)
		}
	}
	descriptions := make([]description, 0, len(workers))
	for _, w := range workers {
		props, err := conn.GetAllPropertiesContext(ctx, w.Name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the properties of %s: %w", w.Name, err)
		}
		d := newDescription(w, props, inventory)
		if w.PID != 0 && a.remote == "" {
			if environ, err := processEnviron(w.PID); err == nil {
				d.Environment, d.EnvironmentOf = redactAll(environ), "process"
			}
		}
		descriptions = append(descriptions, d)
	}
	return descriptions, nil
}

// newDescription reads a unit's properties as systemd's D-Bus interface names
// them, org.freedesktop.systemd1(5).
func newDescription(w worker, props map[string]any, inventory *gpu.Inventory) description {
	d := description{
		worker:        w,
		Description:   property[string](props, "Description"),
		Load:          property[string](props, "LoadState"),
		Source:        property[string](props, "SourcePath"),
		Fragment:      property[string](props, "FragmentPath"),
		DropIns:       nonNil(property[[]string](props, "DropInPaths")),
		Reload:        property[bool](props, "NeedDaemonReload"),
		Slice:         property[string](props, "Slice"),
		User:          property[string](props, "User"),
		ControlGroup:  property[string](props, "ControlGroup"),
		DevicePolicy:  property[string](props, "DevicePolicy"),
		Devices:       pairs(props, "DeviceAllow"),
		Environment:   redactAll(property[[]string](props, "Environment")),
		EnvironmentOf: "unit",
		LastStartMS:   int64(property[uint64](props, "ExecMainStartTimestamp") / 1000),
		LastEndMS:     int64(property[uint64](props, "ExecMainExitTimestamp") / 1000),
		Logs:          "gpuherd logs " + selection.Short(w.Name),
	}
	// LoadError is (s name, s message), both empty where there is none.
	if e := property[[]any](props, "LoadError"); len(e) == 2 {
		d.LoadError, _ = e[1].(string)
	}
	if n, ok := props["TasksCurrent"].(uint64); ok && n != ^uint64(0) {
		d.Tasks = &n
	}
	if dev := device(inventory, w.Instance); dev != nil {
		d.Device, d.MIG = &dev.gpu, dev.mig
	}
	return d
}

func property[T any](props map[string]any, name string) T {
	v, _ := props[name].(T)
	return v
}

// pairs reads a property of type a(ss).
func pairs(props map[string]any, name string) []string {
	out := []string{}
	for _, pair := range property[[][]any](props, name) {
		var words []string
		for _, v := range pair {
			words = append(words, fmt.Sprint(v))
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// fields lays a description out for people.
func (d *description) fields() []terminal.Field {
	one := func(name, value string) terminal.Field {
		if value == "" {
			return terminal.Field{Name: name}
		}
		return terminal.Field{Name: name, Values: []string{value}}
	}
	state := fmt.Sprintf("%s/%s since %s", d.Active, d.Sub, stamp(d.SinceMS))
	if d.UptimeMS != nil {
		state += ", up " + d.uptime()
	}
	fields := []terminal.Field{
		{Name: "Unit", Values: []string{d.Name}, Style: terminal.Strong},
		one("Description", d.Description),
		{Name: "State", Values: []string{state}, Style: stateStyle(d.Active)},
		one("Status", d.StatusText),
	}
	if d.Load != "" && d.Load != "loaded" {
		fields = append(fields, terminal.Field{Name: "Load", Values: []string{strings.TrimSpace(d.Load + " " + d.LoadError)}, Style: terminal.Bad})
	}
	fields = append(fields, one("Last result", d.Ending()))
	if d.LastEndMS > 0 {
		fields = append(fields, one("Last end", stamp(d.LastEndMS)))
	}
	if d.PID != 0 {
		fields = append(fields, one("Main PID", fmt.Sprint(d.PID)), one("Started", stamp(d.LastStartMS)))
	}
	fields = append(fields, one("Restarts", fmt.Sprint(d.Restarts)), one("GPU", d.gpuText()))
	if d.MIG != nil {
		fields = append(fields, one("MIG device", fmt.Sprintf("%d, %s, %s", d.MIG.Index, d.MIG.Profile, d.MIG.UUID)))
	}
	if d.GPUHealth != "" {
		health := terminal.Field{Name: "GPU health", Values: append([]string{d.GPUHealth}, d.GPUReasons...), Style: healthStyle(d.GPUHealth)}
		fields = append(fields, health, one("GPU load", figure(d.GPUUtilisation, "%")+" busy, "+figure(d.GPUTemperature, "°C")))
	}
	if d.DevicePolicy != "" && d.DevicePolicy != "auto" {
		fields = append(fields, one("Device policy", d.DevicePolicy), terminal.Field{Name: "Devices", Values: d.Devices})
	}
	memory := d.memory()
	if d.MemoryPeakBytes != nil {
		memory += ", peak " + terminal.Size(*d.MemoryPeakBytes)
	}
	fields = append(fields, one("Memory/limit", memory))
	if d.CPUNS != nil {
		cpu := terminal.Span(time.Duration(*d.CPUNS))
		if d.CPUPercent != nil {
			cpu += ", " + d.cpu() + " of a core"
		}
		fields = append(fields, one("CPU time", cpu))
	}
	if d.Tasks != nil {
		fields = append(fields, one("Tasks", fmt.Sprint(*d.Tasks)))
	}
	fields = append(fields,
		one("User", orElse(d.User, "root")),
		one("Slice", d.Slice),
		one("Control group", d.ControlGroup),
		one("Service file", d.Source),
		one("Unit file", d.Fragment),
		terminal.Field{Name: "Drop-ins", Values: d.DropIns},
	)
	if d.Reload {
		fields = append(fields, terminal.Field{Name: "Stale", Values: []string{"its files changed since systemd read them; run systemctl daemon-reload"}, Style: terminal.Busy})
	}
	environment := terminal.Field{Name: "Environment"}
	if d.EnvironmentOf == "unit" && d.PID != 0 {
		environment.Values = append(environment.Values, "(as the unit's files say; that of the process may be read by root only)")
	}
	for _, v := range d.Environment {
		environment.Values = append(environment.Values, v.Name+"="+v.Value)
	}
	return append(fields, environment, one("Logs", d.Logs))
}

// gpuText says which GPU it is, as far as the inventory knows.
func (d *description) gpuText() string {
	if d.GPU == nil {
		return ""
	}
	text := d.deviceName()
	g := d.Device
	if g == nil {
		return text + " (not in the inventory)"
	}
	if g.Name != "" {
		text += ", " + g.Name
	}
	if g.MemoryBytes > 0 {
		text += ", " + terminal.Size(g.MemoryBytes)
	}
	if g.PCI != "" {
		text += ", PCI " + g.PCI
	}
	if g.UUID != "" {
		text += ", " + g.UUID
	}
	return text
}

func stamp(ms int64) string {
	if ms <= 0 {
		return "boot"
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05 MST")
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
