package pm2

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gpuherd/generator/unitfile"
)

// A unit is a unit file in the making.
type unit struct{ strings.Builder }

func (u *unit) section(name string) { u.WriteString("\n[" + name + "]\n") }

func (u *unit) set(key, format string, args ...any) {
	u.WriteString(key + "=" + fmt.Sprintf(format, args...) + "\n")
}

func (u *unit) comment(format string, args ...any) {
	u.WriteString("# " + oneLine(fmt.Sprintf(format, args...)) + "\n")
}

// oneLine keeps a comment one, and what a name holds from the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
}

// service makes the files of a group.
func (r *result) service(g *group) error {
	a, each := r.merged(g)
	if a.cluster {
		if a.instances > 1 {
			r.note(a.name, "exec_mode", "a cluster shares one port inside PM2, which has no equal: one process runs instead of %d; node:cluster does it in the program", a.instances)
		}
		a.instances = 1
	}
	name := r.unique(a.name, g.prefix)
	if a.instances == 1 {
		return r.one(g, a, name, each)
	}
	r.note(a.name, "instances", "%d services, %s-0 and on: only workers on a GPU can have several of one service", a.instances, name)
	for i := range a.instances {
		n := *a
		n.env = maps.Clone(a.env)
		variable := a.variable
		if variable == "" {
			variable = "NODE_APP_INSTANCE"
		}
		if variableName().MatchString(variable) {
			n.env[variable] = strconv.Itoa(i)
		}
		if base, err := strconv.Atoi(a.env[a.increment]); err == nil && a.increment != "" {
			n.env[a.increment] = strconv.Itoa(base + i)
		}
		if err := r.one(g, &n, r.unique(a.name, fmt.Sprintf("%s-%d", name, i)), each); err != nil {
			return err
		}
	}
	return nil
}

// unique makes a service's name of an app's, and not one that something else
// has.
func (r *result) unique(app, from string) string {
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c) {
			return c
		}
		return '-'
	}, from)
	name = strings.Trim(name[:min(len(name), 100)], "-.")
	if name == "" {
		name = "app"
	}
	given := name
	why := r.system.Taken(name)
	if why == "" && r.names[name] {
		why = "another app"
	}
	for n := 1; r.system.Taken(name) != "" || r.names[name]; n++ {
		name = given + "-pm2"
		if n > 1 {
			name += "-" + strconv.Itoa(n)
		}
	}
	r.names[name] = true
	switch {
	case why != "":
		r.note(app, "name", "the service is %s: %s is the name of %s", name, given, oneLine(why))
	case name != from:
		r.note(app, "name", "the service is %s", name)
	}
	return name
}

func (r *result) one(g *group, a *app, name string, each []map[string]string) error {
	var u unit
	secrets := map[string]string{}
	u.comment("%s, imported from PM2 by gpuherd import-pm2.", a.name)
	u.comment("Change what you like; gpuherd verify checks it.")
	u.section("Unit")
	if g.gpu {
		u.set("Description", "%s on GPU %%i", unitfile.EscapeSpecifiers(oneLine(g.prefix)))
	} else {
		u.set("Description", "%s", unitfile.EscapeSpecifiers(oneLine(a.name)))
	}
	u.set("After", "network-online.target")
	u.set("Wants", "network-online.target")
	if a.counts {
		u.comment("Only where the GPU has a file with its arguments.")
		u.set("ConditionPathExists", "%s", path.Join(EnvironmentDir, name+"-%i.env"))
		r.note(a.name, "args", "those that count with the GPU, such as a port, are in %s/%s-N.env; a GPU that has no such file has no worker", EnvironmentDir, name)
	}
	r.startLimit(&u, a)

	u.section("X-GPU")
	if g.gpu {
		u.set("Per", "gpu")
	} else {
		u.set("Per", "host")
	}
	if a.disabled {
		u.comment("It did not run under PM2.")
		u.set("Enabled", "no")
	}

	u.section("Service")
	command, err := r.execStart(&u, g, a, secrets, each)
	if err != nil {
		return err
	}
	u.set("ExecStart", "%s", command)
	if a.cwd != "" {
		u.set("WorkingDirectory", "%s", strings.ReplaceAll(unitfile.EscapeSpecifiers(a.cwd), mark, "%i"))
	}
	if a.user != "" && a.user != "root" && a.user != "0" {
		u.set("User", "%s", unitfile.EscapeSpecifiers(oneLine(a.user)))
	}
	if a.group != "" {
		u.set("Group", "%s", unitfile.EscapeSpecifiers(oneLine(a.group)))
	}
	for _, key := range slices.Sorted(maps.Keys(a.env)) {
		value := a.env[key]
		if r.system.Secret(key, value) {
			secrets[key] = value
			continue
		}
		w, err := word(key + "=" + value)
		if err != nil {
			return fmt.Errorf("variable %s: %w", key, err)
		}
		u.set("Environment", "%s", w)
	}
	r.envFiles(&u, g, a, name, secrets, each)
	r.limits(&u, a)
	if err := r.check(name, u.String()); err != nil {
		return err
	}
	r.Files = append(r.Files, File{Path: path.Join(ServiceDir, name+".service"), Mode: 0o644, Text: u.String(), Public: u.String()})
	r.Services = append(r.Services, name)
	r.timer(g, a, name)
	return nil
}

