package gpuhealth

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/gpu"
	"gpuherd/generator/gpu/nvml"
	"gpuherd/monitor/state"
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	type verdict struct {
		Health  string
		Reasons []string
	}
	start := time.Unix(1_000_000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	needs := func(r nvml.Recovery) nvml.Sample { return nvml.Sample{Recovery: &r} }
	well := needs(nvml.RecoveryNone)
	xid := func(numbers ...uint64) func(*record) {
		return func(r *record) {
			for _, n := range numbers {
				r.failed(n, start)
			}
		}
	}
	sample := func(s nvml.Sample, seconds int) func(*record) {
		return func(r *record) { r.sampled(s, at(seconds)) }
	}
	missing := func(r *record) { r.missing = true }
	recovering := (*record).recovering
	type steps []func(*record)

	healthy := verdict{Health: state.Healthy}
	unhealthy := func(reasons ...string) verdict { return verdict{state.Unhealthy, reasons} }
	unknown := func(reasons ...string) verdict { return verdict{state.HealthUnknown, reasons} }
	for _, tt := range []struct {
		name      string
		gpu       gpu.GPU
		unwatched string
		steps     steps
		want      verdict
	}{
		{"not asked yet", gpu.GPU{}, "", nil, unknown()},
		{"well", gpu.GPU{}, "", steps{sample(well, 0)}, healthy},
		{"well, by an old driver", gpu.GPU{}, "", steps{sample(nvml.Sample{}, 0)}, healthy},
		{"simulated", gpu.GPU{Simulated: true}, "no NVML", nil, unknown()},
		{"no NVML", gpu.GPU{}, "no NVML", nil, unknown("no NVML")},
		{"NVML hangs", gpu.GPU{}, "hangs", steps{sample(well, 0)}, unknown("hangs")},
		{"faulty by the inventory", gpu.GPU{Fault: "left the bus"}, "", steps{sample(well, 0)}, unhealthy("left the bus")},
		{"faulty and missing", gpu.GPU{Fault: "left the bus"}, "", steps{missing}, unhealthy("left the bus")},
		{"faulty, and no NVML", gpu.GPU{Fault: "left the bus"}, "no NVML", nil, unhealthy("left the bus")},
		{"missing", gpu.GPU{}, "", steps{sample(well, 0), missing}, unhealthy("does not answer NVML")},
		{"was missing", gpu.GPU{}, "", steps{missing, sample(well, 0)}, healthy},
		{"lost", gpu.GPU{}, "", steps{sample(nvml.Sample{Lost: true}, 0)}, unhealthy("fell off the bus")},
		{"lost, as XID 79 said", gpu.GPU{}, "", steps{xid(79), sample(nvml.Sample{Lost: true}, 0)}, unhealthy("XID 79: fell off the bus")},
		{"lost, and NVML hangs", gpu.GPU{}, "hangs", steps{sample(nvml.Sample{Lost: true}, 0)}, unhealthy("fell off the bus")},
		{"cannot be read", gpu.GPU{}, "", steps{sample(nvml.Sample{Err: "Unknown Error"}, 0)}, unknown("NVML: Unknown Error")},
		{"needs a reset", gpu.GPU{}, "", steps{sample(nvml.Sample{NeedsReset: true}, 0)}, unhealthy("needs reset of the GPU")},
		{"recovery action", gpu.GPU{}, "", steps{sample(needs(2), 0)}, unhealthy("needs reboot of the machine")},
		{"recovery action of a later driver", gpu.GPU{}, "", steps{sample(needs(99), 0)}, unhealthy("needs recovery action 99")},

		{"application faults", gpu.GPU{}, "", steps{sample(well, 0), xid(13, 31, 43, 45, 68, 109)}, healthy},
		{"the recovery action changed", gpu.GPU{}, "", steps{sample(well, 0), xid(154)}, healthy},
		{"errors", gpu.GPU{}, "", steps{sample(well, 0), xid(95, 48, 48, 7777)},
			unhealthy("XID 48: uncorrectable memory error", "XID 95: uncontained memory error", "XID 7777")},
		{"an error that the driver has not judged yet", gpu.GPU{}, "", steps{xid(74), sample(well, 29)}, unhealthy("XID 74: NVLink error")},
		{"an error that takes nothing", gpu.GPU{}, "", steps{xid(74), sample(well, 30)}, healthy},
		{"an error that takes a reset", gpu.GPU{}, "", steps{xid(74), sample(needs(1), 60)}, unhealthy("needs reset of the GPU", "XID 74: NVLink error")},
		{"after the reset", gpu.GPU{}, "", steps{xid(74), sample(needs(1), 60), sample(well, 120)}, healthy},
		{"the driver says so at once", gpu.GPU{}, "", steps{xid(74), recovering, sample(well, 1)}, healthy},
		{"an error after that", gpu.GPU{}, "", steps{xid(74), recovering, xid(48), sample(well, 1)}, unhealthy("XID 48: uncorrectable memory error")},
		{"an old driver never says", gpu.GPU{}, "", steps{xid(74), sample(nvml.Sample{}, 9999)}, unhealthy("XID 74: NVLink error")},
		{"was lost and is back, by an old driver", gpu.GPU{}, "", steps{xid(79), sample(nvml.Sample{Lost: true}, 0), sample(nvml.Sample{}, 60)}, healthy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &record{}
			for _, step := range tt.steps {
				step(r)
			}
			var got verdict
			got.Health, got.Reasons = r.verdict(tt.gpu, tt.unwatched)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
