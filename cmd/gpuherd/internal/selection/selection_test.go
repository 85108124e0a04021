package selection

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var herd = []string{
	"shared-setup.service",
	"redis-worker@10.service",
	"redis-worker@2.service",
	"redis-worker@0.service",
	"redis-worker@0.2.service",
	"redis-worker@0:1.service",
	"redis-worker@1.service",
	"comfyui@0.service",
	"hello-world.service",
	"gpuherd-monitor.service",
}

func TestSelect(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		words []string
		want  []string
	}{
		{[]string{"all"}, []string{"comfyui@0", "hello-world", "redis-worker@0", "redis-worker@0.2", "redis-worker@0:1", "redis-worker@1", "redis-worker@2", "redis-worker@10"}},
		{[]string{"0"}, []string{"comfyui@0", "redis-worker@0"}},
		{[]string{"0.2"}, []string{"redis-worker@0.2"}},
		{[]string{"0:1"}, []string{"redis-worker@0:1"}},
		{[]string{"0-3"}, []string{"comfyui@0", "redis-worker@0", "redis-worker@1", "redis-worker@2"}},
		{[]string{"2-10"}, []string{"redis-worker@2", "redis-worker@10"}},
		{[]string{"1-1"}, []string{"redis-worker@1"}},
		{[]string{"redis-worker"}, []string{"redis-worker@0", "redis-worker@0.2", "redis-worker@0:1", "redis-worker@1", "redis-worker@2", "redis-worker@10"}},
		{[]string{"hello-world"}, []string{"hello-world"}},
		{[]string{"hello-world.service"}, []string{"hello-world"}},
		{[]string{"redis-worker@10"}, []string{"redis-worker@10"}},
		{[]string{"redis-worker@10.service"}, []string{"redis-worker@10"}},
		{[]string{"redis-worker@*"}, []string{"redis-worker@0", "redis-worker@0.2", "redis-worker@0:1", "redis-worker@1", "redis-worker@2", "redis-worker@10"}},
		{[]string{"*@0"}, []string{"comfyui@0", "redis-worker@0"}},
		{[]string{"*.service"}, []string{"comfyui@0", "gpuherd-monitor", "hello-world", "redis-worker@0", "redis-worker@0.2", "redis-worker@0:1", "redis-worker@1", "redis-worker@2", "redis-worker@10", "shared-setup"}},
		{[]string{"redis-worker@[12]"}, []string{"redis-worker@1", "redis-worker@2"}},
		{[]string{"gpuherd-monitor"}, []string{"gpuherd-monitor"}},
		{[]string{"1", "hello-world", "redis-worker@1", "0-1"}, []string{"comfyui@0", "hello-world", "redis-worker@0", "redis-worker@1"}},
		{nil, nil},
	} {
		t.Run(strings.Join(tc.words, " "), func(t *testing.T) {
			t.Parallel()
			got, err := Select(herd, tc.words)
			if err != nil {
				t.Fatal(err)
			}
			var short []string
			for _, unit := range got {
				short = append(short, Short(unit))
			}
			if diff := cmp.Diff(tc.want, short); diff != "" {
				t.Errorf("Select(%q) (-want +got):\n%s", tc.words, diff)
			}
		})
	}
}

func TestSelectRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		word string
		herd []string
		want string
	}{
		{"7", herd, `nothing here is called "7"; there is comfyui (0), gpuherd-monitor, hello-world, redis-worker (0, 0.2, 0:1, 1, 2, 10), shared-setup, or all`},
		{"00", []string{"a@0.service"}, `nothing here is called "00"; there is a (0), or all`},
		{"20-30", []string{"a@0.service"}, `nothing here is called "20-30"; there is a (0), or all`},
		{"redis-wroker", []string{"redis-worker@0.service"}, `nothing here is called "redis-wroker", did you mean "redis-worker"?; there is redis-worker (0), or all`},
		{"3-0", herd, `range "3-0" runs backwards; write the lower GPU first`},
		{"a[", herd, `pattern "a[": syntax error in pattern`},
		{"", herd, `nothing here is called ""; there is comfyui (0), gpuherd-monitor, hello-world, redis-worker (0, 0.2, 0:1, 1, 2, 10), shared-setup, or all`},
		{"0", nil, "nothing here is called \"0\": the herd is empty; `gpuherd explain` says why"},
		{"all", []string{"shared-setup.service"}, `nothing here is called "all"; there is shared-setup, or all`},
	} {
		t.Run(tc.word, func(t *testing.T) {
			t.Parallel()
			got, err := Select(tc.herd, []string{tc.word})
			if err == nil {
				t.Fatalf("Select(%q) = %q, want an error", tc.word, got)
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		words []string
		want  []string
		ok    bool
	}{
		{[]string{"0", "0:1"}, []string{"*@0.service", "*@0:1.service"}, true},
		{[]string{"0-2"}, []string{"*@0.service", "*@1.service", "*@2.service"}, true},
		{[]string{"redis-worker"}, []string{"redis-worker.service", "redis-worker@*.service"}, true},
		{[]string{"redis-worker@1", "a.service", "b*"}, []string{"redis-worker@1.service", "a.service", "b*.service"}, true},
		{[]string{"all"}, nil, false},
		{[]string{"3-1"}, nil, false},
	} {
		got, ok := Patterns(tc.words)
		if diff := cmp.Diff(tc.want, got); diff != "" || ok != tc.ok {
			t.Errorf("Patterns(%q) ok=%v (-want +got):\n%s", tc.words, ok, diff)
		}
	}
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	got := Workers([]string{"shared-setup.service", "b@1.service", "gpuherd-monitor.service", "b@0.service"})
	if diff := cmp.Diff([]string{"b@0.service", "b@1.service"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