// check reads what was made, so that nothing is written that systemd would not
// take as it is meant.
func (r *result) check(name, text string) error {
	if _, problems := unitfile.Parse(name+".service", []byte(text)); len(problems) > 0 {
		return fmt.Errorf("cannot be written as a unit file: %w", problems[0])
	}
	return nil
}

// startLimit is for those who asked PM2 to give up; gpuherd's services never do.
func (r *result) startLimit(u *unit, a *app) {
	if a.maxRestarts <= 0 {
		return
	}
	uptime := a.minUptime
	if uptime <= 0 {
		uptime = time.Second
	}
	u.comment("max_restarts=%d: given up after so many starts that lasted less than %s each.", a.maxRestarts, uptime)
	u.set("StartLimitBurst", "%d", a.maxRestarts)
	u.set("StartLimitIntervalSec", "%s", seconds(time.Duration(a.maxRestarts)*(uptime+a.delay)))
}

// seconds writes a time as systemd reads it.
func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10)
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}

// execStart is the command line, with its secrets as variables.
func (r *result) execStart(u *unit, g *group, a *app, secrets map[string]string, each []map[string]string) (string, error) {
	var wrapper []string
	if a.waitReady {
		u.comment("wait_ready: ready once it says process.send('ready').")
		u.set("Type", "notify")
		wrapper = append(wrapper, "--ready-message")
		if a.listen > 0 {
			wrapper = append(wrapper, "--ready-timeout="+max(a.listen, time.Minute).String())
		}
	} else {
		u.set("Type", "exec")
	}
	if a.stopMessage {
		u.comment("shutdown_with_message: stopped by the message 'shutdown'.")
		wrapper = append(wrapper, "--stop-message")
		if a.killTimeout > 0 {
			wrapper = append(wrapper, "--stop-timeout="+a.killTimeout.String())
		}
	}
	argv := slices.Clone(a.argv)
	next := false
	for i, arg := range argv {
		holds, names := r.system.SecretIn(arg)
		if i > 0 && (holds || next) {
			argv[i] = standIn(i)
			switch {
			case arg == argv[i]: // it is in the files of each GPU
			case strings.Contains(arg, mark):
				for n := range each {
					each[n][argument(i)] = strings.ReplaceAll(arg, mark, g.index[n])
				}
			default:
				secrets[argument(i)] = arg
			}
			r.note(a.name, "args", "an argument looks like a secret: it is in the environment file, but every user sees the arguments of a process")
		}
		next = names
	}
	if len(wrapper) > 0 {
		if a.killAll && !a.stopMessage {
			wrapper = append(wrapper, "--signal-group")
		}
		argv = slices.Concat([]string{"/usr/bin/gpuherd", "run"}, wrapper, []string{"--"}, argv)
	}
	command, err := unitfile.QuoteArgv(argv)
	if err != nil {
		return "", err
	}
	for i := range a.argv {
		command = strings.ReplaceAll(command, standIn(i), "${"+argument(i)+"}")
	}
	return strings.ReplaceAll(command, mark, "%i"), nil
}

// argument is the variable for a word of the command line that is a secret or
// each GPU's own.
func argument(i int) string { return fmt.Sprintf("ARGUMENT_%d", i) }

// standIn stands for that variable until the command line is quoted.
func standIn(i int) string { return fmt.Sprintf("GPUHERD-ARGUMENT-%d-MARK", i) }

// envFiles keeps secrets out of the unit file, and what is each GPU's own.
func (r *result) envFiles(u *unit, g *group, a *app, name string, secrets map[string]string, each []map[string]string) {
	add := func(file string, env map[string]string) {
		r.Files = append(r.Files, File{Path: path.Join(EnvironmentDir, file), Mode: 0o600, Text: envFile(name, env, false), Public: envFile(name, env, true)})
	}
	if len(secrets) > 0 {
		u.comment("Secrets: only root may read this file.")
		u.set("EnvironmentFile", "%s", path.Join(EnvironmentDir, name+".env"))
		add(name+".env", secrets)
		r.note(a.name, "env", "what looks like a secret is in %s, for root alone: %s", path.Join(EnvironmentDir, name+".env"), strings.Join(slices.Sorted(maps.Keys(secrets)), " "))
	}
	own := false
	for i, env := range each {
		if len(env) > 0 {
			own = true
			add(fmt.Sprintf("%s-%s.env", name, g.index[i]), env)
		}
	}
	if own {
		u.comment("What differs from one GPU to another.")
		u.set("EnvironmentFile", "-%s", path.Join(EnvironmentDir, name+"-%i.env"))
		r.note(a.name, "env", "variables that differ from one GPU to another are in %s/%s-N.env", EnvironmentDir, name)
	}
}

