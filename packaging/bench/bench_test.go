package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, c := range []struct {
		values []time.Duration
		p      int
		want   time.Duration
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1},
		{hundred[:1], 99, 100}, {hundred[:2], 50, 99}, {nil, 50, 0},
	} {
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("percentile %d of %d values is %d, want %d", c.p, len(c.values), got, c.want)
		}
	}
}

func TestMedianRatioTakesPairs(t *testing.T) {
	t.Parallel()
	// The machine was slow for the second pair: that says nothing.
	ours, theirs := []time.Duration{2, 200, 3}, []time.Duration{1, 100, 1}
	if got := medianRatio(ours, theirs); got != 2 {
		t.Errorf("ratio is %g, want 2", got)
	}
}

func TestMedianDifferenceTakesPairs(t *testing.T) {
	t.Parallel()
	ours, theirs := []time.Duration{12, 250, 9}, []time.Duration{10, 200, 10}
	if got := medianDifference(ours, theirs); got != 2 {
		t.Errorf("difference is %d, want 2", got)
	}
}

func TestFigureMeetsItsGoal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f    figure
		want string
	}{
		{figure{Value: 1.5, Goal: 1.5}, "≤ 1.5: met"},
		{figure{Value: 1.51, Goal: 1.5}, "≤ 1.5: MISSED"},
		{figure{Value: 7}, ""},
	} {
		if got := c.f.met(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.f, got, c.want)
		}
	}
}

func TestOwnMemoryAndNamespace(t *testing.T) {
	t.Parallel()
	pid := os.Getpid()
	m, err := readMemory(pid)
	if err != nil || m.Rss < 1 || m.Pss <= 0 || m.Pss > m.Rss {
		t.Errorf("memory is %+v (%v)", m, err)
	}
	inside, err := sameNamespace(pid)
	if err != nil {
		t.Fatal(err)
	}
	if inside[pid] == 0 {
		t.Errorf("process %d is not in its own namespace %v", pid, inside)
	}
}

// The machines that the generator is timed on have work for it.
func TestGeneratorHasWork(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "gpuherd-generator")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "gpuherd/cmd/gpuherd-generator").CombinedOutput(); err != nil {
		t.Fatalf("%s%v", text, err)
	}
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			tree, root, out := t.TempDir(), t.TempDir(), t.TempDir()
			services := filepath.Join(tree, "usr/lib/gpuherd")
			if err := os.MkdirAll(services, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(services, "services"), os.DirFS("../../units/services")); err != nil {
				t.Fatal(err)
			}
			if err := layMachine(root, tree, s); err != nil {
				t.Fatal(err)
			}
			if text, err := exec.CommandContext(t.Context(), program, "--root", root, out).CombinedOutput(); err != nil || len(text) > 0 {
				t.Fatalf("the generator says %q (%v)", text, err)
			}
			if err := wantInstances(out, s); err != nil {
				t.Error(err)
			}
		})
	}
}
