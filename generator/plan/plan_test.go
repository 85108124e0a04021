package plan

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

func parse(t *testing.T, name, text string) *service.Service {
	t.Helper()
	f, problems := unitfile.Parse("/etc/gpuherd/services/"+name+".service", []byte(text))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	s, problems := service.Parse(name, f.Name, f)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return s
}

// unit returns a planned file; it fails where there is none.
func unit(t *testing.T, p *Plan, path string) *unitfile.File {
	t.Helper()
	i := slices.IndexFunc(p.Files, func(f File) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("no %s among %v, problems %v", path, p.Files, p.Problems)
	}
	return p.Files[i].Unit
}

// values returns the assignments of keys, as "Key=value".
func values(f *unitfile.File, section string, keys ...string) []string {
	list := []string{}
	for _, e := range f.Entries(section) {
		if slices.Contains(keys, e.Key) {
			list = append(list, e.Key+"="+e.Value)
		}
	}
	return list
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	rate := []string{"LogRateLimitIntervalSec", "LogRateLimitBurst"}
	restart := []string{"Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec"}
	tests := map[string]struct {
		text    string
		systemd int
		keys    []string
		want    []string
	}{
		"restart on 252":          {"", 252, restart, []string{"Restart=always", "RestartSec=500ms"}},
		"restart on 254":          {"", 254, restart, []string{"Restart=always", "RestartSec=1us", "RestartSteps=20", "RestartMaxDelaySec=10s"}},
		"own delay":               {"RestartSec=30s", 257, restart, []string{"Restart=always", "RestartSec=30s"}},
		"own condition":           {"Restart=on-failure", 252, restart, []string{"RestartSec=500ms", "Restart=on-failure"}},
		"no restart":              {"Restart=no", 257, restart, []string{"Restart=no"}},
		"oneshot":                 {"Type=oneshot", 257, restart, []string{}},
		"own memory":              {"MemoryMax=infinity", 252, []string{"MemoryMax"}, []string{"MemoryMax=infinity"}},
		"memory of a GPU":         {"", 252, []string{"MemoryMax"}, []string{"MemoryMax=2G"}},
		"empty is own":            {"CapabilityBoundingSet=", 252, []string{"CapabilityBoundingSet"}, []string{"CapabilityBoundingSet="}},
		"environment file first":  {"EnvironmentFile=/etc/own", 252, []string{"EnvironmentFile"}, []string{"EnvironmentFile=-/run/gpuherd/environment", "EnvironmentFile=/etc/own"}},
		"environment first":       {"Environment=A=own", 252, []string{"Environment"}, []string{"Environment=A=conf", `Environment="B=50%% of 'it'"`, "Environment=A=own"}},
		"too new is left out":     {"ExitType=cgroup\nOpenFile=/etc/x", 252, []string{"ExitType", "OpenFile"}, []string{"ExitType=cgroup"}},
		"an unknown one is kept":  {"Frobnicate=1", 252, []string{"Frobnicate"}, []string{"Frobnicate=1"}},
		"journal drops no line":   {"", 252, rate, []string{"LogRateLimitIntervalSec=1us", "LogRateLimitBurst=1000000"}},
		"own rate limit":          {"LogRateLimitBurst=5", 252, rate, []string{"LogRateLimitBurst=5"}},
		"out of memory kills all": {"", 252, []string{"OOMPolicy"}, []string{"OOMPolicy=kill"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config.Default()
			c.Environment = []config.Variable{{Name: "A", Value: "conf"}, {Name: "B", Value: "50% of 'it'"}}
			p := Make(Input{Config: c, GPUs: gpu.Simulated(1), Systemd: tt.systemd, Services: []*service.Service{
				parse(t, "a", "[Service]\nExecStart=/bin/true\n"+tt.text),
			}})
			if diff := cmp.Diff(tt.want, values(unit(t, p, "a@.service"), "Service", tt.keys...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetupIsRequired(t *testing.T) {
	t.Parallel()
	const run = "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n"
	keys := []string{"Requires", "After", "PartOf"}
	tests := map[string]struct {
		services []*service.Service
		unit     string
		want     []string
	}{
		"by others":          {[]*service.Service{parse(t, "a", run), parse(t, Setup, run)}, "a.service", []string{"PartOf=gpuherd.target", "Requires=shared-setup.service", "After=shared-setup.service"}},
		"not by itself":      {[]*service.Service{parse(t, Setup, run)}, "shared-setup.service", []string{"PartOf=gpuherd.target"}},
		"not when off":       {[]*service.Service{parse(t, "a", run), parse(t, Setup, "[X-GPU]\nEnabled=no\n"+run)}, "a.service", []string{"PartOf=gpuherd.target"}},
		"not when broken":    {[]*service.Service{parse(t, "a", run), {Name: Setup, Broken: true}}, "a.service", []string{"PartOf=gpuherd.target"}},
		"not when opted out": {[]*service.Service{parse(t, "a", run+"[Unit]\nRequires=\nAfter=x.service\n"), parse(t, Setup, run)}, "a.service", []string{"PartOf=gpuherd.target", "After=shared-setup.service", "Requires=", "After=x.service"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Make(Input{Config: config.Default(), Systemd: 252, Services: tt.services})
			if diff := cmp.Diff(tt.want, values(unit(t, p, tt.unit), "Unit", keys...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDropIn(t *testing.T) {
	t.Parallel()
	card := gpu.GPU{Index: 0, PCI: "0000:17:00.0", Minor: 5, NUMANode: 1, MIG: []gpu.MIG{{Index: 2, GIMinor: 30, CIMinor: -1}}}
	bare := card
	bare.NUMANode, bare.MIG = 2, nil // a node without CPUs
	split := card
	split.MIG = []gpu.MIG{{Index: 0, GIMinor: 21, CIMinor: 22}, {Index: 2, GIMinor: 30, CIMinor: -1}}
	windows := gpu.GPU{Node: gpu.WSLNode, NUMANode: -1}
	device := []string{"DevicePolicy", "DeviceAllow"}
	numa := []string{"NUMAPolicy", "NUMAMask", "CPUAffinity", "AllowedCPUs", "AllowedMemoryNodes"}
	tests := map[string]struct {
		text      string
		gpu       gpu.GPU
		id        string
		container bool
		path      string
		keys      []string
		want      []string
	}{
		"own device only": {"", bare, "", false, "a@0.service.d/50-gpu.conf", device, []string{"DevicePolicy=closed", "DeviceAllow=/dev/char/195:5 rw", "DeviceAllow=/dev/char/195:255 rw", "DeviceAllow=char-nvidia-uvm rw"}},
		"simulated":       {"", gpu.Simulated(1)[0], "", false, "a@0.service.d/50-gpu.conf", device, []string{"DevicePolicy=closed", "DeviceAllow=/dev/char/195:0 rw", "DeviceAllow=/dev/char/195:255 rw"}},
		"of Windows":      {"", windows, "", true, "a@0.service.d/50-gpu.conf", device, []string{"DevicePolicy=closed", "DeviceAllow=/dev/dxg rw"}},
		"not isolated":    {"Isolate=no", card, "", false, "a@0.service.d/50-gpu.conf", device, []string{}},
		"part of a GPU":   {"Per=mig", split, "", false, "a@0:2.service.d/50-gpu.conf", device, []string{"DevicePolicy=closed", "DeviceAllow=/dev/char/195:5 rw", "DeviceAllow=/dev/char/195:255 rw", "DeviceAllow=char-nvidia-uvm rw", "DeviceAllow=/dev/char/235:30 r"}},
		"all parts":       {"", split, "", false, "a@0.service.d/50-gpu.conf", device, []string{"DevicePolicy=closed", "DeviceAllow=/dev/char/195:5 rw", "DeviceAllow=/dev/char/195:255 rw", "DeviceAllow=char-nvidia-uvm rw", "DeviceAllow=/dev/char/235:21 r", "DeviceAllow=/dev/char/235:22 r", "DeviceAllow=/dev/char/235:30 r"}},

		"near":                     {"", card, "", false, "a@0.service.d/50-gpu.conf", numa, []string{"NUMAPolicy=preferred", "NUMAMask=1", "CPUAffinity=numa"}},
		"bound":                    {"NUMA=strict", card, "", false, "a@0.service.d/50-gpu.conf", numa, []string{"NUMAPolicy=bind", "NUMAMask=1", "CPUAffinity=numa", "AllowedCPUs=16-31,48-63", "AllowedMemoryNodes=1"}},
		"anywhere":                 {"NUMA=off", card, "", false, "a@0.service.d/50-gpu.conf", numa, []string{}},
		"no node":                  {"NUMA=strict", gpu.Simulated(1)[0], "", false, "a@0.service.d/50-gpu.conf", numa, []string{}},
		"no CPUs, near":            {"", bare, "", false, "a@0.service.d/50-gpu.conf", numa, []string{"NUMAPolicy=preferred", "NUMAMask=2"}},
		"no CPUs, bound":           {"NUMA=strict", bare, "", false, "a@0.service.d/50-gpu.conf", numa, []string{"NUMAPolicy=bind", "NUMAMask=2", "AllowedMemoryNodes=2"}},
		"container, near":          {"", card, "", true, "a@0.service.d/50-gpu.conf", numa, []string{"AllowedCPUs=16-31,48-63"}},
		"container, bound":         {"NUMA=strict", card, "", true, "a@0.service.d/50-gpu.conf", numa, []string{"AllowedCPUs=16-31,48-63", "AllowedMemoryNodes=1"}},
		"container, no CPUs, near": {"", bare, "", true, "a@0.service.d/50-gpu.conf", numa, []string{}},
		"placed by the file":       {"NUMA=strict\n[Service]\nCPUAffinity=0-3", card, "", false, "a@0.service.d/50-gpu.conf", numa, []string{}},
		"left alone by the file":   {"[Service]\nAllowedMemoryNodes=", card, "", false, "a@0.service.d/50-gpu.conf", numa, []string{}},
		"environment without an address": {"", windows, "", true, "a@0.service.d/50-gpu.conf", []string{"Environment"}, []string{
			"Environment=GPU_INDEX=0", "Environment=GPU_ID=0", "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID", "Environment=WORKER_ID=%H-gpu0",
		}},

		"environment": {"Instances=2", card, "", false, "a@0.2.service.d/50-gpu.conf", []string{"Environment", "EnvironmentFile"}, []string{
			"Environment=GPU_INDEX=0", "Environment=GPU_ID=0", "Environment=GPU_PCI_BUS_ID=0000:17:00.0", "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID",
			"Environment=WORKER_ID=%H-gpu0.2", "EnvironmentFile=-/run/gpuherd/gpu/0.env",
		}},
		"environment of a part": {"Per=mig\nInstances=2", card, "box 50%", false, "a@0:2.2.service.d/50-gpu.conf", []string{"Environment", "EnvironmentFile"}, []string{
			"Environment=GPU_INDEX=0", "Environment=GPU_ID=0", "Environment=GPU_PCI_BUS_ID=0000:17:00.0", "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID",
			`Environment="WORKER_ID=box 50%%-gpu0:2.2"`, "EnvironmentFile=-/run/gpuherd/gpu/0:2.env",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config.Default()
			c.Worker.ID = tt.id
			p := Make(Input{
				Config: c, GPUs: []gpu.GPU{tt.gpu}, Systemd: 252, Container: tt.container,
				Majors: gpu.Majors{"nvidia-caps": 235}, NodeCPUs: map[int]string{0: "0-15,32-47", 1: "16-31,48-63"},
				Services: []*service.Service{parse(t, "a", "[X-GPU]\n"+tt.text+"\n[Service]\nExecStart=/bin/true\n")},
			})
			if diff := cmp.Diff(tt.want, values(unit(t, p, tt.path), "Service", tt.keys...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The plan depends on what is in the input, not on what it does to it.
func TestInputIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := parse(t, "a", "[X-GPU]\nInstances=2\n[Unit]\nAfter=b.service\n[Service]\nExecStart=/bin/true %i\n")
	before, err := s.File.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Config: config.Default(), GPUs: gpu.Simulated(2), Systemd: 257, Services: []*service.Service{s}}
	first, second := Make(in), Make(in)
	after, err := s.File.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("the service's file changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("a second plan differs (-first +second):\n%s", diff)
	}
	if !slices.IsSortedFunc(first.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("files are not sorted")
	}
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	zero, one := 0, 1
	p := Make(Input{Config: config.Default(), GPUs: gpu.Simulated(2), Systemd: 252, Services: []*service.Service{
		parse(t, "a", "[Service]\nExecStart=/bin/true\n"),
		parse(t, "b", "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n"),
	}})
	want := []Worker{
		{Unit: "a@0.service", Service: "a", Instance: "0", GPU: &zero},
		{Unit: "a@1.service", Service: "a", Instance: "1", GPU: &one},
		{Unit: "b.service", Service: "b"},
	}
	if diff := cmp.Diff(want, p.Workers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantLinks := []Link{
		{Path: "gpuherd.target.wants/a@0.service", Target: "../a@.service"},
		{Path: "gpuherd.target.wants/a@1.service", Target: "../a@.service"},
		{Path: "gpuherd.target.wants/b.service", Target: "../b.service"},
	}
	if diff := cmp.Diff(wantLinks, p.Links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

// What the file says of Enabled=, the configuration overrides, and a variable
// overrides both; two that contradict each other are worth a warning.
func TestEnabled(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	tests := map[string]struct {
		file, conf *bool
		environ    map[string]string
		want       bool
		problems   int
	}{
		"default":       {nil, nil, nil, true, 0},
		"file":          {&no, nil, nil, false, 0},
		"conf":          {&no, &yes, nil, true, 0},
		"variable":      {&no, &yes, map[string]string{"A": "off"}, false, 0},
		"second":        {&no, nil, map[string]string{"B": "TRUE"}, true, 0},
		"both":          {&no, nil, map[string]string{"A": "1", "B": "yes"}, true, 0},
		"contradiction": {nil, nil, map[string]string{"A": "0", "B": "1"}, false, 1},
		"no boolean":    {&no, nil, map[string]string{"A": "enabled"}, false, 1},
		"falls through": {&no, nil, map[string]string{"A": "enabled", "B": "on"}, true, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "[X-GPU]\nPer=host\nEnabledVariable=A B\n"
			if tt.file != nil {
				text += "Enabled=" + yesNo(*tt.file) + "\n"
			}
			c := config.Default()
			if tt.conf != nil {
				c.Services["a"] = config.Override{Enabled: tt.conf, EnabledOrigin: "x:1"}
			}
			for k, v := range tt.environ {
				c.Environ[k] = v
			}
			p := Make(Input{Config: c, Systemd: 252, Services: []*service.Service{parse(t, "a", text+"[Service]\nExecStart=/bin/true\n")}})
			if got := len(p.Workers) == 1; got != tt.want || len(p.Problems) != tt.problems {
				t.Errorf("on is %v, want %v; problems %v; %v", got, tt.want, p.Problems, p.Decisions)
			}
		})
	}
}

// A GPU that does not work has no instance, keeps its number, and says why.
func TestFault(t *testing.T) {
	t.Parallel()
	gpus := []gpu.GPU{
		{Index: 0, PCI: "0000:17:00.0", NUMANode: -1},
		{Index: 1, PCI: "0000:ca:00.0", NUMANode: -1, Fault: "it left the bus", MIG: []gpu.MIG{{Index: 3}}},
	}
	tests := map[string]struct {
		text string
		gpus []gpu.GPU
		want []string
	}{
		"others run":   {"", gpus, []string{"a@1.service not generated: GPU 1 at 0000:ca:00.0: it left the bus", "a@0.service generated: for GPU 0 at 0000:17:00.0"}},
		"its parts":    {"[X-GPU]\nPer=mig\n", gpus, []string{"a@1:3.service not generated: MIG device 3 of GPU 1 at 0000:ca:00.0: it left the bus", "a@.service not generated: no GPU works and passes Model= and MinMemory="}},
		"none is left": {"", gpus[1:], []string{"a@1.service not generated: GPU 1 at 0000:ca:00.0: it left the bus", "a@.service not generated: no GPU works"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Make(Input{Config: config.Default(), GPUs: tt.gpus, Systemd: 252, Services: []*service.Service{parse(t, "a", tt.text+"[Service]\nExecStart=/bin/true\n")}})
			got := []string{}
			for _, d := range p.Decisions {
				if d.Kind == KindUnit {
					got = append(got, d.Subject+" "+d.Verdict+": "+d.Reason)
				}
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, w := range p.Workers {
				if *w.GPU == 1 {
					t.Errorf("%s runs on it", w.Unit)
				}
			}
		})
	}
}

// Without the major of nvidia-caps its nodes are named by path.
func TestCapabilityByPath(t *testing.T) {
	t.Parallel()
	card := gpu.GPU{PCI: "0000:17:00.0", NUMANode: -1, MIG: []gpu.MIG{{GIMinor: 30, CIMinor: 31}}}
	p := Make(Input{Config: config.Default(), GPUs: []gpu.GPU{card}, Systemd: 252, Services: []*service.Service{
		parse(t, "a", "[X-GPU]\nPer=mig\n[Service]\nExecStart=/bin/true\n"),
	}})
	got := values(unit(t, p, "a@0:0.service.d/50-gpu.conf"), "Service", "DeviceAllow")
	want := []string{"DeviceAllow=/dev/nvidia-caps/nvidia-cap30 r", "DeviceAllow=/dev/nvidia-caps/nvidia-cap31 r"}
	if diff := cmp.Diff(want, got[3:]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A switch on the kernel command line that switches nothing is told, unless a
// file that cannot be read may have it.
func TestUnknownParameters(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.MkdirAll(root+"/proc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/proc/cmdline", []byte("gpuherd.enable_a=no gpuherd.enable-wroker=no gpuherd.enable_zzzzzz=yes gpuherd.num_gpus=1"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, problems := config.Load(config.Source{Root: root})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	known := parse(t, "a", "[X-GPU]\nPer=host\nEnabledVariable=ENABLE_A ENABLE_WORKER\n[Service]\nExecStart=/bin/true\n")
	var got []string
	for _, p := range Make(Input{Config: c, Systemd: 252, Services: []*service.Service{known}}).Problems {
		got = append(got, p.Error())
	}
	want := []string{
		"kernel command line: gpuherd.enable-wroker=: no service has EnabledVariable=ENABLE_WROKER; did you mean gpuherd.enable_worker=?",
		"kernel command line: gpuherd.enable_zzzzzz=: no service has EnabledVariable=ENABLE_ZZZZZZ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, s := range []*service.Service{{Name: "b", Broken: true}, {Name: "b", Masked: true}} {
		if ps := Make(Input{Config: c, Systemd: 252, Services: []*service.Service{known, s}}).Problems; len(ps) > 0 {
			t.Errorf("%+v: %v", s, ps)
		}
	}
}

// Instances= of a service that runs once is told where it stands.
func TestInstancesOfAHostService(t *testing.T) {
	t.Parallel()
	two := 2
	file := parse(t, "a", "[X-GPU]\nPer=host\nInstances=3\n[Service]\nExecStart=/bin/true\n")
	for want, override := range map[string]config.Override{
		"/etc/gpuherd/services/a.service:3: Instances=": {},
		"/etc/gpuherd/gpuherd.conf:7: Instances=":       {Instances: &two, InstancesOrigin: "/etc/gpuherd/gpuherd.conf:7"},
	} {
		c := config.Default()
		c.Services["a"] = override
		p := Make(Input{Config: c, Systemd: 252, Services: []*service.Service{file}})
		if len(p.Workers) != 1 || len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0].Error(), want) || !p.Problems[0].Warning {
			t.Errorf("%s: %v, problems %v", want, p.Workers, p.Problems)
		}
	}
}
