package service

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gpuherd/generator/unitfile"
)

// A directive is one of [Service] whose last valid assignment holds: systemd
// drops a value that it cannot read, and with it what a typo was meant to set.
type directive struct {
	check func(value string) error
	fix   string
	// strict: what check refuses, no systemd takes. Of the others a newer one
	// may know a word more.
	strict bool
}

const (
	sizeFix = "write a size such as 4G, a percentage or infinity; systemd would ignore this"
	spanFix = "write a time such as 30s, 2min or infinity; systemd would ignore this"
)

var checked = map[string]directive{
	"MemoryMax":               {limit(false), sizeFix, true},
	"MemoryHigh":              {limit(false), sizeFix, true},
	"MemorySwapMax":           {limit(true), sizeFix, true},
	"MemoryMin":               {limit(true), sizeFix, true},
	"MemoryLow":               {limit(true), sizeFix, true},
	"TimeoutSec":              {unitfile.CheckSpan, spanFix, true},
	"TimeoutStartSec":         {unitfile.CheckSpan, spanFix, true},
	"TimeoutStopSec":          {unitfile.CheckSpan, spanFix, true},
	"RestartSec":              {unitfile.CheckSpan, spanFix, true},
	"RestartMaxDelaySec":      {unitfile.CheckSpan, spanFix, true},
	"WatchdogSec":             {unitfile.CheckSpan, spanFix, true},
	"RuntimeMaxSec":           {unitfile.CheckSpan, spanFix, true},
	"LogRateLimitIntervalSec": {unitfile.CheckSpan, spanFix, true},
	"NoNewPrivileges":         {boolean, "write yes or no; systemd would ignore this", true},
	"LockPersonality":         {boolean, "write yes or no; systemd would ignore this", true},
	"RestrictSUIDSGID":        {boolean, "write yes or no; systemd would ignore this", true},
	"Slice":                   {slice, "write NAME.slice; systemd would ignore this", true},
	"Type":                    words("simple", "exec", "forking", "oneshot", "dbus", "notify", "notify-reload", "idle"),
	"Restart":                 words("no", "always", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort"),
	"KillMode":                words("control-group", "mixed", "process", "none"),
	"OOMPolicy":               words("continue", "stop", "kill"),
}

// Valid reports whether systemd takes an assignment in [Service], as far as
// gpuherd knows the key; it takes the empty one, which goes back to systemd's
// default, for memory limits alone.
func Valid(key, value string) bool {
	d, ok := checked[key]
	if !ok {
		return true
	}
	if value == "" {
		return strings.HasPrefix(key, "Memory")
	}
	return d.check(value) == nil
}

// limit takes what config_parse_memory_limit in systemd's load-fragment.c does.
func limit(zero bool) func(string) error {
	return func(value string) error {
		if value == "infinity" {
			return nil
		}
		n, err := uint64(0), error(nil)
		if number, whole := cutPercent(value); whole > 0 {
			part, err := strconv.ParseFloat(number, 64)
			if err != nil || strings.Trim(number, "0123456789.") != "" || part > whole {
				return fmt.Errorf("%q is no percentage up to 100%%", short(value))
			}
			if part > 0 {
				n = 1 // 0.5 % is not zero
			}
		} else if n, err = unitfile.ParseSize(value); err != nil {
			return fmt.Errorf("%q is no size", short(value))
		}
		if n == 0 && !zero {
			return errors.New("is zero")
		}
		return nil
	}
}

// cutPercent returns the number before a sign of parts and how many make the
// whole; 0: there is no such sign.
func cutPercent(value string) (number string, whole float64) {
	whole = 100
	for _, sign := range []string{"%", "‰", "‱"} {
		if number, ok := strings.CutSuffix(value, sign); ok {
			return number, whole
		}
		whole *= 10
	}
	return "", 0
}

func boolean(value string) error {
	_, err := unitfile.ParseBool(value)
	return err
}

func slice(value string) error {
	if !strings.HasSuffix(value, ".slice") && !strings.Contains(value, "%") {
		return fmt.Errorf("%q does not end in .slice", short(value))
	}
	return nil
}

func words(known ...string) directive {
	return directive{check: func(value string) error {
		if !slices.Contains(known, value) {
			return fmt.Errorf("%q is unknown", short(value))
		}
		return nil
	}, fix: "known are " + strings.Join(known, ", ")}
}

// directives reports values of [Service] that systemd would drop.
func (p *parser) directives() {
	for _, e := range p.s.File.Entries("Service") {
		d, ok := checked[e.Key]
		if !ok || e.Value == "" {
			continue
		}
		if err := d.check(e.Value); err != nil {
			p.bad(e, d.fix, "%v", err)
			p.problems[len(p.problems)-1].Warning = !d.strict
		}
	}
}

// unitLists are the keys of [Unit] that name other units.
var unitLists = []string{
	"After", "Before", "BindsTo", "Conflicts", "JoinsNamespaceOf", "OnFailure", "OnSuccess", "PartOf", "PropagatesReloadTo",
	"PropagatesStopTo", "ReloadPropagatedFrom", "Requires", "Requisite", "StopPropagatedFrom", "Upholds", "Wants",
}

// unitTypes are what the name of a unit ends in (systemd.unit(5)).
var unitTypes = []string{"automount", "device", "mount", "path", "scope", "service", "slice", "socket", "swap", "target", "timer"}

// dependencies reports names of units that systemd would drop.
func (p *parser) dependencies() {
	for _, e := range p.s.File.Entries("Unit") {
		if !slices.Contains(unitLists, e.Key) {
			continue
		}
		for name := range strings.FieldsSeq(e.Value) {
			suffix := name[strings.LastIndexByte(name, '.')+1:]
			if slices.Contains(unitTypes, suffix) || strings.Contains(suffix, "%") {
				continue
			}
			fix := "write its whole name, such as " + short(name) + ".service; systemd would ignore this"
			if near := unitfile.Nearest(suffix, unitTypes); near != "" && suffix != name {
				fix = "did you mean " + short(strings.TrimSuffix(name, suffix)) + near + "? systemd would ignore this"
			}
			p.bad(e, fix, "%q is no unit's name", short(name))
		}
	}
}

// commands are the keys of [Service] that hold command lines.
var commands = []string{"ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"}

// commandLines refuses what systemd would not load, or would drop from the
// unit and run it without.
func (p *parser) commandLines() {
	starts := 0
	for _, key := range commands {
		for _, e := range p.s.File.Values("Service", key) {
			commands, err := unitfile.SplitCommands(e.Value)
			if err != nil {
				p.broken = true
				p.bad(e, "close it; until then the service does not run", "%v", err)
				continue
			}
			if key != "ExecStart" {
				continue
			}
			n := len(commands)
			if starts += n; starts > 1 && starts-n <= 1 && !p.s.Oneshot() {
				p.broken = true
				p.bad(e, "write one, or Type=oneshot; ExecStart= alone on a line before it drops the one above", "more than one command, which only Type=oneshot takes")
			}
		}
	}
}
