package plan

import (
	"fmt"
	"testing"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// BenchmarkMake plans a usual machine and the largest that NVIDIA sells.
func BenchmarkMake(b *testing.B) {
	for _, m := range []struct{ gpus, mig, services int }{{8, 0, 3}, {16, 7, 5}} {
		b.Run(fmt.Sprintf("gpus=%d/mig=%d/services=%d", m.gpus, m.mig, m.services), func(b *testing.B) {
			in := Input{Config: config.Default(), GPUs: gpu.Simulated(m.gpus), Systemd: 257}
			per, want := service.PerGPU, m.gpus*m.services
			if m.mig > 0 {
				per, want = service.PerMIG, want*m.mig
			}
			for i := range in.GPUs {
				for n := range m.mig {
					in.GPUs[i].MIG = append(in.GPUs[i].MIG, gpu.MIG{Index: n, GIMinor: 30 + n, CIMinor: 60 + n})
				}
			}
			for i := range m.services {
				name := fmt.Sprintf("s%d", i)
				text := "[Unit]\nAfter=network.target\n[X-GPU]\nPer=" + per + "\n[Service]\nType=notify\nExecStart=/bin/true %i\nMemoryMax=24G\n"
				f, _ := unitfile.Parse("/etc/gpuherd/services/"+name+".service", []byte(text))
				s, _ := service.Parse(name, f.Name, f)
				in.Services = append(in.Services, s)
			}
			b.ReportAllocs()
			for b.Loop() {
				if p := Make(in); len(p.Workers) != want {
					b.Fatalf("%d workers, want %d", len(p.Workers), want)
				}
			}
		})
	}
}
