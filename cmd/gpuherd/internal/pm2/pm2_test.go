package pm2

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
	"gpuherd/units/run"
)

var update = flag.Bool("update", false, "write what comes out now into testdata/*.golden")

var secret = regexp.MustCompile(`(?i)password|token|://[^/]*:[^/]*@`)

// testSystem is a machine with some programs.
func testSystem() System {
	programs := []string{"/usr/bin/node", "/usr/bin/python3", "/usr/bin/bash"}
	return System{
		LookPath: func(program, path string) string {
			for _, p := range programs {
				if p == program || path == "" && filepath.Base(p) == program || filepath.Join(path, program) == p {
					return p
				}
			}
			return ""
		},
		Exists:   func(path string) bool { return strings.HasPrefix(path, "/srv/") || path == "/opt/py/app.py" },
		IsBinary: func(path string) bool { return path == "/srv/tool" },
		Taken: func(name string) string {
			if name == "hello-world" {
				return "a service of gpuherd"
			}
			return ""
		},
		Secret:   func(name, value string) bool { return secret.MatchString(name) || secret.MatchString(value) },
		SecretIn: func(arg string) (bool, bool) { return secret.MatchString(arg), arg == "--api-key" },
		CPUs:     4, User: "gpu",
	}
}

func render(r *Result) string {
	var b strings.Builder
	for _, f := range r.Files {
		fmt.Fprintf(&b, "-- %s %04o --\n%s", f.Path, f.Mode, f.Text)
	}
	b.WriteString("-- notes --\n")
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "%s: %s: %s\n", n.App, n.Option, n.Text)
	}
	fmt.Fprintf(&b, "-- services --\n%s\n-- timers --\n%s\n", strings.Join(r.Services, " "), strings.Join(r.Timers, " "))
	return b.String()
}

// check holds a result to what every one has to be: unit files that gpuherd
// takes, and no secret but in files for root.
func check(t *testing.T, r *Result, secrets ...string) {
	t.Helper()
	for _, f := range r.Files {
		if strings.HasPrefix(f.Path, EnvironmentDir) {
			if f.Mode != 0o600 {
				t.Errorf("%s has mode %o", f.Path, f.Mode)
			}
			if _, err := run.ParseEnv(f.Path, []byte(f.Text), run.Systemd); err != nil {
				t.Error(err)
			}
		}
		for _, s := range secrets {
			if strings.Contains(f.Public, s) || f.Mode != 0o600 && strings.Contains(f.Text, s) {
				t.Errorf("%s holds a secret", f.Path)
			}
		}
		file, problems := unitfile.Parse(f.Path, []byte(f.Text))
		if strings.HasPrefix(f.Path, ServiceDir) {
			_, more := service.Parse(strings.TrimSuffix(filepath.Base(f.Path), ".service"), f.Path, file)
			problems = append(problems, more...)
			for _, p := range problems {
				t.Errorf("%v\n%s", p, f.Text)
			}
		}
	}
	for _, n := range r.Notes {
		for _, s := range secrets {
			if strings.Contains(n.Text, s) {
				t.Errorf("note %q holds a secret", n.Text)
			}
		}
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.in")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			apps, err := Parse(data, "/srv")
			if err != nil {
				t.Fatal(err)
			}
			env := ""
			if strings.Contains(input, "json") {
				env = "production"
			}
			r, err := Import(apps, env, testSystem())
			if err != nil {
				t.Fatal(err)
			}
			check(t, r, "hunter2")
			golden := strings.TrimSuffix(input, ".in") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(render(r)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), render(r)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                          "has no apps",
		"[]":                        "has no apps",
		"{}":                        "has no apps",
		"42":                        "has no apps",
		`{"apps":[1]}`:              "app 0 is no object",
		`[{"name":"x"}]`:            "app 0: has no script",
		`{"apps":[{"script":"x"}`:   "is no JSON",
		"a: [":                      "is neither JSON nor YAML",
		`[{"script":"x"}] trailing`: "is no JSON",
	} {
		apps, err := Parse([]byte(text), "/srv")
		if err == nil {
			_, err = Import(apps, "", testSystem())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	apps, err := Parse([]byte(`[{"script":"/srv/x"}]`), "/srv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Import(apps, "staging", testSystem()); err == nil || !strings.Contains(err.Error(), "no app has env_staging") {
		t.Errorf("%v", err)
	}
}

// Names that would leave the folder, hide as another unit or move a cursor.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../../etc/passwd", "a@b", "x\ny=1", "\x1b[2J", "..", "-", strings.Repeat("é", 300), "a/b", "%i"} {
		raw := Raw{Options: map[string]any{"name": name, "script": "/srv/x\n[Service]\nUser=root", "args": []any{"\n[Install]", "%i", "${X}", ";"}, "cwd": "/srv", "user": "u\nExecStart=x"}}
		r, err := Import([]Raw{raw, raw}, "", testSystem())
		if err != nil {
			continue // refused is fine
		}
		check(t, r)
		for _, f := range r.Files {
			if filepath.Dir(f.Path) != ServiceDir || strings.ContainsAny(f.Path, "@%\n\x1b") {
				t.Errorf("%q gives %q", name, f.Path)
			}
			if strings.Contains(f.Text, "\nUser=root") || strings.Contains(f.Text, "\n[Install]") || strings.ContainsRune(f.Text, '\x1b') {
				t.Errorf("%q: %s", name, f.Text)
			}
		}
	}
}

