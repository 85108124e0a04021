package resources

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/monitor/state"
)

// group writes a control group's files below a new root.
func group(t *testing.T, root, name string, files map[string]string) {
	t.Helper()
	dir := filepath.Join(root, "sys/fs/cgroup", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	n := func(v uint64) *uint64 { return &v }
	root := t.TempDir()
	group(t, root, "g/full", map[string]string{"cgroup.events": "", "memory.current": "4096\n", "memory.peak": "8192\n",
		"memory.max": "2147483648\n", "cpu.stat": "usage_usec 1500\nuser_usec 1000\n"})
	group(t, root, "g/unlimited", map[string]string{"cgroup.events": "", "memory.current": "4096\n", "memory.max": "max\n", "cpu.stat": "user_usec 5\n"})
	group(t, root, "g/odd", map[string]string{"cgroup.events": "", "memory.current": "many\n"})
	group(t, root, "g/v1", map[string]string{"tasks": ""})
	for _, tt := range []struct {
		group     string
		want      Usage
		available bool
		fails     bool
	}{
		{"/g/full", Usage{n(4096), n(8192), n(2147483648), n(1_500_000)}, true, false},
		{"/g/unlimited", Usage{MemoryBytes: n(4096)}, true, false},
		{"/g/odd", Usage{}, true, true},
		{"/g/v1", Usage{}, false, true},
		{"/g/gone", Usage{}, false, true},
		{"", Usage{}, false, true},
		{"/g/../g/full", Usage{}, false, true},
	} {
		got, err := Read(root, tt.group)
		if (err != nil) != tt.fails || errors.Is(err, ErrNotAvailable) == tt.available {
			t.Errorf("%q: error %v", tt.group, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.group, diff)
		}
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	group(t, root, "g/a.service", map[string]string{"cgroup.events": "", "memory.current": "1\n"})
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
		// Replaced as a whole, so that no half-written file is read.
		group(t, root, "g/a.service", map[string]string{"next": "2\n"})
		if err := os.Rename(filepath.Join(root, "sys/fs/cgroup/g/a.service/next"), filepath.Join(root, "sys/fs/cgroup/g/a.service/memory.current")); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
