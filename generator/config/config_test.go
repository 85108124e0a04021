package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/unitfile"
)

// parseText reads one file's text over the defaults.
func parseText(text string, environ ...string) (*Config, unitfile.Problems) {
	l := loader{root: "/nonexistent", config: Default()}
	l.parse("x.conf", []byte(text))
	l.environ(environ)
	l.executor()
	return l.config, l.problems
}

func ptr[T any](v T) *T { return &v }

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, problems := Load(Source{Root: t.TempDir()})
	if len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
	type plain struct {
		GPU     GPU
		Worker  Worker
		Redis   Redis
		Monitor Monitor
	}
	want := plain{
		GPU:     GPU{Count: -1},
		Worker:  Worker{Queue: "gpu", Executor: "exec", Exec: []string{"/usr/lib/gpuherd/jobs/echo"}, RecycleMemory: 90},
		Redis:   Redis{URL: "redis://127.0.0.1:6379/0", Prefix: "gpuherd"},
		Monitor: Monitor{Listen: "127.0.0.1:9720"},
	}
	if diff := cmp.Diff(want, plain{c.GPU, c.Worker, c.Redis, c.Monitor}); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if o := c.Origin("GPU.Count"); o != BuiltIn {
		t.Errorf("origin of a default is %q", o)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.HostName(); err != nil || got != host {
		t.Errorf("HostName() = %q, %v", got, err)
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text    string
		environ []string
		get     func(*Config) any
		want    any
		origin  [2]string // setting, origin
	}{
		"count":          {"[GPU]\nCount=3", nil, func(c *Config) any { return c.GPU.Count }, 3, [2]string{"GPU.Count", "x.conf:2"}},
		"count of all":   {"[GPU]\nCount=3\nCount=all", nil, func(c *Config) any { return c.GPU.Count }, -1, [2]string{"GPU.Count", "x.conf:3"}},
		"reset":          {"[GPU]\nCount=3\nCount=", nil, func(c *Config) any { return c.GPU.Count }, -1, [2]string{"GPU.Count", "built-in"}},
		"sections twice": {"[GPU]\nCount=3\n[Redis]\n[GPU]\nSimulate=on", nil, func(c *Config) any { return c.GPU }, GPU{3, true}, [2]string{}},
		"environment":    {"[GPU]\nCount=3", []string{"NUM_GPUS=2"}, func(c *Config) any { return c.GPU.Count }, 2, [2]string{"GPU.Count", "NUM_GPUS of PID 1's environment"}},
		"second name":    {"", []string{"WORKER_NUM_GPUS=2"}, func(c *Config) any { return c.GPU.Count }, 2, [2]string{"GPU.Count", "WORKER_NUM_GPUS of PID 1's environment"}},
		"empty variable": {"[GPU]\nCount=3", []string{"NUM_GPUS="}, func(c *Config) any { return c.GPU.Count }, 3, [2]string{"GPU.Count", "x.conf:2"}},
		"first of two":   {"", []string{"NUM_GPUS=4", "NUM_GPUS=5"}, func(c *Config) any { return c.GPU.Count }, 4, [2]string{}},
		"zero":           {"", []string{"NUM_GPUS=0"}, func(c *Config) any { return c.GPU.Count }, 0, [2]string{}},
		"most":           {"", []string{"NUM_GPUS=1024"}, func(c *Config) any { return c.GPU.Count }, 1024, [2]string{}},
		"health port":    {"[Monitor]\nListen=[::1]:80", []string{"HEALTH_PORT=9000"}, func(c *Config) any { return c.Monitor.Listen }, "[::1]:9000", [2]string{"Monitor.Listen", "HEALTH_PORT of PID 1's environment"}},
		"everywhere":     {"[Monitor]\nListen=:9720", nil, func(c *Config) any { return c.Monitor.Listen }, ":9720", [2]string{}},
		"machine status": {"[Monitor]\nMachineStatus=yes", nil, func(c *Config) any { return c.Monitor.MachineStatus }, true, [2]string{"Monitor.MachineStatus", "x.conf:2"}},
		"redis":          {"[Redis]\nURL=unix:///run/redis.sock", nil, func(c *Config) any { return c.Redis.URL }, "unix:///run/redis.sock", [2]string{}},
		"hub redis":      {"", []string{"HUB_REDIS_URL=rediss://hub"}, func(c *Config) any { return c.Redis.URL }, "rediss://hub", [2]string{}},
		"machine id":     {"[Redis]\nHost=a", []string{"MACHINE_ID=b"}, func(c *Config) any { return c.Redis.Host }, "b", [2]string{}},
		"worker id":      {"[Worker]\nID=%H is no specifier", nil, func(c *Config) any { return c.Worker.ID }, "%H is no specifier", [2]string{}},
		"exec":           {`[Worker]` + "\n" + `Exec=/bin/run "two words" \x41`, nil, func(c *Config) any { return c.Worker.Exec }, []string{"/bin/run", "two words", "A"}, [2]string{}},
		"fitness":        {"[Worker]\nFitness=/bin/fit -q", nil, func(c *Config) any { return c.Worker.Fitness }, []string{"/bin/fit", "-q"}, [2]string{}},
		"no fitness":     {"[Worker]\nFitness=/bin/fit\nFitness=", nil, func(c *Config) any { return len(c.Worker.Fitness) }, 0, [2]string{"Worker.Fitness", "built-in"}},
		"drain":          {"[Worker]\nDrainMax=2h 5min", nil, func(c *Config) any { return c.Worker.DrainMax }, 125 * time.Minute, [2]string{"Worker.DrainMax", "x.conf:2"}},
		"recycling":      {"[Worker]\nMaxJobs=1000\nRecycleMemory=0", nil, func(c *Config) any { return []int{c.Worker.MaxJobs, c.Worker.RecycleMemory} }, []int{1000, 0}, [2]string{}},
		"variables": {
			"[Environment]\nA=1\nB=two words\nC='quoted  one'\nA=2\nD=\"un\" \"quoted\"", nil,
			func(c *Config) any { return c.Environment },
			[]Variable{{"A", "2"}, {"B", "two words"}, {"C", "quoted  one"}, {"D", `"un" "quoted"`}}, [2]string{},
		},
		"pass":         {"[Environment]\nPass=X\nPass=\nPass=A B\nPass=B C", nil, func(c *Config) any { return c.Pass }, []string{"A", "B", "C"}, [2]string{}},
		"other's":      {"[X-Other]\nA=1", nil, func(c *Config) any { return len(c.Environment) }, 0, [2]string{}},
		"environ kept": {"", []string{"ENABLE_COMFYUI=yes", "EMPTY=", "junk"}, func(c *Config) any { return c.Environ }, map[string]string{"ENABLE_COMFYUI": "yes"}, [2]string{}},
		"service": {
			"[Service comfyui.service]\nEnabled=no\n[Service comfyui]\nInstances=3\nEnabled=", nil,
			func(c *Config) any { return c.Services["comfyui"] },
			Override{Instances: ptr(3), InstancesOrigin: "x.conf:4", File: "x.conf", Line: 1}, [2]string{},
		},
		"stopped": {
			"[Service a]\nStopped=3 all\nStopped=\nStopped=0 1.2\nStopped=0:1", nil,
			func(c *Config) any { return c.Services["a"] },
			Override{Stopped: []string{"0", "1.2", "0:1"}, StoppedOrigin: "x.conf:5", File: "x.conf", Line: 1}, [2]string{},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, problems := parseText(tt.text, tt.environ...)
			if problems.Failed() {
				t.Errorf("problems: %v", problems)
			}
			if diff := cmp.Diff(tt.want, tt.get(c)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.origin[0] != "" && c.Origin(tt.origin[0]) != tt.origin[1] {
				t.Errorf("origin is %q, want %q", c.Origin(tt.origin[0]), tt.origin[1])
			}
		})
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text    string
		environ []string
		want    string // of the first problem, its whole text
		warning bool
	}{
		"unknown section": {"[Redsi]", nil, "x.conf:1: unknown section [Redsi]; did you mean [Redis]?", false},
		"unknown key":     {"[Redis]\nUrl=redis://a", nil, "x.conf:2: Url=: unknown key in [Redis]; did you mean URL=?", false},
		"far key":         {"[GPU]\nTemperature=1", nil, "x.conf:2: Temperature=: unknown key in [GPU]; known are Count=, Simulate=", false},
		"negative":        {"", []string{"NUM_GPUS=-1"}, `PID 1's environment: NUM_GPUS=: "-1" is not a number from 0 to 1024; the default all is used`, false},
		"word":            {"", []string{"NUM_GPUS=two"}, `PID 1's environment: NUM_GPUS=: "two" is not a number from 0 to 1024; the default all is used`, false},
		"huge":            {"", []string{"NUM_GPUS=1000000000"}, `PID 1's environment: NUM_GPUS=: "1000000000" is not a number from 0 to 1024; the default all is used`, false},
		"beyond 64 bits":  {"", []string{"NUM_GPUS=99999999999999999999"}, `PID 1's environment: NUM_GPUS=: "99999999999999999999" is not a number from 0 to 1024; the default all is used`, false},
		"fraction":        {"[GPU]\nCount=1\nCount=1.5", nil, `x.conf:3: Count=: "1.5" is not a number from 0 to 1024; the value of x.conf:2 is used`, false},
		"contradiction":   {"", []string{"NUM_GPUS=1", "WORKER_NUM_GPUS=2"}, `PID 1's environment: WORKER_NUM_GPUS=: differs from NUM_GPUS, which is used`, true},
		"password kept":   {"[Redis]\nURL=mysql://u:hunter2@h", nil, "x.conf:2: URL=: a Redis URL begins with redis://, rediss:// or unix://; the default redis://127.0.0.1:6379/0 is used", false},
		"executor":        {"[Worker]\nExecutor=comfyui", nil, "x.conf:2: Executor=: the executor comfyui needs URL=, and no job is run without; write URL=http://127.0.0.1:818%i/, say: %i is the index of the GPU", false},
		"executor typo":   {"[Worker]\nExecutor=exce", nil, `x.conf:2: Executor=: there is no executor "exce": did you mean exec?; the default exec is used`, false},
		"no executor":     {"[Worker]\nExecutor=celery", nil, `x.conf:2: Executor=: there is no executor "celery": known are exec, http, comfyui; the default exec is used`, false},
		"worker password": {"[Worker]\nURL=http://u:hunter2@h/", nil, "x.conf:2: URL=: a user and a password have no place here: everyone can read this file; the default is used", false},
		"endless drain":   {"[Worker]\nDrainMax=infinity", nil, `x.conf:2: DrainMax=: "infinity" is not from 1s to 7d; the default is used`, false},
		"no share":        {"[Worker]\nRecycleMemory=4G", nil, `x.conf:2: RecycleMemory=: "4G" is no percentage of MemoryMax= such as 90%; the default 90% is used`, false},
		"relative":        {"[Worker]\nFitness=fit", nil, "x.conf:2: Fitness=: the program needs an absolute path; the default is used", false},
		"open quote":      {"[Worker]\nExec=/bin/a 'b", nil, "x.conf:2: Exec=: ", false},
		"braces":          {"[Redis]\nHost={x}", nil, `x.conf:2: Host=: "{x}" cannot be part of a Redis key: no spaces, quotes, braces or *?[] there; the default is used`, false},
		"no service name": {"[Service ]", nil, "x.conf:1: [Service ] names no service; write [Service NAME] for NAME.service", false},
		"slash":           {"[Service ../../x]", nil, "x.conf:1: [Service ../../x] names no service; write [Service NAME] for NAME.service", false},
		"instances":       {"[Service a]\nInstances=257", nil, `x.conf:2: Instances=: "257" is not a number from 1 to 256; the value before it is used`, false},
		"stopped":         {"[Service a]\nStopped=0 b", nil, `x.conf:2: Stopped=: "b" is no instance; write the instances, such as 0 1.2, or all`, false},
		"reserved":        {"[Environment]\nWORKER_ID=a", nil, "x.conf:2: WORKER_ID=: WORKER_ID is set for each worker by gpuherd; take it out", false},
		"secret":          {"[Environment]\nPass=REDIS_URL", nil, "x.conf:2: Pass=: REDIS_URL may hold a password, which everyone could read in the unit; gpuherd hands it on as a credential; take it out", false},
		"port":            {"[Monitor]\nListen=:65536", nil, `x.conf:2: Listen=: port "65536" is not a number from 0 to 65535; the default 127.0.0.1:9720 is used`, false},
		"machine status":  {"[Monitor]\nMachineStatus=perhaps", nil, `x.conf:2: MachineStatus=: "perhaps" is neither yes nor no; the default no is used`, false},
		"redis port":      {"[Redis]\nURL=redis://:hunter2", nil, "x.conf:2: URL=: the port is no number from 1 to 65535; the default redis://127.0.0.1:6379/0 is used", false},
		"no section":      {"Count=1", nil, "x.conf:1: Count= stands before any section; put it under a [Section] line", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, problems := parseText(tt.text, tt.environ...)
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1: %v", len(problems), problems)
			}
			if got := problems[0].Error(); got != tt.want && (!strings.HasSuffix(tt.want, ": ") || !strings.HasPrefix(got, tt.want)) {
				t.Errorf("problem\n%s\nwant\n%s", got, tt.want)
			}
			if problems[0].Warning != tt.warning {
				t.Errorf("warning is %v", problems[0].Warning)
			}
			if c.Redis.URL != "redis://127.0.0.1:6379/0" || c.Monitor.Listen != "127.0.0.1:9720" {
				t.Error("the default was lost")
			}
		})
	}
}