// maxBackoff is where PM2's growing delay ends.
const maxBackoff = 15 * time.Second

func (r *result) limits(u *unit, a *app) {
	if a.memory > 0 {
		u.set("MemoryMax", "%s", exactSize(a.memory))
	} else {
		u.comment("PM2 had no limit.")
		u.set("MemoryMax", "infinity")
	}
	if a.noRestart {
		u.comment("autorestart=false")
		u.set("Restart", "no")
	}
	if a.stopCodes != "" {
		u.comment("stop_exit_codes")
		u.set("RestartPreventExitStatus", "%s", a.stopCodes)
		u.set("SuccessExitStatus", "%s", a.stopCodes)
	}
	switch {
	case a.noRestart:
	case a.backoff > 0 && a.backoff < maxBackoff:
		u.comment("exp_backoff_restart_delay: half as much again each time, up to 15 s.")
		u.set("RestartSec", "%s", seconds(a.backoff))
		u.set("RestartSteps", "%d", max(1, int(math.Ceil(math.Log(float64(maxBackoff)/float64(a.backoff))/math.Log(1.5)))))
		u.set("RestartMaxDelaySec", "%s", seconds(maxBackoff))
	case a.backoff > 0:
		u.set("RestartSec", "%s", seconds(maxBackoff))
	case a.delay > 0:
		u.set("RestartSec", "%s", seconds(a.delay))
	}
	u.comment("PM2 stops with %s, %s.", oneLine(a.killSignal), map[bool]string{true: "sent to every process", false: "sent to the main process alone"}[a.killAll])
	if signal := strings.ToUpper(a.killSignal); signalName(signal) {
		u.set("KillSignal", "%s", signal)
	} else {
		r.note(a.name, "env", "PM2_KILL_SIGNAL is no signal; SIGTERM is sent")
	}
	if a.killAll && !a.waitReady && !a.stopMessage {
		u.set("KillMode", "control-group")
	}
	switch {
	case a.killTimeout > 0 && a.stopMessage: // the signal comes after it
		u.set("TimeoutStopSec", "%s", seconds(a.killTimeout+5*time.Second))
	case a.killTimeout > 0:
		u.set("TimeoutStopSec", "%s", seconds(a.killTimeout))
	}
	if a.noLogs {
		u.comment("disable_logs")
		u.set("StandardOutput", "null")
		u.set("StandardError", "null")
	}
}

func signalName(s string) bool {
	return slices.Contains(strings.Fields("SIGINT SIGTERM SIGQUIT SIGHUP SIGUSR1 SIGUSR2 SIGKILL SIGABRT SIGALRM SIGWINCH"), s)
}

// exactSize writes a number of bytes with the largest unit that loses nothing.
func exactSize(n uint64) string {
	for _, u := range []struct {
		name string
		size uint64
	}{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} {
		if n%u.size == 0 {
			return strconv.FormatUint(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10)
}

// timer is for cron_restart.
func (r *result) timer(g *group, a *app, name string) {
	if a.cron == "" {
		return
	}
	calendar, err := Calendar(a.cron)
	if err != nil {
		r.note(a.name, "cron_restart", "is not understood, so there is no timer: %s", oneLine(err.Error()))
		return
	}
	target, verb := name+".service", "try-restart"
	if g.gpu {
		target = name + "@*.service"
	}
	if a.noRestart {
		verb = "restart" // PM2 starts a program that has ended, too
	}
	var t, s unit
	t.comment("Restarts %s, imported from PM2's cron_restart.", name)
	t.section("Unit")
	t.set("Description", "Restart %s", name)
	t.section("Timer")
	for _, c := range calendar {
		t.set("OnCalendar", "%s", c)
	}
	t.set("AccuracySec", "1s")
	t.section("Install")
	t.set("WantedBy", "timers.target")
	s.comment("Restarts %s, imported from PM2's cron_restart.", name)
	s.section("Unit")
	s.set("Description", "Restart %s", name)
	s.section("Service")
	s.set("Type", "oneshot")
	s.set("ExecStart", "/usr/bin/systemctl %s %s", verb, target)
	for ending, u := range map[string]*unit{".timer": &t, ".service": &s} {
		r.Files = append(r.Files, File{Path: path.Join(UnitDir, name+"-restart"+ending), Mode: 0o644, Text: u.String(), Public: u.String()})
	}
	r.Timers = append(r.Timers, name+"-restart.timer")
}
