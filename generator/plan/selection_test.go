package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
)

// Which devices a service runs on, and what is told of the others.
func TestSelection(t *testing.T) {
	t.Parallel()
	h100 := gpu.GPU{PCI: "0000:17:00.0", Name: "NVIDIA H100 80GB HBM3", MemoryBytes: 80 << 30, NUMANode: -1}
	l4 := gpu.GPU{PCI: "0000:18:00.0", Name: "NVIDIA L4", MemoryBytes: 24 << 30, NUMANode: -1}
	unknown := gpu.GPU{PCI: "0000:19:00.0", NUMANode: -1} // until the driver has told
	parts := gpu.GPU{PCI: "0000:1a:00.0", Name: "NVIDIA A100-SXM4-40GB", MemoryBytes: 40 << 30, NUMANode: -1, MIGMode: true, MIG: []gpu.MIG{
		{Index: 0, MemoryBytes: 5 << 30}, {Index: 2, MemoryBytes: 20 << 30}, {Index: 3},
	}}
	machine := func(gpus ...gpu.GPU) []gpu.GPU {
		gpus = slices.Clone(gpus)
		for i := range gpus {
			gpus[i].Index, gpus[i].Minor = i, i
		}
		return gpus
	}
	two, all := 2, machine(h100, l4, unknown, parts)
	tests := map[string]struct {
		text      string
		gpus      []gpu.GPU
		instances *int // of gpuherd.conf
		want      []string
		not       map[string]string // unit → part of the reason that there is none
	}{
		"on each GPU":                 {"", all, nil, []string{"a@0", "a@1", "a@2", "a@3"}, nil},
		"once a host":                 {"Per=host", all, nil, []string{"a"}, nil},
		"once without a GPU":          {"Per=host\nModel=*H100*\nMinMemory=1T", nil, nil, []string{"a"}, nil},
		"on no GPU":                   {"", nil, nil, nil, map[string]string{"a@": "there is no GPU to run on"}},
		"on each part":                {"Per=mig", all, nil, []string{"a@3:0", "a@3:2", "a@3:3"}, nil},
		"without parts":               {"Per=mig", machine(h100, l4), nil, nil, map[string]string{"a@": "no MIG device is known"}},
		"two on each":                 {"Instances=2", machine(h100, l4), nil, []string{"a@0", "a@0.2", "a@1", "a@1.2"}, nil},
		"two on each part":            {"Per=mig\nInstances=2", machine(parts), nil, []string{"a@0:0", "a@0:0.2", "a@0:2", "a@0:2.2", "a@0:3", "a@0:3.2"}, nil},
		"conf has the say":            {"Instances=5", machine(h100), &two, []string{"a@0", "a@0.2"}, nil},
		"conf has it of one, too":     {"Per=host", machine(h100), &two, []string{"a"}, nil},
		"a model":                     {"Model=*h100*", all, nil, []string{"a@0"}, map[string]string{"a@1": `GPU 1 is "NVIDIA L4", which Model=*h100* does not take`, "a@2": "no known name yet", "a@3": "does not take"}},
		"models":                      {"Model=*H100* \"NVIDIA L4\"", all, nil, []string{"a@0", "a@1"}, map[string]string{"a@2": "no known name yet", "a@3": "does not take"}},
		"a whole name":                {"Model=L4", machine(l4), nil, nil, map[string]string{"a@0": "does not take", "a@": "no GPU passes Model= and MinMemory="}},
		"memory":                      {"MinMemory=24G", all, nil, []string{"a@0", "a@1", "a@3"}, map[string]string{"a@2": "no known memory yet"}},
		"more memory":                 {"MinMemory=24.1G", machine(l4, h100), nil, []string{"a@1"}, map[string]string{"a@0": "GPU 0 has 24G of memory, less than MinMemory= of 24.1G"}},
		"memory of the part":          {"Per=mig\nMinMemory=6G", machine(parts), nil, []string{"a@0:2"}, map[string]string{"a@0:0": "MIG device 0 of GPU 0 has 5G", "a@0:3": "MIG device 3 of GPU 0 has no known memory yet"}},
		"model of the whole":          {"Per=mig\nModel=*A100*", all, nil, []string{"a@3:0", "a@3:2", "a@3:3"}, nil},
		"both":                        {"Model=*A100* *L4\nMinMemory=30G", all, nil, []string{"a@3"}, map[string]string{"a@0": "does not take", "a@1": "less than MinMemory=", "a@2": "no known name yet"}},
		"simulated, by name":          {"Model=Simulated*\nMinMemory=16G", gpu.Simulated(2), nil, []string{"a@0", "a@1"}, nil},
		"an index that is left over":  {"", []gpu.GPU{{Index: 2, PCI: "0000:17:00.0"}, {Index: 7, PCI: "0000:18:00.0"}}, nil, []string{"a@2", "a@7"}, nil},
		"no model is every model":     {"Model=*H100*\nModel=", machine(l4, unknown), nil, []string{"a@0", "a@1"}, nil},
		"no least memory is any size": {"MinMemory=40G\nMinMemory=0", machine(l4, unknown), nil, []string{"a@0", "a@1"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config.Default()
			if tt.instances != nil {
				c.Services["a"] = config.Override{Instances: tt.instances, InstancesOrigin: "x:1"}
			}
			p := Make(Input{Config: c, GPUs: tt.gpus, Systemd: 252, Services: []*service.Service{parse(t, "a", "[X-GPU]\n"+tt.text+"\n[Service]\nExecStart=/bin/true\n")}})
			var got, linked []string
			for _, w := range p.Workers {
				got = append(got, strings.TrimSuffix(w.Unit, ".service"))
			}
			for _, l := range p.Links {
				linked = append(linked, strings.TrimSuffix(strings.TrimPrefix(l.Path, Target+".wants/"), ".service"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("units (-want +got):\n%s", diff)
			}
			slices.Sort(got)
			slices.Sort(linked)
			if diff := cmp.Diff(got, linked); diff != "" {
				t.Errorf("links are of other units (-units +links):\n%s", diff)
			}
			said := map[string]string{}
			for _, d := range p.Decisions {
				if d.Verdict == NotGenerated {
					said[strings.TrimSuffix(strings.TrimSuffix(d.Subject, ".service"), ".")] = d.Reason
				}
			}
			for unit, why := range tt.not {
				if !strings.Contains(said[unit], why) {
					t.Errorf("%s: the reason %q has no %q", unit, said[unit], why)
				}
				delete(said, unit)
			}
			delete(said, "a@")
			if len(said) > 0 {
				t.Errorf("more was not generated: %v", said)
			}
			if len(tt.want) == 0 && len(p.Files) > 0 {
				t.Errorf("files without a unit to start: %v", p.Files)
			}
		})
	}
}

// What has a unit's name decides over the unit, and over one instance alone.
func TestClaims(t *testing.T) {
	t.Parallel()
	type claim struct {
		what Claim
		by   string
	}
	tests := map[string]struct {
		taken    map[string]claim
		want     []string
		problems []string
		template bool
	}{
		"free":               {nil, []string{"a@0.service", "a@1.service"}, nil, true},
		"template replaced":  {map[string]claim{"a@.service": {Replaced, "x"}}, []string{"a@0.service", "a@1.service"}, nil, false},
		"template masked":    {map[string]claim{"a@.service": {Masked, "x"}}, nil, nil, false},
		"template foreign":   {map[string]claim{"a@.service": {Foreign, "x"}}, nil, []string{"/etc/gpuherd/services/a.service: x; rename the file"}, false},
		"instance replaced":  {map[string]claim{"a@1.service": {Replaced, "x"}}, []string{"a@0.service", "a@1.service"}, nil, true},
		"instance masked":    {map[string]claim{"a@1.service": {Masked, "x"}}, []string{"a@0.service"}, nil, true},
		"instance foreign":   {map[string]claim{"a@1.service": {Foreign, "x"}}, []string{"a@0.service"}, []string{"/etc/gpuherd/services/a.service: x; remove one of the two; until then a@1.service is left out"}, true},
		"drop-in masked":     {map[string]claim{"a@1.service.d/50-gpu.conf": {Masked, "x"}}, []string{"a@0.service", "a@1.service"}, nil, true},
		"drop-in hidden":     {map[string]claim{"a@1.service.d/50-gpu.conf": {Foreign, "x"}}, []string{"a@0.service", "a@1.service"}, []string{"x: hides the drop-in"}, true},
		"drop-ins hidden":    {map[string]claim{"a@0.service.d/50-gpu.conf": {Foreign, "x"}, "a@1.service.d/50-gpu.conf": {Foreign, "x"}}, []string{"a@0.service", "a@1.service"}, []string{"x: hides the drop-in"}, true},
		"every one is taken": {map[string]claim{"a@0.service": {Masked, "x"}, "a@1.service": {Masked, "y"}}, nil, nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Make(Input{Config: config.Default(), GPUs: gpu.Simulated(2), Systemd: 252,
				Services: []*service.Service{parse(t, "a", "[Service]\nExecStart=/bin/true\n")},
				Taken:    func(file string, _ *service.Service) (Claim, string) { return tt.taken[file].what, tt.taken[file].by },
			})
			var got []string
			for _, w := range p.Workers {
				got = append(got, w.Unit)
				if !slices.ContainsFunc(p.Files, func(f File) bool { return f.Path == w.Unit+".d/50-gpu.conf" }) {
					t.Errorf("%s is bound to no GPU", w.Unit)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("units (-want +got):\n%s", diff)
			}
			if template := slices.ContainsFunc(p.Files, func(f File) bool { return f.Path == "a@.service" }); template != tt.template {
				t.Errorf("the template is written: %v", template)
			}
			if len(p.Problems) != len(tt.problems) {
				t.Fatalf("problems %v", p.Problems)
			}
			for i, want := range tt.problems {
				if got := p.Problems[i].Error(); !strings.HasPrefix(got, want) {
					t.Errorf("problem %s, want %s", got, want)
				}
			}
			for file, c := range tt.taken {
				told := slices.ContainsFunc(p.Decisions, func(d Decision) bool { return strings.Contains(d.Reason, c.by) })
				if c.what != Free && !told {
					t.Errorf("no decision tells what became of %s: %v", file, p.Decisions)
				}
			}
		})
	}
}