func TestKernelCommandLine(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		line     string
		want     map[string]string
		problems int
	}{
		"none":        {"root=/dev/vda NUM_GPUS=3", map[string]string{}, 0},
		"dash":        {"gpuherd.num-gpus=2\n", map[string]string{"NUM_GPUS": "2"}, 0},
		"dash before": {"gpuherd.enable-hello_world=1", map[string]string{"ENABLE_HELLO_WORLD": "1"}, 0},
		"quotes":      {`a "gpuherd.worker_id=two words" gpuherd.machine_id="m"`, map[string]string{"WORKER_ID": "two words", "MACHINE_ID": "m"}, 0},
		"last wins":   {"gpuherd.num_gpus=2 gpuherd.num_gpus=3", map[string]string{"NUM_GPUS": "3"}, 0},
		"unknown":     {"gpuherd.gpus=2", map[string]string{}, 1},
		"no value":    {"gpuherd.num_gpus", map[string]string{}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			put(t, root, "proc/cmdline", tt.line)
			c, problems := Load(Source{Root: root})
			if diff := cmp.Diff(tt.want, c.Environ); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(problems) != tt.problems {
				t.Errorf("problems: %v", problems)
			}
		})
	}
}

func put(t *testing.T, root, name, data string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What stands where a file should must cost neither the rest nor the boot.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const d = "etc/gpuherd/gpuherd.conf.d/"
	put(t, root, d+"10-good.conf", "[GPU]\nCount=2\n")
	put(t, root, d+"20-large.conf", "#"+strings.Repeat("x", 1<<20)+"\n[GPU]\nCount=3\n")
	put(t, root, d+".hidden.conf", "[GPU]\nCount=4\n")
	put(t, root, "run/gpuherd/gpuherd.conf.d", "not a folder")
	if err := os.Mkdir(filepath.Join(root, d, "30-folder.conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, d, "40-fifo.conf"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"50-dangling.conf": "nowhere",
		"60-loop.conf":     "60-loop.conf",
		"70-outside.conf":  "../../../../../../../../../../etc/passwd",
		"80-inside.conf":   "/srv/worker.conf",
	} {
		if err := os.Symlink(target, filepath.Join(root, d, name)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, "srv/worker.conf", "[Worker]\nID=linked\n")
	put(t, root, "etc/passwd", "[Worker]\nQueue=inside\n")

	c, problems := Load(Source{Root: root})
	var got []string
	for _, p := range problems {
		got = append(got, p.Error())
	}
	const p = "/etc/gpuherd/gpuherd.conf.d/"
	want := []string{
		"/run/gpuherd/gpuherd.conf.d: cannot be listed: not a directory",
		p + "20-large.conf: cannot be read: larger than 1048576 bytes",
		p + "30-folder.conf: cannot be read: a directory, not a file",
		p + "40-fifo.conf: cannot be read: a FIFO, not a file",
		p + "50-dangling.conf: cannot be read: no such file or directory",
		p + "60-loop.conf: cannot be read: too many levels of symbolic links",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if c.GPU.Count != 2 || c.Worker.ID != "linked" || c.Worker.Queue != "inside" {
		t.Errorf("count %d, id %q, queue %q", c.GPU.Count, c.Worker.ID, c.Worker.Queue)
	}
}

// The reference file names every key, with its default, and nothing else.
func TestReference(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../packaging/gpuherd.conf")
	if err != nil {
		t.Fatal(err)
	}
	f, problems := unitfile.Parse("gpuherd.conf", data)
	if len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
	for _, s := range f.Sections {
		if len(s.Entries) != 0 {
			t.Errorf("[%s] is not commented out: %v", s.Name, s.Entries)
		}
	}
	// "#Key=" is a key, "# text" is text.
	var lines []string
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") && strings.Contains(rest, "=") {
			line = rest
		}
		lines = append(lines, line)
	}
	text := strings.Join(lines, "")
	if c, problems := parseText(text); len(problems) != 0 {
		t.Errorf("with its comments taken away: %v", problems)
	} else if diff := cmp.Diff([]string{"hello-world", "redis-worker"}, c.ServiceNames()); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	f, _ = unitfile.Parse("gpuherd.conf", []byte(text))
	for _, s := range Settings() {
		e, ok := f.Last(s.Section, s.Key)
		if !ok || e.Value != s.Default {
			t.Errorf("[%s] has no #%s=%s", s.Section, s.Key, s.Default)
		}
		for _, v := range append(s.Variables, s.Parameter) {
			if !strings.Contains(string(data), v) {
				t.Errorf("%s is not mentioned", v)
			}
		}
	}
	for _, key := range []string{"Enabled", "Instances", "Stopped"} {
		if _, ok := f.Last("Service redis-worker", key); !ok {
			t.Errorf("[Service redis-worker] has no #%s=", key)
		}
	}
	if _, ok := f.Last("Environment", "Pass"); !ok {
		t.Error("[Environment] has no #Pass=")
	}
}

func TestHostSource(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if src, err := HostSource(root); err != nil || src.Environ != nil {
		t.Errorf("a root without /proc: %v, %v", src, err)
	}
	put(t, root, "proc/1/environ", "A=1\x00B=two\nlines\x00")
	src, err := HostSource(root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"A=1", "B=two\nlines"}, src.Environ); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzLoad: whatever the text, there is a configuration that could be used,
// and no message has a newline, which would begin a log line of its own.
func FuzzLoad(f *testing.F) {
	reference, err := os.ReadFile("../../packaging/gpuherd.conf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference), "NUM_GPUS=2", "gpuherd.simulate=1")
	f.Add("[GPU]\nCount=x\n[Service a/b]\n[Environment]\nA='\\x00'\n", "HEALTH_PORT=x", `"gpuherd.a`)
	f.Fuzz(func(t *testing.T, text, variable, line string) {
		l := loader{root: "/nonexistent", config: Default()}
		l.parse("x.conf", []byte(text))
		l.environ([]string{variable})
		splitParameters(line)
		c := l.config
		if c.GPU.Count < -1 || c.GPU.Count > 1024 || len(c.Worker.Exec) == 0 || c.Redis.Prefix == "" {
			t.Errorf("unusable: %+v", c)
		}
		for _, s := range settings {
			if c.Origins[s.name()] == "" {
				t.Errorf("%s has no origin", s.name())
			}
		}
		for _, v := range c.Environment {
			if variableName(v.Name) != nil || reserved(v.Name) != "" || strings.ContainsRune(v.Value, 0) {
				t.Errorf("variable %q=%q", v.Name, v.Value)
			}
		}
		for _, p := range l.problems {
			if strings.ContainsAny(p.Error(), "\n\x00") {
				t.Errorf("problem %q", p.Error())
			}
		}
	})
}

// A problem with a setting is told at the place where it was set.
func TestPlace(t *testing.T) {
	t.Parallel()
	type place struct {
		file string
		line int
		key  string
	}
	for origin, want := range map[string]place{
		"/etc/gpuherd/gpuherd.conf:12":                {"/etc/gpuherd/gpuherd.conf", 12, "Count"},
		"NUM_GPUS of PID 1's environment":             {"PID 1's environment", 0, "NUM_GPUS"},
		"gpuherd.num-gpus on the kernel command line": {"kernel command line", 0, "gpuherd.num-gpus"},
		BuiltIn: {BuiltIn, 0, "Count"},
		"/etc/gpuherd/gpuherd.conf.d/a of the other:conf": {"/etc/gpuherd/gpuherd.conf.d/a of the other:conf", 0, "Count"},
	} {
		file, line, key := Place(origin, "Count")
		if got := (place{file, line, key}); got != want {
			t.Errorf("%q: %+v, want %+v", origin, got, want)
		}
	}
	root := t.TempDir()
	put(t, root, "proc/cmdline", "gpuherd.num-gpus=3 gpuherd.enable_b=no gpuherd.enable-a=yes gpuherd.queue=x")
	c, _ := Load(Source{Root: root, Environ: []string{"ENABLE_B=yes"}})
	want := []Assignment{
		{"ENABLE_A", "yes", "kernel command line", "gpuherd.enable-a"},
		{"NUM_GPUS", "3", "kernel command line", "gpuherd.num-gpus"},
	}
	if diff := cmp.Diff(want, c.Parameters()); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
}

// A container is one for every program alike, whatever its engine leaves.
func TestIsContainer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file    string
		environ []string
		want    bool
	}{
		"host":                {"etc/hostname", []string{"container="}, false},
		"generator":           {"etc/hostname", []string{"SYSTEMD_VIRTUALIZATION=container:docker"}, true},
		"generator in a VM":   {"etc/hostname", []string{"SYSTEMD_VIRTUALIZATION=vm:kvm"}, false},
		"PID 1's environment": {"etc/hostname", []string{"container=podman"}, true},
		"systemd's file":      {"run/systemd/container", nil, true},
		"nspawn's file":       {"run/host/container-manager", nil, true},
		"podman's file":       {"run/.containerenv", nil, true},
		// With SYSTEMD_VIRTUALIZATION the generator saw a container where setup,
		// which has no such variable, saw a host and stopped its workers.
		"Docker's file": {".dockerenv", nil, true},
	} {
		root := t.TempDir()
		put(t, root, tt.file, "")
		if got := IsContainer(root, tt.environ); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
