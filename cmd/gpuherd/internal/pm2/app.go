package pm2

import (
	"errors"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gpuherd/cmd/gpuherd/internal/lazyregexp"
	"gpuherd/generator/unitfile"
)

// An app is one of PM2's, its options understood.
type app struct {
	name   string
	argv   []string // interpreter, its arguments, script, arguments
	cwd    string
	env    map[string]string
	dumped bool

	instances int
	cluster   bool
	variable  string // that numbers instances
	increment string // variable that grows with each instance
	counts    bool   // some of argv are in the environment file of each GPU

	settings
}

// settings are those that the members of a group have in common.
type settings struct {
	user, group string
	memory      uint64 // bytes; 0: no limit
	disabled    bool
	noRestart   bool
	stopCodes   string
	delay       time.Duration
	backoff     time.Duration
	maxRestarts int // 0: not said
	minUptime   time.Duration
	killTimeout time.Duration
	killSignal  string
	killAll     bool
	waitReady   bool
	listen      time.Duration
	stopMessage bool
	cron        string
	noLogs      bool
}

// options reads PM2's options, and remembers which were seen.
type options struct {
	r    *result
	name string
	m    map[string]any
	seen map[string]bool
}

// get returns the first option of these names that is set.
func (o *options) get(names ...string) any {
	var found any
	for _, n := range names {
		o.seen[n] = true
		if v := o.m[n]; v != nil && found == nil {
			found = v
		}
	}
	return found
}

func (o *options) text(names ...string) string {
	v := o.get(names...)
	s, ok := text(v)
	if v != nil && !ok {
		o.bad(names[0])
	}
	return clean(s)
}

func (o *options) bad(name string) {
	o.r.note(o.name, name, "the value is not understood and left out")
}

func (o *options) flag(fallback bool, names ...string) bool {
	s := o.text(names...)
	switch s {
	case "":
		return fallback
	case "true", "1":
		return true
	case "false", "0":
		return false
	}
	o.bad(names[0])
	return fallback
}

// list reads an array, or a string that is split into words.
func (o *options) list(names ...string) []string {
	v := o.get(names...)
	var words []string
	switch v := v.(type) {
	case nil:
	case []any:
		for _, one := range v {
			s, ok := text(one)
			if !ok {
				o.bad(names[0])
			}
			words = append(words, clean(s))
		}
	default:
		s, ok := text(v)
		if !ok {
			o.bad(names[0])
		}
		s = clean(s)
		split, err := unitfile.SplitArgv(s)
		if err != nil {
			split = strings.Fields(s)
		}
		words = split
	}
	return words
}

var duration = lazyregexp.New(`^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?$`)

// span reads a time in milliseconds, or with a unit.
func (o *options) span(names ...string) time.Duration {
	s := o.text(names...)
	if s == "" {
		return 0
	}
	m := duration().FindStringSubmatch(s)
	if m == nil {
		o.bad(names[0])
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	unit := map[string]time.Duration{"": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour}[m[2]]
	if n *= float64(unit); err != nil || n > float64(math.MaxInt64/2) {
		o.bad(names[0])
		return 0
	}
	return time.Duration(n).Round(time.Millisecond)
}

func (o *options) number(names ...string) int {
	s := o.text(names...)
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		o.bad(names[0])
	}
	return n
}

var size = lazyregexp.New(`^([0-9]+(?:\.[0-9]+)?)([KMG])?B?$`)

