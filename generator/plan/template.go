package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// template adds the service's unit file: its own sections with the defaults
// that it does not set itself.
func (m *maker) template(c *choice) bool {
	if c.edited {
		return true
	}
	d := defaults{file: c.File, systemd: m.Systemd}
	m.unitDefaults(&d, c)
	if !m.serviceDefaults(&d, c) {
		return false
	}

	out := &unitfile.File{Name: c.Path, Header: []string{Header, "from " + sources(c)}}
	section := func(name string, entries []unitfile.Entry) {
		s := &unitfile.Section{Name: name, Entries: entries}
		for _, e := range c.File.Entries(name) {
			if since := directives[e.Key]; since > m.Systemd {
				m.tooNew(e, since)
				continue
			}
			s.Entries = append(s.Entries, e)
		}
		out.Sections = append(out.Sections, s)
	}
	section("Unit", d.unit)
	section("Service", d.service)
	for _, s := range c.File.Sections {
		if !slices.ContainsFunc(out.Sections, func(o *unitfile.Section) bool { return o.Name == s.Name }) {
			section(s.Name, nil)
		}
	}
	return m.file(c, c.Unit(), out)
}

// sources names the files that a unit is made of. The name of a drop-in may be
// anything, and must not cost the unit.
func sources(c *choice) string {
	names := []string{c.Path}
	for _, name := range c.DropIns {
		if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
			name = quoted
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// tooNew says that a directive was left out. In a file that we ship, that is
// meant.
func (m *maker) tooNew(e unitfile.Entry, since int) {
	if service.ShippedFile(e.File) {
		return
	}
	m.problem(&unitfile.Problem{
		File: e.File, Line: e.Line, Key: e.Key, Warning: true,
		Msg: fmt.Sprintf("left out: systemd %d is the first to know it, this is %d", since, m.Systemd),
	})
}

// defaults collects what goes before a file's own entries.
type defaults struct {
	file          *unitfile.File
	systemd       int
	unit, service []unitfile.Entry
}

// has reports whether the file assigns a key in [Service] itself. A value that
// systemd would drop does not count: what gpuherd guards a unit with must not
// be lost to a typo.
func (d *defaults) has(keys ...string) bool {
	for _, key := range keys {
		for _, e := range d.file.Entries("Service") {
			if e.Key == key && service.Valid(key, e.Value) {
				return true
			}
		}
	}
	return false
}

// set adds a default to [Service] unless the file assigns the key.
func (d *defaults) set(key, value string) {
	if !d.has(key) && directives[key] <= d.systemd {
		d.add(key, value)
	}
}

func (d *defaults) add(key, value string) {
	d.service = append(d.service, unitfile.Entry{Key: key, Value: value})
}

// depend adds a dependency to [Unit] beside the file's own ones.
func (d *defaults) depend(key, unit string) {
	if !optsOut(d.file, key) {
		d.unit = append(d.unit, unitfile.Entry{Key: key, Value: unit})
	}
}

// optsOut reports whether a file's last word on a dependency is an empty
// assignment: then it gets none that it does not name.
func optsOut(f *unitfile.File, key string) bool {
	e, ok := f.Last("Unit", key)
	return ok && e.Value == ""
}

// needsSetup reports whether a service waits for gpuherd-setup unless its file
// opts out.
func (m *maker) needsSetup(c *choice) bool { return m.setup && c.Name != Setup }

func (m *maker) unitDefaults(d *defaults, c *choice) {
	set := func(key, value string) {
		if _, ok := d.file.Last("Unit", key); !ok {
			d.unit = append(d.unit, unitfile.Entry{Key: key, Value: value})
		}
	}
	d.unit = append(d.unit, unitfile.Entry{Key: "SourcePath", Value: unitfile.EscapeSpecifiers(c.Path)})
	if c.Per == service.PerHost {
		set("Description", unitfile.EscapeSpecifiers(c.Name))
	} else {
		set("Description", unitfile.EscapeSpecifiers(c.Name)+" on GPU %i")
		// An instance may run that is no longer planned: nothing would bind it to
		// a GPU when it is started again. From 254 on systemd does not look at
		// conditions in a restart of its own: see DevicePolicy=.
		d.unit = append(d.unit, unitfile.Entry{Key: "ConditionPathExists", Value: "/" + GeneratorDir + "/" + dropInPath("%n")})
	}
	// A worker is worth restarting for ever: see restart.
	set("StartLimitIntervalSec", "0")
	d.depend("PartOf", Target)
	if m.needsSetup(c) {
		d.depend("Requires", setupUnit)
		d.depend("After", setupUnit)
	}
}

// withheld are the capabilities that no service has unless its file says so.
// CAP_SYS_ADMIN stands for every NVIDIA capability, so for every GPU, and
// CAP_MKNOD makes the node of any of them. The others change the machine and
// not the program: its modules, clock, accounting and security policy. A
// program that runs as root keeps what it may need for itself, such as
// CAP_SYS_NICE for NUMA, CAP_IPC_LOCK, CAP_SYS_PTRACE and CAP_SYSLOG.
const withheld = "~CAP_SYS_ADMIN CAP_MKNOD CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_PACCT CAP_AUDIT_CONTROL CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_WAKE_ALARM CAP_BLOCK_SUSPEND"

func (m *maker) serviceDefaults(d *defaults, c *choice) bool {
	d.set("Slice", Slice)
	if c.Per == service.PerHost {
		d.set("MemoryMax", "500M")
	} else {
		d.set("MemoryMax", "2G")
		if c.Isolate {
			d.set("DevicePolicy", "closed") // what opens a GPU is in the drop-in of each instance
		}
	}
	if !c.Oneshot() {
		m.restart(d)
	}
	d.set("KillMode", "mixed")
	d.set("TimeoutStopSec", "30s")
	// With "continue" a worker that lost its job to the OOM killer would go
	// on with a half-dead process tree; "kill" takes all of it and gives the
	// unit the result oom-kill.
	d.set("OOMPolicy", "kill")
	// No line may be dropped. 0 would not do that: systemd takes it for "not
	// set", and journald's own limit holds. Nobody prints a million lines in
	// a microsecond.
	if !d.has("LogRateLimitIntervalSec", "LogRateLimitBurst") {
		d.set("LogRateLimitIntervalSec", "1us")
		d.set("LogRateLimitBurst", "1000000")
	}
	// Only what any program can do without, as root and as another user, and
	// what needs no mount namespace: a restart has to take milliseconds. A
	// service that knows its program says more, as redis-worker.service does.
	d.set("NoNewPrivileges", "yes")
	d.set("LockPersonality", "yes")
	d.set("RestrictSUIDSGID", "yes")
	d.set("CapabilityBoundingSet", withheld)
	for _, v := range m.Config.Environment {
		word, err := unitfile.QuoteWord(v.Name + "=" + v.Value)
		if err != nil {
			m.problem(&unitfile.Problem{File: c.Path, Msg: err.Error()})
			return false
		}
		d.add("Environment", word)
	}
	d.add("EnvironmentFile", "-/run/gpuherd/environment")
	return true
}

// restart: at once, then with growing delay. An older systemd cannot grow it,
// and a start limit would leave a worker dead until somebody looks: there the
// delay is one that a worker which dies at once can keep for days without
// taking the CPUs, or all of the journal.
func (m *maker) restart(d *defaults) {
	d.set("Restart", "always")
	if e, ok := d.file.Last("Service", "Restart"); ok && e.Value == "no" {
		return
	}
	// systemd complains where these three do not fit each other.
	if d.has("RestartSec", "RestartSteps", "RestartMaxDelaySec") {
		return
	}
	if d.systemd < directives["RestartSteps"] {
		// It has to serve a single crash, which should cost nothing, and a
		// loop, which should not cost a CPU. A start limit would leave the
		// worker dead.
		d.set("RestartSec", "500ms")
		return
	}
	// At 0 it would never grow. What is due in 1 µs is due when PID 1 next
	// looks, which is at once; in 1 ms it would not be, and then PID 1 sleeps up
	// to 250 ms longer, the accuracy of its timers (sd_event_add_time(3)). The
	// first dozen restarts wait for less than that.
	d.set("RestartSec", "1us")
	d.set("RestartSteps", "20")
	d.set("RestartMaxDelaySec", "10s")
}
