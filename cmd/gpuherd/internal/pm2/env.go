package pm2

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gpuherd/cmd/gpuherd/internal/lazyregexp"
	"gpuherd/generator/unitfile"
)

var variableName = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)

// session are variables of the shell that started PM2, which a dump holds too.
var session = lazyregexp.New(`^(SHELL|PWD|OLDPWD|_|SHLVL|TERM|TERM_.*|COLORTERM|USER|LOGNAME|MAIL|HOSTNAME|DISPLAY|WAYLAND_DISPLAY|` +
	`SSH_.*|SUDO_.*|XDG_.*|DBUS_SESSION_.*|LS_COLORS|LESS.*|PS1|EDITOR|VISUAL|PAGER|TMUX.*|STY|WINDOW.*|NVM_.*|DEBIAN_FRONTEND|` +
	`INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_.*|MANAGERPID|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|NODE_CHANNEL_.*|npm_.*|INIT_CWD)$`)

// own are variables of PM2.
var own = lazyregexp.New(`^(PM2_.*|pm_.*|unique_id|NODE_APP_INSTANCE|vizion_running|axm_.*|km_link)$`)

func (r *result) environment(a *app, o *options, section string) {
	a.env = map[string]string{}
	sources := []string{"env"}
	if section != "" && !a.dumped {
		sources = append(sources, "env_"+section)
	}
	var left []string
	for _, source := range sources {
		v := o.get(source)
		m, ok := v.(map[string]any)
		if v != nil && !ok {
			o.bad(source)
		}
		r.section = r.section || v != nil && source != "env"
		for _, name := range slices.Sorted(maps.Keys(m)) {
			value, ok := text(m[name])
			switch {
			case name == "PM2_KILL_SIGNAL":
			case own().MatchString(name) || a.dumped && name == a.name:
				continue
			case a.dumped && session().MatchString(name):
				left = append(left, name)
				continue
			case m[name] == nil:
				continue
			case !variableName().MatchString(name):
				r.note(a.name, source, "%q is no name that systemd takes for a variable; it is left out", name)
				continue
			case !ok:
				r.note(a.name, source, "the value of %s is neither text nor number; it is left out", name)
				continue
			}
			a.env[name] = clean(value)
		}
	}
	if len(left) > 0 {
		r.note(a.name, "env", "variables of the login session are left out: %s", strings.Join(left, " "))
	}
}

// byGpuherd are variables that every worker on a GPU gets.
var byGpuherd = []string{"GPU_ID", "GPU_INDEX", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "GPU_MEMORY_GB", "GPU_MODEL", "GPU_UUID", "GPU_PCI_BUS_ID", "WORKER_ID"}

// envFile writes variables in the syntax of EnvironmentFile=.
func envFile(name string, env map[string]string, hide bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Variables of %s, imported from PM2. Only root may read this.\n", name)
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`")
	for _, key := range slices.Sorted(maps.Keys(env)) {
		value := quote.Replace(env[key])
		if hide {
			value = "***"
		}
		fmt.Fprintf(&b, "%s=\"%s\"\n", key, value)
	}
	return b.String()
}

// mark stands for the instance until a value is quoted.
const mark = "GPUHERD-INSTANCE-MARK"

// word quotes a word of a value.
func word(s string) (string, error) {
	q, err := unitfile.QuoteWord(s)
	return strings.ReplaceAll(q, mark, "%i"), err
}
