package service

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gpuherd/generator/unitfile"
)

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

func link(t *testing.T, root, name, target string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

const run = "\n[Service]\nExecStart=/bin/true\n"

func TestParse(t *testing.T) {
	t.Parallel()
	def := func(change func(*Service)) *Service {
		s := &Service{Name: "a", Path: "a.service", Per: PerGPU, Instances: 1, Enabled: true, Isolate: true, NUMA: NUMAPreferred}
		if change != nil {
			change(s)
		}
		return s
	}
	broken := &Service{Name: "a", Path: "a.service", Broken: true}
	tests := map[string]struct {
		text     string
		want     *Service
		problems []string
	}{
		"defaults": {run, def(nil), nil},
		"everything": {"[X-GPU]\nPer=mig\nInstances=3\nEnabled=no\nEnabledVariable=A B\nEnabledVariable=B C\nIsolate=no\nNUMA=strict\nModel=*H100* \"*RTX 4090*\"\nMinMemory=1.5G" + run, def(func(s *Service) {
			s.Per, s.Instances, s.Enabled, s.Isolate, s.NUMA = PerMIG, 3, false, false, NUMAStrict
			s.EnabledVariables = []string{"A", "B", "C"}
			s.Models = []string{"*H100*", "*RTX 4090*"}
			s.MinMemory = 3 << 29
		}), nil},
		"resets":     {"[X-GPU]\nPer=mig\nPer=\nInstances=3\nInstances=\nEnabled=no\nEnabled=\nEnabledVariable=A\nEnabledVariable=\nIsolate=no\nIsolate=\nNUMA=off\nNUMA=\nModel=a\nModel=\nMinMemory=1\nMinMemory=" + run, def(nil), nil},
		"last wins":  {"[X-GPU]\nPer=mig\nPer=host" + run, def(func(s *Service) { s.Per = PerHost }), nil},
		"bad per":    {"[X-GPU]\nPer=card" + run, broken, []string{`a.service:2: Per=: "card" is no kind of device; write gpu, mig or host`}},
		"bad values": {"[X-GPU]\nInstances=0\nInstances=x\nEnabled=maybe\nIsolate=2\nNUMA=near\nEnabledVariable=A-B" + run, def(nil), []string{`a.service:2: Instances=: "0" is not a number from 1 to 256; Enabled=no switches a service off`, `a.service:3: Instances=: "x" is not a number from 1 to 256; 1 is used`, `a.service:4: Enabled=: "maybe" is neither yes nor no; yes is used`, `a.service:5: Isolate=: "2" is neither yes nor no; yes is used`, `a.service:6: NUMA=: "near" is unknown; write preferred, strict or off; preferred is used`, `a.service:7: EnabledVariable=: "A-B" is no name for an environment variable; write letters, digits and _, a letter first`}},
		"bad per and typos": {"[Unit]\nAftr=a.service\n[X-GPU]\nPer=gpus\nNUMA=far" + run + "Restrat=no", broken, []string{
			`a.service:4: Per=: "gpus" is no kind of device; write gpu, mig or host`,
			`a.service:5: NUMA=: "far" is unknown; write preferred, strict or off; preferred is used`,
			"a.service:2: Aftr=: no usual key of [Unit], and systemd ignores what it does not know; did you mean After=?",
			"a.service:8: Restrat=: no usual key of [Service], and systemd ignores what it does not know; did you mean Restart=?",
		}},
		"bad memory": {"[X-GPU]\nMinMemory=all" + run, broken, []string{`a.service:2: MinMemory=: "all" is no size such as 512M or 1.5G; write a size such as 40G; until it is mended the service runs nowhere`}},
		"bad glob":   {"[X-GPU]\nModel=*L4 [a" + run, broken, []string{`a.service:2: Model=: "[a" is no glob; until it is mended the service runs nowhere`}},
		"bad quote":  {"[X-GPU]\nModel='a" + run, broken, []string{`a.service:2: Model=: quote ' is not closed; until it is mended the service runs nowhere`}},
		"misspelt directive": {"[Unit]\nAfterr=a.service\n[Service]\nExecStart=/bin/true\nMemroyMax=1G\nMemoryZSwapMax=1G\nStartupMemoryMax=1G\nConditionFoo=1\nX-MemoryMax=1\nFarFromAnything=1", def(nil), []string{
			"a.service:2: Afterr=: no usual key of [Unit], and systemd ignores what it does not know; did you mean After=?",
			"a.service:5: MemroyMax=: no usual key of [Service], and systemd ignores what it does not know; did you mean MemoryMax=?",
		}},
		"open quote":   {"[Service]\nExecStart=/bin/true\nExecStopPost=/bin/sh -c 'exit", broken, []string{`a.service:3: ExecStopPost=: quote ' is not closed; close it; until then the service does not run`}},
		"two starts":   {"[Service]\nExecStart=/bin/true\nExecStart=/bin/false\nExecStart=/bin/more", broken, []string{`a.service:3: ExecStart=: more than one command, which only Type=oneshot takes; write one, or Type=oneshot; ExecStart= alone on a line before it drops the one above`}},
		"two in one":   {"[Service]\nExecStart=/bin/true ; /bin/false", broken, []string{`a.service:2: ExecStart=: more than one command, which only Type=oneshot takes; write one, or Type=oneshot; ExecStart= alone on a line before it drops the one above`}},
		"oneshot many": {"[Service]\nType=oneshot\nExecStart=/bin/true ; /bin/false\nExecStart=/bin/true", def(nil), nil},
		"replaced":     {"[Service]\nExecStart=/bin/true\nExecStart=\nExecStart=/bin/false \\; a", def(nil), nil},
		"limits":       {"[Service]\nExecStart=/bin/true\nMemoryMax=50%\nMemoryMax=12.5%\nMemoryMax=999‰\nMemoryMax=1.5G\nMemoryMax=infinity\nMemoryMax=\nMemoryMin=0\nTimeoutStopSec=1min 30s\nTimeoutStartSec=infinity\nSlice=my-%i.slice", def(nil), nil},
		"bad limits": {"[Service]\nExecStart=/bin/true\nMemoryMax=lots\nMemoryHigh=0\nMemoryMax=101%\nTimeoutStopSec=soon\nRestartSec=-1\nRestart=allways\nSlice=a", def(nil), []string{
			`a.service:3: MemoryMax=: "lots" is no size; write a size such as 4G, a percentage or infinity; systemd would ignore this`,
			`a.service:4: MemoryHigh=: is zero; write a size such as 4G, a percentage or infinity; systemd would ignore this`,
			`a.service:5: MemoryMax=: "101%" is no percentage up to 100%; write a size such as 4G, a percentage or infinity; systemd would ignore this`,
			`a.service:6: TimeoutStopSec=: "soon" is no time span such as 30s or 2min; write a time such as 30s, 2min or infinity; systemd would ignore this`,
			`a.service:7: RestartSec=: "-1" is no time span such as 30s or 2min; write a time such as 30s, 2min or infinity; systemd would ignore this`,
			`a.service:8: Restart=: "allways" is unknown; known are no, always, on-success, on-failure, on-abnormal, on-watchdog, on-abort`,
			`a.service:9: Slice=: "a" does not end in .slice; write NAME.slice; systemd would ignore this`,
		}},
		"sections": {"[Unit]\n[Socket]\n[X-Other]\n[Install]\n[Sevrice]\n[X-GPUS]\n[X-GPU]\n[Service]\nExecStart=/bin/true", def(nil), []string{
			"a.service:2: unknown section [Socket]; known are [Unit], [Service], [Install] and [X-GPU]; systemd ignores others",
			"a.service:5: unknown section [Sevrice]; did you mean [Service]?",
			"a.service:6: unknown section [X-GPUS]; did you mean [X-GPU]?",
		}},
		"misspelt filter":  {"[x-gpu]\nPer=host" + run, broken, []string{"a.service:1: unknown section [x-gpu]; did you mean [X-GPU]? until it is mended the service runs nowhere"}},
		"filter of conf":   {"[GPU]\nPer=host" + run, broken, []string{"a.service:1: unknown section [GPU]; did you mean [X-GPU]? until it is mended the service runs nowhere"}},
		"misspelt service": {"[service]\nExecStart=/bin/true", broken, []string{"a.service:1: unknown section [service]; did you mean [Service]?"}},
		"names of units": {"[Unit]\nAfter=b b@%i.service c.servcie\nWants=network.target d@.e %N.%i\nDescription=no unit" + run, def(nil), []string{
			`a.service:2: After=: "b" is no unit's name; write its whole name, such as b.service; systemd would ignore this`,
			`a.service:2: After=: "c.servcie" is no unit's name; did you mean c.service? systemd would ignore this`,
			`a.service:3: Wants=: "d@.e" is no unit's name; write its whole name, such as d@.e.service; systemd would ignore this`,
		}},
		"unknown key":  {"[X-GPU]\nInstance=2" + run, def(nil), []string{"a.service:2: Instance=: unknown key in [X-GPU]; did you mean Instances=?"}},
		"far key":      {"[X-GPU]\nColour=2" + run, def(nil), []string{"a.service:2: Colour=: unknown key in [X-GPU]; known are Per=, Instances=, Enabled=, EnabledVariable=, Isolate=, NUMA=, Model=, MinMemory="}},
		"no service":   {"[Unit]\nDescription=x", broken, []string{"a.service: has no [Service] section; add one, with ExecStart="}},
		"no start":     {"[Service]\nType=simple", broken, []string{"a.service: has no ExecStart= in [Service]; add ExecStart= with the program to run"}},
		"start reset":  {"[Service]\nExecStart=/bin/true\nExecStart=", broken, []string{"a.service: has no ExecStart= in [Service]; add ExecStart= with the program to run"}},
		"oneshot":      {"[Service]\nType=oneshot\nExecStop=/bin/true", def(nil), nil},
		"near key":     {"[Service]\nExecstart=/bin/true", broken, []string{"a.service:2: Execstart=: has no ExecStart= in [Service]; did you mean ExecStart=?"}},
		"stop is none": {"[Service]\nExecStop=/bin/true", broken, []string{"a.service: has no ExecStart= in [Service]; add ExecStart= with the program to run"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, problems := unitfile.Parse("a.service", []byte(tt.text))
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			s, problems := Parse("a", "a.service", f)
			if diff := cmp.Diff(tt.want, s, cmpopts.IgnoreFields(Service{}, "File", "At")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Error())
			}
			if diff := cmp.Diff(tt.problems, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if !s.Broken && s.File.Has(Section) {
				t.Errorf("[%s] goes to systemd", Section)
			}
		})
	}
}

func TestMatchModel(t *testing.T) {
	t.Parallel()
	tests := []struct {
		globs []string
		name  string
		want  bool
	}{
		{nil, "anything", true},
		{[]string{"*h100*"}, "NVIDIA H100 80GB HBM3", true},
		{[]string{"*H200*", "*L4"}, "NVIDIA L4", true},
		{[]string{"L4"}, "NVIDIA L4", false},
		{[]string{"NVIDIA A?00*"}, "NVIDIA A100-SXM4", true},
	}
	for _, tt := range tests {
		if got := (&Service{Models: tt.globs}).MatchModel(tt.name); got != tt.want {
			t.Errorf("%q on %q: %v, want %v", tt.globs, tt.name, got, tt.want)
		}
	}
}

// One file after another that is not what it should be: the healthy ones are
// read all the same.
func TestLoadOddFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const dir = "etc/gpuherd/services/"
	put(t, root, dir+"good.service", run)
	put(t, root, dir+"good.service.d/10-a.conf", "[X-GPU]\nPer=host\n")
	put(t, root, dir+"good.service.d/20-broken.conf", "[Service\n")
	put(t, root, "usr/lib/gpuherd/services/good.service.d/10-a.conf", "[X-GPU]\nInstances=7\n")
	put(t, root, "run/gpuherd/services/good.service.d/05-b.conf", "[X-GPU]\nInstances=2\n")
	put(t, root, "usr/lib/gpuherd/services/good.service", "[X-GPU]\nPer=nonsense\n")
	put(t, root, "usr/lib/gpuherd/services/masked.service", run)
	link(t, root, dir+"masked.service", "/dev/null")
	put(t, root, "usr/lib/gpuherd/services/emptied.service", run)
	put(t, root, dir+"emptied.service", "")
	put(t, root, dir+"large.service", strings.Repeat("#\n", 1<<20)+run)
	put(t, root, dir+"binary.service", "\x00\x01\xff\xfe[Service]")
	put(t, root, dir+"sp ace.service", run)
	put(t, root, dir+"at@.service", run)
	put(t, root, dir+strings.Repeat("n", 201)+".service", run)
	put(t, root, dir+".hidden.service", run)
	put(t, root, dir+"good.service~", run)
	put(t, root, dir+"folder.service/x", "")
	link(t, root, dir+"linked.service", "../elsewhere")
	put(t, root, "etc/gpuherd/elsewhere", run)
	if err := syscall.Mkfifo(filepath.Join(root, dir, "fifo.service"), 0o600); err != nil {
		t.Fatal(err)
	}
	services, problems := Load(root)

	got := map[string]string{}
	for _, s := range services {
		switch {
		case s.Broken:
			got[s.Name] = "broken"
		case s.Masked:
			got[s.Name] = "masked"
		default:
			got[s.Name] = fmt.Sprintf("%s %d %v", s.Per, s.Instances, s.DropIns)
		}
	}
	want := map[string]string{
		"at@": "broken", "binary": "broken", "emptied": "masked", "fifo": "broken", "folder": "broken",
		"good":   "host 2 [/run/gpuherd/services/good.service.d/05-b.conf /etc/gpuherd/services/good.service.d/10-a.conf]",
		"large":  "broken",
		"linked": "gpu 1 []", "masked": "masked", "sp ace": "broken", strings.Repeat("n", 201): "broken",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	named := map[string]bool{}
	for _, p := range problems {
		named[filepath.Base(p.File)] = true
	}
	for name, what := range want {
		if what == "broken" && !named[name+".service"] {
			t.Errorf("no problem tells why %s is broken", name)
		}
	}
	if !named["20-broken.conf"] {
		t.Error("no problem tells of the broken drop-in")
	}
}

func TestLoadThousands(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const n = 5000
	for i := range n {
		put(t, root, fmt.Sprintf("etc/gpuherd/services/s%d.service", i), run)
	}
	begin := time.Now()
	services, problems := Load(root)
	if len(services) != n || len(problems) != 0 {
		t.Errorf("%d services, %d problems", len(services), len(problems))
	}
	// The generator's whole time is two seconds; this takes about 0.2.
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := &Service{Name: "comfyui", Per: PerGPU}
	if got := s.Unit(); got != "comfyui@.service" {
		t.Error(got)
	}
	if got := s.InstanceUnit(Instance{GPU: 1, MIG: 2, Worker: 3}); got != "comfyui@1:2.3.service" {
		t.Error(got)
	}
	s.Per = PerHost
	if got := s.Unit(); got != "comfyui.service" {
		t.Error(got)
	}
}

func TestInstance(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Instance{
		"0": {0, -1, 1}, "12": {12, -1, 1}, "0:1": {0, 1, 1}, "3.2": {3, -1, 2}, "3:0.15": {3, 0, 15},
	} {
		got, err := ParseInstance(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: %v, %v, back %q", text, got, err, got)
		}
	}
	for _, text := range []string{"", "a", "-1", "00", "0.1", "0.0", "0:", ":1", "0.", "1:01", "0.2:1", "0:1:2", "65536", "0.2.2", " 0", "0\n"} {
		if got, err := ParseInstance(text); err == nil {
			t.Errorf("%q was taken as %v", text, got)
		}
	}
}

func TestParseUnit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		unit, name, instance string
		ok                   bool
	}{
		{"redis-worker@0:1.service", "redis-worker", "0:1", true},
		{"hello-world.service", "hello-world", "", true},
		{"a@.service", "a", "", true},
		{"gpuherd.target", "", "", false},
		{".service", "", "", false},
		{"@0.service", "", "0", false},
	}
	for _, tt := range tests {
		name, instance, ok := ParseUnit(tt.unit)
		if ok != tt.ok || ok && (name != tt.name || instance != tt.instance) {
			t.Errorf("%q: %q, %q, %v", tt.unit, name, instance, ok)
		}
	}
}

// FuzzParse: whatever is in a service file and its drop-in, the service is
// broken or has values that a plan can be made of.
func FuzzParse(f *testing.F) {
	shipped, err := filepath.Glob("../../units/services/*.service")
	if err != nil || len(shipped) == 0 {
		f.Fatal("no shipped service files")
	}
	for _, name := range shipped {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data), "[X-GPU]\nPer=mig\nModel=[")
	}
	f.Fuzz(func(t *testing.T, text, dropin string) {
		base, _ := unitfile.Parse("/etc/a.service", []byte(text))
		more, _ := unitfile.Parse("/etc/a.service.d/b.conf", []byte(dropin))
		s, problems := Parse("a", "/etc/a.service", base, more)
		if s.Broken {
			if !problems.Failed() {
				t.Error("broken without a problem")
			}
			return
		}
		if s.Instances < 1 || s.Instances > 256 || s.File == nil || s.File.Has(Section) {
			t.Errorf("unusable: %+v", s)
		}
		s.MatchModel("NVIDIA H100")
		if _, err := s.File.Bytes(); err != nil {
			t.Errorf("cannot be written: %v", err)
		}
	})
}