// Several instances of an app for one GPU: a worker on each GPU would be on that
// of the other app, too.
func TestInstancesForOneGPU(t *testing.T) {
	t.Parallel()
	raw := func(name string) Raw {
		return Raw{Options: map[string]any{"name": name, "pm_exec_path": "/srv/x", "pm_cwd": "/srv"}, Dumped: true}
	}
	r, err := Import([]Raw{raw("w-gpu0"), raw("w-gpu0"), raw("w-gpu1")}, "", testSystem())
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	if diff := cmp.Diff([]string{"w-gpu0-0", "w-gpu0-1", "w-gpu1"}, r.Services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	for _, f := range r.Files {
		if !strings.Contains(f.Text, "\nPer=host\n") {
			t.Errorf("%s:\n%s", f.Path, f.Text)
		}
	}
}

func TestCalendar(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatal("no systemd-analyze: apt-get install systemd")
	}
	for cron, want := range map[string][]string{
		"0 3 * * *":            {"*-*-* 3:0:0"},
		"*/15 * * * *":         {"*-*-* *:0/15:0"},
		"30 */2 1-7 jan,jun *": {"*-1,6-1..7 0/2:30:0"},
		"0 0 * * mon-fri":      {"Mon,Tue,Wed,Thu,Fri *-*-* 0:0:0"},
		"0 0 * * 7":            {"Sun *-*-* 0:0:0"},
		"0 12 13 * 5":          {"*-*-13 12:0:0", "Fri *-*-* 12:0:0"},
		"10 20 4 * * *":        {"*-*-* 4:20:10"},
		"5-50/10 1,3 * * 0-6":  {"*-*-* 1,3:5..50/10:0"},
		"0 5/6 * * *":          {"*-*-* 5..23/6:0:0"},
		"@weekly":              {"Sun *-*-* 00:00:00"},
		"@hourly":              {"hourly"},
		"@reboot":              nil, "L * * * *": nil, "60 * * * *": nil, "* * * *": nil, "* * 0 * *": nil, "*/0 * * * *": nil, "5-1 * * * *": nil, "*-5 * * * *": nil,
	} {
		got, err := Calendar(cron)
		if (err != nil) != (want == nil) {
			t.Errorf("%s: %v", cron, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", cron, diff)
		}
		for _, c := range got {
			if out, err := exec.CommandContext(t.Context(), analyze, "calendar", c).CombinedOutput(); err != nil {
				t.Errorf("systemd does not take %q: %s", c, out)
			}
		}
	}
}

// An environment file gives back what went in.
func TestEnvFile(t *testing.T) {
	t.Parallel()
	env := map[string]string{"A": "a \"b\" $c `d` \\e\\", "B": "one\ntwo ", "C": "", "D": "# ; 'x'"}
	got, err := run.ParseEnv("F", []byte(envFile("x", env, false)), run.Systemd)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for name, value := range env {
		want = append(want, name+"="+value)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzImport(f *testing.F) {
	inputs, _ := filepath.Glob("testdata/*.in")
	for _, input := range inputs {
		data, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		apps, err := Parse(data, "/srv")
		if err != nil {
			return
		}
		r, err := Import(apps, "", testSystem())
		if err != nil {
			return
		}
		for _, file := range r.Files {
			if strings.HasPrefix(file.Path, EnvironmentDir) {
				if _, err := run.ParseEnv(file.Path, []byte(file.Text), run.Systemd); err != nil {
					t.Fatal(err)
				}
				continue
			}
			parsed, problems := unitfile.Parse(file.Path, []byte(file.Text))
			if len(problems) > 0 {
				t.Fatal(problems[0])
			}
			if n := len(parsed.Values("Service", "ExecStart")); n != 1 && strings.HasPrefix(file.Path, ServiceDir) {
				t.Fatalf("%d commands:\n%s", n, file.Text)
			}
			if bytes.Contains([]byte(file.Path), []byte("..")) {
				t.Fatal(file.Path)
			}
		}
	})
}

func FuzzCalendar(f *testing.F) {
	f.Add("*/15 3 1,15 * mon-fri")
	f.Fuzz(func(t *testing.T, cron string) {
		got, err := Calendar(cron)
		if err == nil && (len(got) == 0 || len(got) > 2) {
			t.Fatalf("%q gives %q", cron, got)
		}
	})
}
