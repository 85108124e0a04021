package explanation

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator"
	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/plan"
	"gpuherd/generator/service"
)

// sample is a machine with a GPU in two parts, a whole one, one that is left
// out and a card that is none.
func sample() *generator.Result {
	zero, one := 0, 1
	gpus := []gpu.GPU{
		{Index: 0, PCI: "0000:17:00.0", UUID: "GPU-1", MIG: []gpu.MIG{{Index: 0}, {Index: 1}}},
		{Index: 1, PCI: "0000:18:00.0", UUID: "GPU-2"},
		{Index: 2, PCI: "0000:19:00.0", UUID: "GPU-3"},
	}
	decide := func(kind, subject, verdict string) plan.Decision {
		return plan.Decision{Kind: kind, Subject: subject, Verdict: verdict, Reason: "because"}
	}
	decisions := []plan.Decision{
		decide(plan.KindMachine, "systemd", plan.Noted),
		decide(plan.KindConfig, "[GPU] Count=", plan.Used),
		decide(plan.KindGPU, "0000:01:00.0", plan.Skipped),
		decide(plan.KindGPU, "0000:17:00.0", plan.Used),
		decide(plan.KindGPU, "0000:18:00.0", plan.Used),
		decide(plan.KindGPU, "0000:19:00.0", plan.Used),
		decide(plan.KindGPU, "0000:19:00.0", plan.Skipped),
		decide(plan.KindService, "off", plan.Off),
		decide(plan.KindService, "setup", plan.On),
		decide(plan.KindService, "slice", plan.On),
		decide(plan.KindUnit, "setup.service", plan.Generated),
		decide(plan.KindUnit, "slice@0:0.service", plan.Generated),
		decide(plan.KindUnit, "slice@0:1.2.service", plan.NotGenerated),
	}
	return &generator.Result{
		Config: config.Default(), Source: gpu.SourceInventory, Found: gpus, GPUs: gpus[:2], Decisions: decisions,
		Services: []*service.Service{{Name: "off", Per: service.PerGPU}, {Name: "setup", Per: service.PerHost}, {Name: "slice", Per: service.PerMIG}},
		Plan: &plan.Plan{Decisions: decisions[7:], Workers: []plan.Worker{
			{Unit: "setup.service", Service: "setup"}, {Unit: "slice@0:0.service", Service: "slice", Instance: "0:0", GPU: &zero}, {Unit: "x@1.service", GPU: &one},
		}},
	}
}

// told is an explanation as lines of text.
func told(e *Explanation) []string {
	list := slices.Clone(e.Notes)
	for _, d := range e.Devices {
		list = append(list, d.String()+" by "+d.Source)
		for _, l := range append(slices.Clone(d.Lines), d.Units...) {
			list = append(list, "  "+l.Subject+" "+l.Verdict)
		}
		if d.Idle != "" {
			list = append(list, "  idle: "+d.Idle)
		}
	}
	for _, l := range append(slices.Clone(e.Services), e.Machine...) {
		list = append(list, l.Subject+" "+l.Verdict)
	}
	return list
}

func TestExplanation(t *testing.T) {
	t.Parallel()
	zero := []string{"GPU 0, 0000:17:00.0 by NVML", "  0000:17:00.0 used", "  slice@0:0.service generated", "  slice@0:1.2.service not generated"}
	one := []string{"GPU 1, 0000:18:00.0 by NVML", "  0000:18:00.0 used", "  idle: off is off; slice runs on MIG devices, of which it has none"}
	two := []string{"GPU 2, 0000:19:00.0 by NVML", "  0000:19:00.0 used", "  0000:19:00.0 skipped"}
	card := []string{"0000:01:00.0 by PCI", "  0000:01:00.0 skipped"}
	off := []string{"off off"}
	machine := []string{"systemd noted", "[GPU] Count= used"}
	tests := map[string]struct {
		words []string
		want  []string
	}{
		"all":               {nil, slices.Concat(zero, one, two, card, off, []string{"setup on", "setup.service generated", "slice on"}, machine)},
		"a GPU":             {[]string{"0"}, slices.Concat(zero, off)},
		"an idle one":       {[]string{"1"}, slices.Concat(one, off)},
		"one not used":      {[]string{"2"}, slices.Concat(two, off)},
		"more":              {[]string{"2", "0-1"}, slices.Concat(zero, one, two, off)},
		"an address":        {[]string{"0000:01:00.0"}, slices.Concat(card, off)},
		"a part":            {[]string{"0:0"}, slices.Concat(zero[:3], []string{"slice on"})},
		"a unit":            {[]string{"slice@0:1.2.service"}, slices.Concat(zero[:2], zero[3:], []string{"slice on"})},
		"a service":         {[]string{"slice"}, slices.Concat(zero, []string{"slice on"})},
		"a host service":    {[]string{"setup"}, []string{"setup on", "setup.service generated"}},
		"one that is off":   {[]string{"off"}, off},
		"its instance":      {[]string{"off@1"}, slices.Concat(one[:2], off)},
		"of no GPU":         {[]string{"off@7"}, slices.Concat([]string{"there is no GPU 7: there are 3, from GPU 0 to GPU 2"}, card, off, machine)},
		"a GPU there isn't": {[]string{"8-9"}, slices.Concat([]string{"there is no GPU 8-9: there are 3, from GPU 0 to GPU 2"}, card, machine)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := Of(sample())
			if tt.words != nil {
				var err error
				if e, err = e.Select(tt.words); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tt.want, told(e)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for word, guess := range map[string]string{"slcie": "slice", "0000:17:00.1": "0000:17:00.0", "": "", "-1": "", "[a": "", "1-0": ""} {
		_, err := Of(sample()).Select([]string{"0", word})
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Word != word || unknown.Guess != guess {
			t.Errorf("%q: %v", word, err)
		}
	}
}

// The lines keep the order in which it was decided, whatever was selected.
func TestLinesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	e := Of(sample())
	var got []generator.Decision
	for _, l := range e.Lines() {
		got = append(got, l.Decision)
	}
	if diff := cmp.Diff(sample().Decisions, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	few, err := e.Select([]string{"slice@0:0", "1"})
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for _, l := range few.Lines() {
		subjects = append(subjects, l.Subject)
	}
	if diff := cmp.Diff([]string{"0000:17:00.0", "0000:18:00.0", "off", "slice", "slice@0:0.service"}, subjects); diff != "" {
		t.Errorf("selected (-want +got):\n%s", diff)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	for want, tt := range map[string]struct {
		source string
		gpu    gpu.GPU
	}{
		"NVML":           {gpu.SourceInventory, gpu.GPU{}},
		"PCI":            {gpu.SourcePCI, gpu.GPU{}},
		"PCI and driver": {gpu.SourcePCI, gpu.GPU{Name: "NVIDIA L4"}},
		"simulation":     {gpu.SourceInventory, gpu.Simulated(1)[0]},
		"wsl":            {"wsl", gpu.GPU{}},
	} {
		if got := source(&generator.Result{Source: tt.source}, tt.gpu); got != want {
			t.Errorf("%+v: %q, want %q", tt, got, want)
		}
	}
}
