package resources

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gpuherd/monitor/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lay writes files, by path below root.
func lay(t testing.TB, root, dir string, files map[string]string) {
	t.Helper()
	dir = filepath.Join(root, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const pressure = "some avg10=1.50 avg60=0.10 avg300=0.00 total=123456\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=789\n"

func TestRead(t *testing.T) {
	t.Parallel()
	n := func(v uint64) *uint64 { return &v }
	stalls := &Stalls{Some: Stall{1.5, 123456}, Full: Stall{0.25, 789}}
	root := t.TempDir()
	v2 := func(group string, files map[string]string) { lay(t, root, mountV2+"/"+group, files) }
	v2("g/full", map[string]string{
		"cgroup.events": "populated 1\n", "memory.current": "4096\n", "memory.peak": "8192\n", "memory.max": "2147483648\n",
		"memory.events": "low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n",
		"cpu.stat":      "usage_usec 1500\nuser_usec 1000\n", "pids.current": "7\n",
		"memory.pressure": pressure, "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n", "io.pressure": pressure,
	})
	v2("g/unlimited", map[string]string{"cgroup.events": "", "memory.current": "4096\n", "memory.max": "max\n", "cpu.stat": "user_usec 5\n"})
	v2("g/odd", map[string]string{"cgroup.events": "", "memory.current": "many\n"})
	v2("g/oddpressure", map[string]string{"cgroup.events": "", "memory.pressure": "some avg10=NaN total=1\n"})
	v2("g/folder", map[string]string{"tasks": ""})
	v2("g/file", map[string]string{"cgroup.events": ""})
	lay(t, root, mountV2+"/g/file/memory.current", nil) // cannot be read
	lay(t, root, mountMemory+"/g/v1", map[string]string{
		"memory.usage_in_bytes": "4096\n", "memory.max_usage_in_bytes": "8192\n", "memory.limit_in_bytes": "2147483648\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "memory.failcnt": "9\n",
	})
	lay(t, root, mountCPUAcct+"/g/v1", map[string]string{"cpuacct.usage": "1500000\n"})
	lay(t, root, mountPIDs+"/g/v1", map[string]string{"pids.current": "7\n"})
	lay(t, root, mountMemory+"/g/v1unlimited", map[string]string{"memory.limit_in_bytes": "9223372036854771712\n"})
	for _, tt := range []struct {
		group string
		want  Usage
		err   string
	}{
		{"/g/full", Usage{
			Version: V2, MemoryBytes: n(4096), MemoryPeakBytes: n(8192), MemoryMaxBytes: n(2147483648), CPUNS: n(1_500_000),
			Tasks: n(7), OOMKills: n(1), LimitHits: n(17),
			Pressure: Pressure{Memory: stalls, CPU: &Stalls{Some: Stall{0, 5}}, IO: stalls},
		}, ""},
		{"/g/unlimited", Usage{Version: V2, MemoryBytes: n(4096)}, ""},
		{"/g/v1", Usage{
			Version: V1, MemoryBytes: n(4096), MemoryPeakBytes: n(8192), MemoryMaxBytes: n(2147483648), CPUNS: n(1_500_000),
			Tasks: n(7), OOMKills: n(3), LimitHits: n(9),
		}, ""},
		{"/g/v1unlimited", Usage{Version: V1}, ""},
		{"/g/odd", Usage{}, "g/odd/memory.current"},
		{"/g/oddpressure", Usage{}, "no percentage"},
		{"/g/file", Usage{}, "is a directory"},
		{"/g/folder", Usage{}, ErrNotAvailable.Error()},
		{"/g/gone", Usage{}, ErrNotAvailable.Error()},
		{"", Usage{}, ErrNotAvailable.Error()},
		{"g/full", Usage{}, ErrNotAvailable.Error()},
		{"/g/../g/full", Usage{}, ErrNotAvailable.Error()},
	} {
		got, err := Read(root, tt.group)
		switch {
		case (err != nil) != (tt.err != ""):
			t.Errorf("%q: error %v, want %q", tt.group, err, tt.err)
		case err != nil && !strings.Contains(err.Error(), tt.err):
			t.Errorf("%q: error %v, want %q", tt.group, err, tt.err)
		case errors.Is(err, ErrNotAvailable) != (tt.err == ErrNotAvailable.Error()):
			t.Errorf("%q: error %v: not available?", tt.group, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.group, diff)
		}
		if err != nil {
			continue
		}
		brief := Usage{Version: tt.want.Version, MemoryBytes: tt.want.MemoryBytes, MemoryMaxBytes: tt.want.MemoryMaxBytes, CPUNS: tt.want.CPUNS}
		got, err = Glance(root, tt.group)
		if err != nil {
			t.Errorf("glance at %q: %v", tt.group, err)
		}
		if diff := cmp.Diff(brief, got); diff != "" {
			t.Errorf("glance at %q (-want +got):\n%s", tt.group, diff)
		}
	}
}

func FuzzStalls(f *testing.F) {
	f.Add([]byte(pressure))
	f.Add([]byte("some avg10=-0 total=18446744073709551616"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseStalls(data)
		if err != nil {
			return
		}
		for _, l := range []Stall{s.Some, s.Full} {
			if !(l.Avg10 >= 0 && l.Avg10 <= 100) {
				t.Errorf("%q: %v%%", data, l.Avg10)
			}
		}
	})
}

func TestSampler(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	memory := mountV2 + "/g/a.service"
	lay(t, root, memory, map[string]string{"cgroup.events": "", "memory.current": "1\n"})
	current, err := os.OpenFile(filepath.Join(root, memory, "memory.current"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer current.Close()
	changed := make(chan state.Delta, 100)
	herd := state.NewHerd(func(d state.Delta) { changed <- d }, time.Now)
	herd.Sync([]state.Observation{
		{Name: "a.service", Active: "active", ControlGroup: "/g/a.service"},
		{Name: "b.service", Active: "inactive"},
	}, "connected")
	<-changed
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &Sampler{Root: root, Every: time.Millisecond, Herd: herd, Log: slog.New(slog.DiscardHandler)}
	if len(s.Samples()) != 0 {
		t.Error("there are samples before the first")
	}
	go func() { done <- s.Run(ctx) }()
	for _, want := range []uint64{1, 2} {
		select {
		case d := <-changed:
			if len(d.Units) != 1 || *d.Units[0].MemoryBytes != want || len(d.Events) != 0 {
				t.Errorf("told %+v, want %d bytes", d, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was told")
		}
		if got := s.Samples(); got["a.service"].Version != V2 || !errors.Is(got["b.service"].Err, ErrNotAvailable) {
			t.Errorf("samples are %+v", got)
		}
		// In its place, as the kernel does, and never empty.
		if _, err := current.WriteAt([]byte("2"), 0); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// At rest only those files are read that herds are watched by; the others where
// somebody asks, and now and then.
func TestLiveFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	lay(t, root, mountV2+"/g", map[string]string{"cgroup.events": "", "memory.current": "1\n", "memory.peak": "1\n", "cpu.stat": "usage_usec 1\n", "pids.current": "1\n"})
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, mountV2, "g", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := newReader(root, 1)
	defer r.close()
	want := func(when string, memory, peak, cpuNS, tasks uint64) {
		t.Helper()
		u, err := r.usage("/g")
		if err != nil {
			t.Fatal(err)
		}
		got := []uint64{*u.MemoryBytes, *u.MemoryPeakBytes, *u.CPUNS, *u.Tasks}
		if diff := cmp.Diff([]uint64{memory, peak, cpuNS, tasks}, got); diff != "" {
			t.Errorf("%s: memory, its peak, CPU, tasks (-want +got):\n%s", when, diff)
		}
	}
	want("first", 1, 1, 1000, 1)
	for name, text := range map[string]string{"memory.current": "5\n", "memory.peak": "7\n", "cpu.stat": "usage_usec 2\n", "pids.current": "3\n"} {
		write(name, text)
	}
	want("at rest", 5, 5, 2000, 1)
	r.all = true
	want("asked for", 5, 7, 2000, 3)
	r.all = false
	write("pids.current", "4\n")
	for range lookAgain - 3 {
		want("at rest", 5, 7, 2000, 3)
	}
	want("now and then", 5, 7, 2000, 4)
}

// Figures of the kernel itself, where this machine lets a test make a control
// group.
func TestKernel(t *testing.T) {
	t.Parallel()
	name := "/" + strings.ReplaceAll(filepath.Base(t.TempDir()), "/", "") + "-gpuherd-test"
	create := func(mount string) bool {
		dir := "/" + mount + name
		if _, err := os.Stat(filepath.Dir(dir)); err != nil || os.Mkdir(dir, 0o755) != nil {
			return false
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		return true
	}
	present := cmp.Comparer(func(a, b *uint64) bool { return (a == nil) == (b == nil) })
	some := new(uint64)
	t.Run(V1, func(t *testing.T) {
		if !create(mountMemory) || !create(mountCPUAcct) || !create(mountPIDs) {
			t.Skip("no cgroup v1 here that a test may write to")
		}
		got, err := Read("/", name)
		if err != nil {
			t.Fatal(err)
		}
		want := Usage{Version: V1, MemoryBytes: some, MemoryPeakBytes: some, CPUNS: some, Tasks: some, OOMKills: some, LimitHits: some}
		if diff := cmp.Diff(want, got, present); diff != "" {
			t.Errorf("figures (-want +got):\n%s", diff)
		}
		again(t, "/", name, "/"+mountMemory+name, "/"+mountCPUAcct+name, "/"+mountPIDs+name)
	})
	t.Run(V2, func(t *testing.T) {
		root, mount := "/", mountV2
		if _, err := os.Stat("/" + mountV2 + "/unified/cgroup.controllers"); err == nil { // systemd's hybrid form
			mount, root = mountV2+"/unified", t.TempDir()
			lay(t, root, "sys/fs", nil)
			if err := os.Symlink("/"+mount, filepath.Join(root, mountV2)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat("/" + mount + "/cgroup.controllers"); err != nil || !create(mount) {
			t.Skip("no cgroup v2 here that a test may write to")
		}
		got, err := Read(root, name)
		if err != nil {
			t.Fatal(err)
		}
		// Which controllers there are is the machine's affair; CPU time and
		// pressure need none.
		if got.Version != V2 || got.CPUNS == nil {
			t.Errorf("figures are %+v", got)
		}
		if _, err := os.Stat("/proc/pressure/cpu"); err == nil {
			if got.Pressure.CPU == nil || got.Pressure.Memory == nil || got.Pressure.IO == nil {
				t.Errorf("pressure is %+v", got.Pressure)
			}
		}
		again(t, root, name, "/"+mount+name)
	})
}

// again removes a control group that is kept open and makes it anew, as a
// restarted unit does.
func again(t *testing.T, root, name string, dirs ...string) {
	t.Helper()
	r := newReader(root, 1)
	defer r.close()
	want := func(what string, err error) {
		t.Helper()
		if _, got := r.usage(name); !errors.Is(got, err) {
			t.Errorf("%s: error %v, want %v", what, got, err)
		}
	}
	want("first", nil)
	want("kept", nil)
	for _, step := range []struct {
		name string
		do   func(string) error
		err  error
	}{
		{"removed", os.Remove, ErrNotAvailable},
		{"made anew", func(d string) error { return os.Mkdir(d, 0o755) }, nil},
		{"removed and made anew", func(d string) error { return errors.Join(os.Remove(d), os.Mkdir(d, 0o755)) }, nil},
	} {
		for _, d := range dirs {
			if err := step.do(d); err != nil {
				t.Fatal(err)
			}
		}
		want(step.name, step.err)
	}
}

// A reader keeps no more files open than it was told, and none in the end.
func TestFilesStayFew(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		lay(t, root, mountV2+"/"+name, map[string]string{"cgroup.events": "", "memory.current": "1\n"})
	}
	r := newReader(root, 2)
	read := func(names ...string) {
		for range 2 {
			asked := map[string]bool{}
			for _, name := range names {
				asked[name] = true
				if u, err := r.usage(name); err != nil || *u.MemoryBytes != 1 {
					t.Errorf("%s: %+v, %v", name, u, err)
				}
			}
			r.only(asked)
		}
	}
	for _, names := range [][]string{{"/a", "/b", "/c"}, {"/c"}, {"/a", "/c"}} {
		read(names...)
		if want := min(2, len(names)); len(r.kept) != want {
			t.Errorf("%d groups are kept of %q, want %d", len(r.kept), names, want)
		}
	}
	r.close()
	if len(r.kept) != 0 {
		t.Errorf("%d groups stayed open", len(r.kept))
	}
	if affordable() < 10 {
		t.Errorf("can afford only %d groups", affordable())
	}
}

// What a Sampler costs, every 5 s, with 256 units.
func BenchmarkSample(b *testing.B) {
	root := b.TempDir()
	groups := fixed{}
	for i := range 256 {
		name := "w" + string(rune('a'+i/16)) + string(rune('a'+i%16)) + ".service"
		lay(b, root, mountV2+"/gpuherd.slice/"+name, map[string]string{
			"cgroup.events": "populated 1\n", "memory.current": "4096\n", "memory.peak": "8192\n", "memory.max": "2147483648\n",
			"memory.events": "low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\n", "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
			"pids.current": "7\n", "memory.pressure": pressure, "cpu.pressure": pressure, "io.pressure": pressure,
		})
		groups[name] = state.ControlGroup{Path: "/gpuherd.slice/" + name}
	}
	s := &Sampler{Root: root, Herd: groups, Log: slog.New(slog.DiscardHandler)}
	r := newReader(root, 256)
	defer r.close()
	b.ReportAllocs()
	for b.Loop() {
		s.sample(r)
	}
}

// A unit that does nothing is read less often, until it does something, begins
// anew or somebody asks.
func TestQuietUnits(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	lay(t, root, mountV2+"/g", map[string]string{"cgroup.events": "", "memory.current": "1000\n", "cpu.stat": "usage_usec 1\n"})
	herd := fixed{"a.service": {Path: "/g", Invocation: "1"}}
	s := &Sampler{Root: root, Herd: herd, Log: slog.New(slog.DiscardHandler)}
	r := newReader(root, 1)
	defer r.close()
	// looks counts the looks until one sees the memory as it is now.
	looks := func(memory string) (n int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, mountV2, "g/memory.current"), []byte(memory), 0o644); err != nil {
			t.Fatal(err)
		}
		want, err := strconv.ParseUint(memory, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for n = 1; n < 100; n++ {
			s.sample(r)
			if got := s.samples()["a.service"].MemoryBytes; got != nil && *got == want {
				return n
			}
		}
		t.Fatalf("%s bytes are never seen", memory)
		return 0
	}
	rest := func() {
		t.Helper()
		for s.quiet["a.service"] < restAfter || s.looks%restEvery != 0 {
			s.sample(r)
		}
	}
	rest()
	if n := looks("2000"); n != restEvery {
		t.Errorf("of a unit at rest look %d sees a change, want %d", n, restEvery)
	}
	if n := looks("3000"); n != 1 {
		t.Errorf("of a unit at work look %d sees a change, want the next", n)
	}
	rest()
	herd["a.service"] = state.ControlGroup{Path: "/g", Invocation: "2"}
	if n := looks("2500"); n != 1 {
		t.Errorf("of a unit that began anew look %d sees a change, want the next", n)
	}
	rest()
	s.Samples()
	for i, memory := range []string{"3500", "3501", "3502"} {
		if n := looks(memory); n != 1 {
			t.Errorf("%d looks after somebody asked look %d sees a change, want the next", i, n)
		}
	}
	for range askedFor {
		s.sample(r)
	}
	rest()
	if n := looks("3600"); n != restEvery {
		t.Errorf("long after somebody asked look %d sees a change, want %d", n, restEvery)
	}
}

// fixed is a herd that does not change.
type fixed map[string]state.ControlGroup

func (f fixed) ControlGroups() map[string]state.ControlGroup { return f }
func (f fixed) Use(map[string]state.Figures)                 {}

// A controller that is switched on later is noticed, without looking for its
// files each time.
func TestSwitchedOnLater(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	lay(t, root, mountV2+"/g", map[string]string{"cgroup.events": ""})
	r := newReader(root, 1)
	t.Cleanup(r.close)
	for i := range 1 + lookAgain {
		u, err := r.usage("/g")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := u.Tasks != nil, i == lookAgain; got != want {
			t.Fatalf("reading %d has the tasks: %v, want %v", i, got, want)
		}
		if i == 0 {
			lay(t, root, mountV2+"/g", map[string]string{"pids.current": "7\n"})
		}
	}
}
