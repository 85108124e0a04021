package state

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestGPUEvents(t *testing.T) {
	t.Parallel()
	const a, b, c = "0000:1b:00.0", "0000:43:00.0", "0000:52:00.0"
	gpu := func(index int, pci, health string, reasons ...string) GPU {
		return GPU{Index: index, PCI: pci, UUID: "GPU-" + pci, Health: health, Reasons: reasons}
	}
	warm := func(g GPU, celsius int) GPU {
		g.Temperature = &celsius
		return g
	}
	bare := func(g GPU) GPU {
		g.UUID = ""
		return g
	}
	type gpus []GPU
	for _, tt := range []struct {
		name  string
		steps []gpus
		want  []string
	}{
		{"the first are no news", []gpus{{gpu(0, a, Healthy), gpu(1, b, Unhealthy, "XID 79")}}, nil},
		{"neither are figures", []gpus{{warm(gpu(0, a, Healthy), 30)}, {warm(gpu(0, a, Healthy), 31)}}, nil},
		{"none, then one", []gpus{nil, {gpu(0, a, HealthUnknown)}}, []string{"1 added GPU 0 unknown []"}},
		{"health", []gpus{{gpu(0, a, HealthUnknown)}, {gpu(0, a, Healthy)}, {gpu(0, a, Healthy)}, {gpu(0, a, Unhealthy, "XID 48")}},
			[]string{"1 healthy GPU 0 healthy []", "2 unhealthy GPU 0 unhealthy [XID 48]"}},
		{"reasons", []gpus{{gpu(0, a, Unhealthy, "XID 48")}, {gpu(0, a, Unhealthy, "XID 48", "XID 79")}}, []string{"1 unhealthy GPU 0 unhealthy [XID 48 XID 79]"}},
		{"one goes, one comes", []gpus{{gpu(0, a, Healthy), gpu(1, b, Healthy)}, {gpu(0, a, Healthy), gpu(2, c, Healthy)}},
			[]string{"1 removed GPU 1 healthy []", "2 added GPU 2 healthy []"}},
		{"another in its place", []gpus{{gpu(0, a, Healthy)}, {gpu(0, b, Healthy)}}, []string{"1 removed GPU 0 healthy []", "2 added GPU 0 healthy []"}},
		{"its UUID becomes known", []gpus{{bare(gpu(0, a, HealthUnknown))}, {gpu(0, a, HealthUnknown)}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, told := newHerd()
			var got []string
			for _, s := range tt.steps {
				h.SetGPUs(s)
			}
			for _, d := range told.deltas {
				if !d.GPUsChanged {
					t.Errorf("a delta without GPUs: %+v", d)
				}
				for _, e := range d.Events {
					g := e.Data.(*GPUEvent)
					got = append(got, fmt.Sprintf("%d %s GPU %d %s %v", e.Seq, g.Event, g.Index, g.Health, g.Reasons))
					if e.Type != TypeGPU || e.AtUS != 42 {
						t.Errorf("%+v", e)
					}
				}
			}
			want(t, got, tt.want...)
		})
	}
}

// The names are a promise to every reader of Redis.
func TestGPUEventJSON(t *testing.T) {
	t.Parallel()
	n := 41
	got, err := json.Marshal(&GPUEvent{Event: Unhealthy, GPU: GPU{Index: 3, UUID: "GPU-1", Name: "H100", PCI: "0000:1b:00.0", Minor: 2, NUMA: 1, Memory: 80,
		Health: Unhealthy, Reasons: []string{"XID 79"}, Temperature: &n, Utilisation: &n, MIG: []MIG{{Index: 1, UUID: "MIG-1", Profile: "1g.10gb", Memory: 10}}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"index":3,"uuid":"GPU-1","name":"H100","pci":"0000:1b:00.0","minor":2,"numa":1,"memory":80,"health":"unhealthy","reasons":["XID 79"],` +
		`"temperature":41,"utilisation":41,"mig":[{"index":1,"uuid":"MIG-1","profile":"1g.10gb","memory":10}],"event":"unhealthy"}`
	if string(got) != want {
		t.Errorf("JSON is\n%s, want\n%s", got, want)
	}
}
