package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
)

// parseAt is parse for a file in a folder of its own, with drop-ins.
func parseAt(t *testing.T, path, text string, dropins ...string) *service.Service {
	t.Helper()
	base, problems := unitfile.Parse(path, []byte(text))
	var more []*unitfile.File
	name := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], ".service")
	for i, text := range dropins {
		f, ps := unitfile.Parse(fmt.Sprintf("/etc/gpuherd/services/%s.service.d/%d.conf", name, i), []byte(text))
		more, problems = append(more, f), append(problems, ps...)
	}
	s, ps := service.Parse(name, path, base, more...)
	if problems = append(problems, ps...); len(problems) > 0 {
		t.Fatal(problems)
	}
	return s
}

func TestOrderingCycles(t *testing.T) {
	t.Parallel()
	own := func(name, unit string, per ...string) *service.Service {
		return parseAt(t, "/etc/gpuherd/services/"+name+".service", "[Unit]\n"+unit+"\n[X-GPU]\nPer="+append(per, "host")[0]+"\n[Service]\nExecStart=/bin/true\n")
	}
	shipped := func(name string, per string, dropins ...string) *service.Service {
		return parseAt(t, "/usr/lib/gpuherd/services/"+name+".service", "[X-GPU]\nPer="+per+"\n[Service]\nExecStart=/bin/true\n", dropins...)
	}
	setup := shipped(Setup, "host")
	tests := map[string]struct {
		services []*service.Service
		left     []string // services that get no unit
		problems []string
	}{
		"none": {[]*service.Service{own("a", "After=b.service"), own("b", "After=network.target"), setup}, nil, nil},
		"both": {
			[]*service.Service{own("a", "After=b.service"), own("b", "After=network.target a.service"), own("c", "After=a.service"), setup},
			[]string{"a", "b"},
			[]string{"/etc/gpuherd/services/b.service:2: After=: ordering cycle b.service → a.service → b.service: each starts after the next; take a.service out of After=; until then a and b are left out"},
		},
		"one says both": {
			[]*service.Service{own("a", "After=b.service\nBefore=b.service"), own("b", ""), setup},
			[]string{"a"},
			[]string{"/etc/gpuherd/services/a.service:3: Before=: ordering cycle a.service → b.service → a.service: each starts after the next; take b.service out of Before=; until then a is left out"},
		},
		"before setup": {
			[]*service.Service{own("a", "Before=shared-setup.service"), own("b", ""), setup},
			[]string{"a"},
			[]string{"/etc/gpuherd/services/a.service:2: Before=: ordering cycle a.service → shared-setup.service → a.service: each starts after the next; " +
				"take shared-setup.service out of Before=, or write an empty After= and Requires= at the end of [Unit], for a not to wait for it; until then a is left out"},
		},
		"before setup, opted out":     {[]*service.Service{own("a", "Before=shared-setup.service\nAfter=\nRequires="), setup}, nil, nil},
		"an empty one resets nothing": {[]*service.Service{own("a", "After=b.service\nAfter=\nAfter=c.service"), own("b", "After=a.service"), setup}, []string{"a", "b"}, []string{"b.service → a.service → b.service"}},
		"before boot": {
			[]*service.Service{own("a", "Before=local-fs.target"), own("b", "Before=basic.target\nDefaultDependencies=no\nAfter=\nRequires="), setup},
			[]string{"a"},
			[]string{"a.service → sysinit.target → local-fs.target → a.service: each starts after the next; take local-fs.target out of Before=, or write DefaultDependencies=no and an empty After= and Requires= at the end of [Unit], for a to start that early; until then a is left out"},
		},
		"after the monitor":  {[]*service.Service{own("a", "After=gpuherd-monitor.service gpuherd.target"), setup}, nil, nil},
		"before the monitor": {[]*service.Service{own("a", "Before=gpuherd-monitor.service gpuherd.target"), setup}, nil, nil},
		"round the monitor": {
			[]*service.Service{own("a", "After=gpuherd-monitor.service\nAfter="), own("b", "Before=shared-setup.service\nAfter=a.service\nAfter="), setup},
			[]string{"a", "b"},
			[]string{"b.service → a.service → gpuherd-monitor.service → shared-setup.service → b.service"},
		},
		"absent units": {[]*service.Service{own("a", "After=x.service\nBefore=x.service"), own("b", "After=x.target a.service"), setup}, nil, nil},
		"only wanted":  {[]*service.Service{own("a", "Requires=b.service"), own("b", "Requires=a.service\nWants=a.service"), setup}, nil, nil},
		"instance by instance": {
			[]*service.Service{own("a", "After=b@%i.service", "gpu"), own("b", "After=%j-x.service a@%i.service", "gpu"), setup},
			[]string{"a", "b"},
			[]string{"b@0.service → a@0.service → b@0.service"},
		},
		"a template's name takes the instance": {
			[]*service.Service{own("a", "After=b@.service", "gpu"), own("b", "Before=c@.service\nAfter=a@.service", "gpu"), setup},
			[]string{"a", "b"},
			[]string{"b@0.service → a@0.service → b@0.service"},
		},
		"a template's name of a host service": {[]*service.Service{own("a", "After=b@.service"), own("b", "After=a.service", "gpu"), setup}, nil, nil},
		"the first one first":                 {[]*service.Service{own("a", "After=a@0.service", "gpu"), setup}, nil, nil},
		"each after the next":                 {[]*service.Service{own("a", "After=a@1.service\nBefore=a@1.service", "gpu"), setup}, []string{"a"}, []string{"a@0.service → a@1.service → a@0.service"}},
		"another instance":                    {[]*service.Service{own("a", "After=b@1.service", "gpu"), own("b", "After=a@7.service", "gpu"), setup}, nil, nil},
		"itself": {
			[]*service.Service{own("a", "After=a.service b.service"), own("b", "After=%n", "gpu"), setup}, nil,
			[]string{"a.service:2: After=: a.service is the unit itself, which systemd drops; take it out", "b.service:2: After=: %n is the unit itself"},
		},
		"machine's specifiers": {[]*service.Service{own("a", "After=%H.service b.service"), own("b", "After=%m.service"), setup}, nil, nil},
		"off":                  {[]*service.Service{own("a", "After=b.service"), own("b", "After=a.service\n[X-GPU]\nEnabled=no"), setup}, nil, nil},
		"a shipped one stays": {
			[]*service.Service{own("mine", "After=worker@0.service"), setup, shipped("worker", "gpu", "[Unit]\nAfter=mine.service")},
			[]string{"mine"},
			[]string{"/etc/gpuherd/services/mine.service:2: After=: ordering cycle mine.service → worker@0.service → mine.service: each starts after the next; take worker@0.service out of After=; until then mine is left out"},
		},
		"a drop-in to a shipped one": {
			[]*service.Service{setup, shipped("worker", "gpu", "[Unit]\nBefore=shared-setup.service other.target")}, nil,
			[]string{"/etc/gpuherd/services/worker.service.d/0.conf:2: Before=: ordering cycle worker@0.service → shared-setup.service → worker@0.service: each starts after the next; " +
				"take shared-setup.service out of Before=, or write an empty After= and Requires= at the end of [Unit], for worker not to wait for it; until then it is ignored"},
		},
		"setup of one's own": {
			[]*service.Service{own("a", ""), own(Setup, "After=a.service"), shipped("worker", "gpu")}, nil,
			[]string{"/etc/gpuherd/services/shared-setup.service:2: After=: ordering cycle shared-setup.service → a.service → shared-setup.service"},
		},
		"all at once": {
			[]*service.Service{own("a", "After=b.service"), own("b", "After=a.service"), own("c", "After=d.service"), own("d", "After=e.service"), own("e", "After=c.service d.service"), own("f", ""), setup},
			[]string{"a", "b", "c", "d", "e"},
			[]string{"b.service:2: After=: ordering cycle b.service → a.service → b.service", "e.service:2: After=: ordering cycle e.service → d.service → e.service", "e.service:2: After=: ordering cycle e.service → c.service → d.service → e.service"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Make(Input{Config: config.Default(), GPUs: gpu.Simulated(2), Systemd: 252, Services: tt.services})
			var left []string
			for _, s := range tt.services {
				runs := slices.ContainsFunc(p.Workers, func(w Worker) bool { return w.Service == s.Name })
				if !runs && s.Enabled {
					left = append(left, s.Name)
				}
				off := slices.ContainsFunc(p.Decisions, func(d Decision) bool { return d.Subject == s.Name && d.Verdict == Off })
				if runs == off {
					t.Errorf("%s runs: %v, but is told to be off: %v", s.Name, runs, off)
				}
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left out (-want +got):\n%s", diff)
			}
			if len(p.Problems) != len(tt.problems) {
				t.Fatalf("%d problems, want %d: %v", len(p.Problems), len(tt.problems), p.Problems)
			}
			for i, want := range tt.problems {
				if got := p.Problems[i].Error(); !strings.Contains(got, want) {
					t.Errorf("problem\n%s\nhas no\n%s", got, want)
				}
			}
			// What is written has no cycle.
			if again := cyclesIn(t, p); again != "" {
				t.Errorf("what is written has an %s", again)
			}
		})
	}
}