// bytes reads a size as PM2 does: K, M and G are powers of 1024.
func (o *options) bytes(names ...string) uint64 {
	s := strings.ToUpper(strings.TrimSpace(o.text(names...)))
	if s == "" {
		return 0
	}
	m := size().FindStringSubmatch(s)
	if m == nil {
		o.bad(names[0])
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	n *= map[string]float64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[m[2]]
	if err != nil || n >= 1<<60 {
		o.bad(names[0])
		return 0
	}
	return uint64(n)
}

func (r *result) read(raw Raw, env string) (*app, error) {
	o := &options{r: r, m: raw.Options, seen: map[string]bool{}}
	script := o.text("pm_exec_path", "script", "exec")
	if script == "" {
		return nil, errors.New("has no script")
	}
	o.name = o.text("name")
	if o.name == "" {
		o.name = strings.TrimSuffix(path.Base(script), path.Ext(script))
	}
	a := &app{name: o.name, dumped: raw.Dumped, cwd: o.text("pm_cwd", "cwd")}
	if a.cwd == "" {
		a.cwd = raw.Dir
	} else if !path.IsAbs(a.cwd) {
		a.cwd = path.Join(raw.Dir, a.cwd)
	}
	r.environment(a, o, env)
	r.command(a, o, script)
	r.instances(a, o)
	r.settings(a, o)
	r.rest(a, o)
	return a, nil
}

// interpreters are PM2's, by the ending of a script's name.
var interpreters = map[string]string{
	".sh": "bash", ".py": "python", ".rb": "ruby", ".php": "php", ".pl": "perl", ".js": "node", ".mjs": "node", ".cjs": "node",
	".coffee": "coffee", ".ls": "lsc", ".ts": "bun", ".tsx": "bun",
}

// command finds the command line as PM2 does.
func (r *result) command(a *app, o *options, script string) {
	args := o.list("args")
	interpreter := o.text("exec_interpreter", "interpreter")
	before := o.list("node_args", "nodeArgs", "interpreter_args", "interpreterArgs")
	if interpreter == "none" {
		before = nil
	}
	search := a.env["PATH"]
	if !a.dumped {
		if strings.Contains(script, " ") { // a command line, to PM2
			script, args, interpreter = "bash", []string{"-c", script}, "none"
		}
		if full := absolute(a.cwd, script); r.system.Exists(full) || strings.HasPrefix(script, ".") {
			script = full
		} else if found := r.system.LookPath(script, search); found != "" {
			script = found
			if interpreter == "" && interpreters[path.Ext(script)] == "" {
				interpreter = "none"
			}
		} else {
			script = full
			r.note(a.name, "script", "%s is not there", full)
		}
		if interpreter == "" {
			interpreter = interpreters[path.Ext(script)]
			if interpreter == "" {
				interpreter = "node"
				if r.system.IsBinary(script) {
					interpreter = "none"
				}
			}
		}
	}
	if strings.Contains(interpreter, "python") && a.env["PYTHONUNBUFFERED"] == "" {
		a.env["PYTHONUNBUFFERED"] = "1" // PM2 sets it
	}
	if interpreter != "none" && interpreter != "" {
		found := r.system.LookPath(interpreter, search)
		if found == "" && interpreter == "python" {
			found = r.system.LookPath("python3", search)
		}
		switch {
		case found != "":
			interpreter = found
		case strings.Contains(interpreter, "/"):
			interpreter = absolute(a.cwd, interpreter)
			r.note(a.name, "interpreter", "%s is not there", interpreter)
		default:
			r.note(a.name, "interpreter", "%s is not in PATH here; write its whole path into ExecStart=", interpreter)
		}
		a.argv = append(a.argv, interpreter)
		a.argv = append(a.argv, before...)
	}
	a.argv = append(append(a.argv, script), args...)
}

func absolute(dir, p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join(dir, p)
}

func (r *result) instances(a *app, o *options) {
	a.cluster = strings.HasPrefix(o.text("exec_mode"), "cluster")
	a.variable = o.text("instance_var")
	a.increment = o.text("increment_var")
	s := o.text("instances")
	a.instances = 1
	if a.dumped {
		return // one entry an instance
	}
	n, err := strconv.Atoi(s)
	switch {
	case s == "":
	case s == "max" || err == nil && n == 0:
		a.instances = max(1, r.system.CPUs)
	case err == nil && n < 0:
		a.instances = max(1, r.system.CPUs+n)
	case err == nil && n <= 1000:
		a.instances = n
	default:
		o.bad("instances")
	}
	// Said without a mode, instances of node programs are a cluster.
	if s != "" && o.m["exec_mode"] == nil && strings.HasSuffix(path.Base(a.argv[0]), "node") {
		a.cluster = true
	}
}

func (r *result) settings(a *app, o *options) {
	a.user = o.text("uid", "user")
	if u := o.text("username"); a.user == "" {
		a.user = u
	}
	if a.user == "" {
		a.user = r.system.User
	}
	a.group = o.text("gid")
	a.memory = o.bytes("max_memory_restart")
	a.disabled = !o.flag(true, "autostart")
	if status := o.text("status"); status == "stopped" || status == "errored" {
		a.disabled = true
		r.note(a.name, "status", "is %s in PM2, so it is off here; take out Enabled=no to have it run", status)
	}
	a.noRestart = !o.flag(true, "autorestart")
	codes := o.list("stop_exit_codes")
	for _, c := range codes {
		if n, err := strconv.Atoi(c); err != nil || n < 0 || n > 255 {
			o.bad("stop_exit_codes")
			codes = nil
			break
		}
	}
	slices.Sort(codes)
	a.stopCodes = strings.Join(slices.Compact(codes), " ")
	a.delay = o.span("restart_delay")
	a.backoff = o.span("exp_backoff_restart_delay")
	a.maxRestarts = o.number("max_restarts")
	a.minUptime = o.span("min_uptime")
	a.killTimeout = o.span("kill_timeout")
	a.killAll = o.flag(true, "treekill")
	a.killSignal = a.env["PM2_KILL_SIGNAL"]
	if a.killSignal == "" {
		a.killSignal = "SIGINT"
	}
	delete(a.env, "PM2_KILL_SIGNAL")
	a.waitReady = o.flag(false, "wait_ready")
	a.listen = o.span("listen_timeout")
	a.stopMessage = o.flag(false, "shutdown_with_message")
	a.cron = o.text("cron_restart", "cron")
	if a.cron == "0" || a.cron == "false" {
		a.cron = ""
	}
	a.noLogs = o.flag(false, "disable_logs")
}

// ignored are options that mean nothing here, and what PM2 keeps for itself.
var ignored = strings.Fields(`pid kill_retry_time vizion vizion_running automation pmx windowsHide km_link force
	merge_logs combine_logs pm_out_log_path pm_err_log_path pm_log_path pm_pid_path unique_id pm_id pm_uptime created_at
	restart_time unstable_restarts prev_restart_delay axm_actions axm_monitor axm_options axm_dynamic node_version version
	versioning exit_code command _pm2_version NODE_APP_INSTANCE _ env env_file name_prefix write started_inside
	execute_command disable_trace treekill time log_date_format last_restart monit pmx_module install_url io
	port next_cron rev backward current_conf automation`)

// unequal are options that have no equal, and what there is instead.
var unequal = []struct{ names, text string }{
	{"watch", "a tree is not watched; systemd.path(5) starts a unit when a file changes"},
	{"ignore_watch", ""}, {"watch_delay", ""}, {"watch_options", ""},
	{"source_map_support", "is not injected; node has --enable-source-maps"},
	{"disable_source_map_support", ""},
	{"log_type", "journald keeps each line with its fields; journalctl -o json gives JSON"},
	{"post_update", "there is no pm2 pull; run the commands in your deployment"},
	{"append_env_to_name", "the name stays as it is"},
	{"filter_env", "a service has only the variables of its file to begin with"},
	{"trace", "is a feature of PM2's own library"}, {"v8", "is a feature of PM2's own library"},
	{"event_loop_inspector", "is a feature of PM2's own library"}, {"deep_monitoring", "is a feature of PM2's own library"},
	{"pid_file", "systemd knows the process: systemctl show -P MainPID"},
}

// rest tells of what has no equal.
func (r *result) rest(a *app, o *options) {
	if ns := o.text("namespace"); ns != "" && ns != "default" {
		r.note(a.name, "namespace", "%q: services have no namespace; Slice= puts some together, with limits of their own", ns)
	}
	for _, logs := range [][]string{{"out_file", "out", "output", "out_log"}, {"error_file", "error", "err", "err_file", "err_log"}, {"log_file", "log"}} {
		if file := o.text(logs...); file != "" && file != "true" && file != "false" && file != "/dev/null" && file != "NULL" {
			key := "StandardOutput"
			if logs[0] == "error_file" {
				key = "StandardError"
			}
			r.note(a.name, logs[0], "journald keeps the log (gpuherd logs); for a file instead, add %s=append:%s", key, absolute(a.cwd, file))
		}
	}
	if a.waitReady && a.listen > 0 {
		r.note(a.name, "listen_timeout", "PM2 goes on when an app is not ready in time; here it is started anew, so it has a minute at least")
	}
	if a.memory > 0 {
		r.note(a.name, "max_memory_restart", "MemoryMax= counts child processes and page cache too, and acts at once: raise it where PM2's limit was close")
	}
	for _, u := range unequal {
		v := o.get(u.names)
		if s, _ := text(v); v != nil && s != "false" && s != "" && u.text != "" {
			r.note(a.name, u.names, "%s", u.text)
		}
	}
	var unknown []string
	for key := range o.m {
		switch {
		case o.seen[key] || slices.Contains(ignored, key):
		case strings.HasPrefix(key, "env_"):
			if !a.dumped && o.m[key] != nil {
				r.note(a.name, key, "is not applied; --env %s does it", strings.TrimPrefix(key, "env_"))
			}
		case a.dumped: // PM2 mixes the environment with its options
		default:
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		r.note(a.name, key, "is no option of PM2 7 and left out")
	}
}
