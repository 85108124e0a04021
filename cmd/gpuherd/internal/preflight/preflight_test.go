package preflight

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
	"gpuherd/generator/plan"
	"gpuherd/generator/unitfile"
)

// system makes a small operating system below a root. A file whose name ends
// in '*' is executable; one whose text begins with "-> " is a link.
func system(t *testing.T, more map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"etc/os-release":            "ID=debian\n",
		"etc/passwd":                "root:x:0:0::/root:/bin/sh\n\n# no account\nvideo:x:44:44:::\n",
		"etc/group":                 "root:x:0:\nrender:x:105:\n",
		"usr/bin/true*":             "\x7fELF",
		"bin":                       "-> usr/bin",
		"usr/bin/gpuherd*":          "\x7fELF",
		"opt/notes":                 "",
		"opt/fine*":                 "#! /bin/true -e\n",
		"opt/moved*":                "#!/opt/venv/bin/python\n",
		"opt/100%*":                 "",
		"opt/linked":                "-> ../usr/bin/true",
		"opt/outside":               "-> /elsewhere/true",
		"opt/folder/":               "",
		"usr/lib/sysusers.d/a.conf": "u! made - \"A user\" /\nm member into\n#u commented\ng crowd 717\n",
	}
	for name, text := range more {
		files[name] = text
	}
	for name, text := range files {
		file := filepath.Join(root, strings.TrimSuffix(name, "*"))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, "*") {
			mode = 0o755
		}
		var err error
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(target, file)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(file, 0o755)
		} else {
			err = os.WriteFile(file, []byte(text), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// told returns what is said of a unit, as `gpuherd verify` writes it.
func told(t *testing.T, root, unit string) []string {
	t.Helper()
	f, problems := unitfile.Parse("a.service", []byte(unit))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var got []string
	for _, p := range Problems(root, &generator.Result{Plan: &plan.Plan{Files: []plan.File{{Path: "a-b.service", Unit: f}}}}) {
		text := strings.TrimPrefix(p.Error(), "a.service:")
		if !p.Warning {
			text = "error: " + text
		}
		got = append(got, text)
	}
	return got
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	const exec = "; until then it fails with 203/EXEC"
	tests := map[string]struct {
		service string // what stands in [Service], from line 2 on
		want    []string
	}{
		"there":           {"ExecStart=/opt/fine -x", nil},
		"by its name":     {"ExecStart=true", nil},
		"by a link":       {"ExecStart=/bin/true\nExecStartPre=/opt/linked", nil},
		"out of the root": {"ExecStart=/opt/outside", nil},
		"not there":       {"ExecStart=/opt/none -x", []string{"2: ExecStart=: /opt/none does not exist; put it there or correct the path" + exec}},
		"no such name":    {"ExecStart=none", []string{"2: ExecStart=: none is in none of the folders /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; install it, or write its whole path" + exec}},
		"other folders":   {"ExecStart=none\nExecSearchPath=/opt", nil},
		"no rights":       {"ExecStart=/opt/notes", []string{"2: ExecStart=: /opt/notes is not executable; chmod a+x /opt/notes" + exec}},
		"a folder":        {"ExecStart=/opt/folder", []string{"2: ExecStart=: /opt/folder is no file; write the path of a program" + exec}},
		"an interpreter":  {"ExecStart=/opt/moved", []string{"2: ExecStart=: /opt/moved is a script for /opt/venv/bin/python, which does not exist; install that or correct the script's first line" + exec}},
		"no whole path":   {"ExecStart=bin/true", []string{`error: 2: ExecStart=: "bin/true" is no absolute path; write all of it; systemd refuses the unit`}},
		"prefixes": {"ExecStart=@/opt/none argv0\nExecStart=:+/opt/none\nExecStart=!!/opt/none\nExecStart=-/opt/none\nExecStart=@-/opt/none x", []string{
			"2: ExecStart=: /opt/none does not exist; put it there or correct the path" + exec,
			"3: ExecStart=: /opt/none does not exist; put it there or correct the path" + exec,
			"4: ExecStart=: /opt/none does not exist; put it there or correct the path" + exec,
		}},
		"a shell's":            {"ExecStart=|none | more", nil},
		"specifier":            {"ExecStart=%h/none\nExecStartPre=/opt/none-%i", nil},
		"per cent":             {"ExecStart=/opt/100%%\nExecStartPre=/opt/99%%", []string{"3: ExecStartPre=: /opt/99% does not exist; put it there or correct the path" + exec}},
		"variable":             {"ExecStart=/opt/$NONE\nExecStartPre=${NONE}", nil},
		"quoted":               {`ExecStart="/opt/no\x20ne" x`, []string{`2: ExecStart=: /opt/no ne does not exist; put it there or correct the path` + exec}},
		"each command":         {"Type=oneshot\nExecStart=/bin/true ; /opt/none ; true", []string{"3: ExecStart=: /opt/none does not exist; put it there or correct the path" + exec}},
		"reset":                {"ExecStart=/opt/none\nExecStart=\nExecStart=/bin/true", nil},
		"beside ExecStart":     {"ExecStart=/bin/true\nExecReload=/opt/none", []string{"3: ExecReload=: /opt/none does not exist; put it there or correct the path" + exec}},
		"another root":         {"ExecStart=/opt/none\nRootDirectory=/srv", nil},
		"another root's users": {"ExecStart=/opt/none\nUser=none\nRootImage=/srv/x.raw", nil},
		"a mount of its own":   {"ExecStart=/opt/none\nBindReadOnlyPaths=/srv:/opt\nUser=none", []string{`4: User=: there is no user "none"; useradd --system none makes it; until then it fails with 217/USER`}},
		"a mount taken back":   {"ExecStart=/opt/none\nBindPaths=/srv:/opt\nBindPaths=", []string{"2: ExecStart=: /opt/none does not exist; put it there or correct the path" + exec}},
		"condition":            {"ExecStart=/opt/none\n[Unit]\nConditionFileIsExecutable=|/opt/none", nil},
		"gpuherd run": {"ExecStart=/usr/bin/gpuherd run --ready-http=http://127.0.0.1:818%i/ -- /opt/none main.py", []string{
			"2: ExecStart=: /opt/none does not exist; put it there or correct the path; until then gpuherd run fails with 126 or 127",
		}},
		"gpuherd run by name": {"ExecStart=/usr/bin/gpuherd run -- python3 /opt/none\nExecStartPre=/usr/bin/gpuherd run -- %h/none\nExecStartPost=/usr/bin/gpuherd run --", nil},
		"gpuherd, not run":    {"ExecStart=/usr/bin/gpuherd list -- /opt/none", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, told(t, system(t, nil), "[Service]\n"+tt.service+"\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	user := func(line, name, mend string) string {
		return line + `: User=: there is no user "` + name + `"; ` + mend + " until then it fails with 217/USER"
	}
	tests := map[string]struct {
		service string
		files   map[string]string
		want    []string
	}{
		"there":          {service: "User=video\nGroup=render\nSupplementaryGroups=root render"},
		"without a line": {service: "User=nobody\nGroup=nobody"},
		"not there":      {service: "User=comfyui", want: []string{user("2", "comfyui", "useradd --system comfyui makes it;")}},
		"nearly":         {service: "User=vidoe", want: []string{user("2", "vidoe", "did you mean video?")}},
		"groups": {service: "Group=rendr\nSupplementaryGroups=render none", want: []string{
			`2: Group=: there is no group "rendr"; did you mean render? until then it fails with 216/GROUP`,
			`3: SupplementaryGroups=: there is no group "none"; groupadd --system none makes it; until then it fails with 216/GROUP`,
		}},
		"the last holds":   {service: "User=none\nUser=video"},
		"reset":            {service: "User=none\nUser="},
		"dynamic":          {service: "User=none\nDynamicUser=yes"},
		"not dynamic":      {service: "User=none\nDynamicUser=no", want: []string{user("2", "none", "useradd --system none makes it;")}},
		"specifier":        {service: "User=%i\nGroup=g%i"},
		"number":           {service: "User=44\nGroup=105\nSupplementaryGroups=717"},
		"no such number":   {service: "User=105\nGroup=0", want: []string{user("2", "105", "write the name or number of one;")}},
		"made at boot":     {service: "User=made\nGroup=made\nSupplementaryGroups=crowd into"},
		"made as a member": {service: "User=member"},
		"no user is made":  {service: "User=crowd", want: []string{user("2", "crowd", "useradd --system crowd makes it;")}},
		"commented":        {service: "User=commented", want: []string{user("2", "commented", "useradd --system commented makes it;")}},
		"a directory server": {service: "User=none\nGroup=none", files: map[string]string{"etc/nsswitch.conf": "passwd: files sss systemd\n group: files\n"}, want: []string{
			`3: Group=: there is no group "none"; groupadd --system none makes it; until then it fails with 216/GROUP`,
		}},
		"none to be read": {service: "User=none", files: map[string]string{"etc/passwd": "-> /dev/null"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, told(t, system(t, tt.files), "[Service]\n"+tt.service+"\nExecStart=/bin/true\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Drop-ins of systemctl edit count, and what they say has their place.
func TestDropIns(t *testing.T) {
	t.Parallel()
	root := system(t, map[string]string{
		"etc/systemd/system/a-b.service.d/50-mine.conf":      "[Service]\nExecStart=\nExecStart=/opt/mine\n",
		"usr/lib/systemd/system/a-.service.d/60-theirs.conf": "[Service]\nUser=none\n",
		"usr/lib/systemd/system/service.d/70-all.conf":       "[Service]\nGroup=none\n",
		"etc/systemd/system/service.d/70-all.conf":           "-> /dev/null",
		"run/systemd/system/service.d/75-every.conf":         "[Service]\nSupplementaryGroups=every\n",
		"etc/systemd/system/a.service.d/80-another.conf":     "[Service]\nUser=video\n",
	})
	want := []string{
		`/usr/lib/systemd/system/a-.service.d/60-theirs.conf:2: User=: there is no user "none"; useradd --system none makes it; until then it fails with 217/USER`,
		`/run/systemd/system/service.d/75-every.conf:2: SupplementaryGroups=: there is no group "every"; groupadd --system every makes it; until then it fails with 216/GROUP`,
		"/etc/systemd/system/a-b.service.d/50-mine.conf:3: ExecStart=: /opt/mine does not exist; put it there or correct the path; until then it fails with 203/EXEC",
	}
	if diff := cmp.Diff(want, told(t, root, "[Service]\nExecStart=/opt/none\nUser=video\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A tree that has configuration alone has no programs and no users to miss.
func TestConfigurationAlone(t *testing.T) {
	t.Parallel()
	if got := told(t, t.TempDir(), "[Service]\nExecStart=/opt/none\nExecStartPre=none\nUser=none\n"); got != nil {
		t.Errorf("told: %v", got)
	}
}

// This host's C library is asked, and not its files alone.
func TestThisHost(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{me.Username: false, "gpuherd-no-such-user": true} {
		if got := unknown(t.Context(), "passwd", name); got != want {
			t.Errorf("%s is unknown: %v", name, got)
		}
	}
	asked := ""
	a := newAccounts("/", func(database, name string) bool { asked += database + " " + name + "\n"; return false })
	for _, name := range []string{me.Username, "gpuherd-no-such-user", "gpuherd-no-such-user"} {
		if a.missing("passwd", name) {
			t.Errorf("%s is missing", name)
		}
	}
	if asked != "passwd gpuherd-no-such-user\n" {
		t.Errorf("asked:\n%s", asked)
	}
}