// cyclesIn reads the units of a plan as systemd does and looks for a cycle.
func cyclesIn(t *testing.T, p *Plan) string {
	t.Helper()
	g := newGraph()
	for _, w := range p.Workers {
		g.add(w.Unit)
	}
	for _, b := range boot {
		g.add(b.unit)
		for _, unit := range b.after {
			g.add(unit)
		}
	}
	for _, b := range boot {
		for _, unit := range b.after {
			g.wait(b.unit, unit, &word{})
		}
	}
	for _, w := range p.Workers {
		path := w.Service + ".service"
		if w.GPU != nil {
			path = w.Service + "@.service"
		}
		f := unit(t, p, path)
		if defaultDependencies(f) {
			g.wait(w.Unit, "basic.target", &word{})
			g.wait(w.Unit, "sysinit.target", &word{})
		}
		for _, e := range f.Entries("Unit") {
			for text := range strings.FieldsSeq(e.Value) {
				other, _ := resolve(text, w.Unit)
				switch e.Key {
				case "After":
					g.wait(w.Unit, other, &word{})
				case "Before":
					g.wait(other, w.Unit, &word{})
				}
			}
		}
	}
	var names []string
	for _, s := range g.cycle() {
		names = append(names, s.unit)
	}
	return strings.Join(names, " → ")
}

// A name that closes a cycle is left out alone: what stands beside it stays.
func TestForgetsOneName(t *testing.T) {
	t.Parallel()
	text := "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n"
	p := Make(Input{Config: config.Default(), Systemd: 252, Services: []*service.Service{
		parseAt(t, "/usr/lib/gpuherd/services/shared-setup.service", text),
		parseAt(t, "/usr/lib/gpuherd/services/worker.service", text, "[Unit]\nBefore=x.target shared-setup.service y.target\nBefore=shared-setup.service\n"),
	}})
	if diff := cmp.Diff([]string{"Before=x.target y.target"}, values(unit(t, p, "worker.service"), "Unit", "Before")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(p.Problems) != 2 {
		t.Errorf("problems %v", p.Problems)
	}
}

// Hundreds of services that all wait for each other cost a bounded time and a
// bounded number of problems; the one that does not is written.
func TestManyCycles(t *testing.T) {
	t.Parallel()
	const n = 300
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("s%03d.service", i))
	}
	in := Input{Config: config.Default(), Systemd: 252}
	for i := range n {
		in.Services = append(in.Services, parse(t, fmt.Sprintf("s%03d", i), "[Unit]\nAfter="+strings.Join(slices.Delete(slices.Clone(names), i, i+1), " ")+"\n[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n"))
	}
	in.Services = append(in.Services, parse(t, "well", "[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n"))
	p := Make(in)
	if len(p.Workers) != 1 || len(p.Problems) != maxCycles+1 {
		t.Errorf("%d units and %d problems, want 1 and %d", len(p.Workers), len(p.Problems), maxCycles+1)
	}
	ring := Input{Config: config.Default(), Systemd: 252}
	for i := range n {
		ring.Services = append(ring.Services, parse(t, fmt.Sprintf("s%03d", i), fmt.Sprintf("[Unit]\nAfter=s%03d.service\n[X-GPU]\nPer=host\n[Service]\nExecStart=/bin/true\n", (i+1)%n)))
	}
	p = Make(ring)
	if len(p.Workers) != 0 || len(p.Problems) != 1 || len(p.Problems[0].Error()) > 1000 {
		t.Errorf("%d units and problems %v", len(p.Workers), p.Problems)
	}
}

// Whatever the files say, what is written has no cycle, and what gpuherd ships
// is written.
func FuzzOrdering(f *testing.F) {
	f.Add("After=b.service", "After=c@%i.service a.service", "Before=shared-setup.service b@.service")
	f.Add("Before=%p.service a@1.service\nAfter=a@0.service", "After=\nAfter=%N", "Before=sysinit.target gpuherd.target\nDefaultDependencies=no\nAfter=gpuherd-monitor.service")
	f.Add("After=c@0.service\nBefore=c@1.service", "Before=c.service %j@%i.service\nAfter=", "After=%%i.service c@1.service\nRequires=")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		in := Input{Config: config.Default(), GPUs: gpu.Simulated(2), Systemd: 252}
		for _, s := range []struct{ path, per, unit string }{
			{"/etc/gpuherd/services/a.service", "gpu", a}, {"/etc/gpuherd/services/b.service", "host", b},
			{"/etc/gpuherd/services/shared-setup.service", "host", b}, {"/usr/lib/gpuherd/services/c.service", "gpu", c},
		} {
			name := strings.TrimSuffix(s.path[strings.LastIndexByte(s.path, '/')+1:], ".service")
			base, _ := unitfile.Parse(s.path, []byte("[X-GPU]\nPer="+s.per+"\n[Service]\nExecStart=/bin/true\n"))
			more, _ := unitfile.Parse("/etc/gpuherd/services/"+name+".service.d/x.conf", []byte("[Unit]\n"+s.unit))
			service, _ := service.Parse(name, s.path, base, more)
			if service.Broken || service.Per != s.per || !service.Enabled || service.Instances > 4 || len(service.Models) > 0 || service.MinMemory > 0 {
				t.Skip() // it says more than an order
			}
			in.Services = append(in.Services, service)
		}
		p := Make(in)
		if cycle := cyclesIn(t, p); cycle != "" {
			t.Errorf("what is written has a cycle: %s", cycle)
		}
		for _, name := range []string{"shared-setup", "c"} {
			if !slices.ContainsFunc(p.Workers, func(w Worker) bool { return w.Service == name }) {
				t.Errorf("%s is left out: %v", name, p.Problems)
			}
		}
	})
}
