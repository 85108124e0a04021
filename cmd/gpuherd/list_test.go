package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gpuherd/cmd/gpuherd/internal/terminal"
	"gpuherd/generator/gpu"
	"gpuherd/monitor/state"
)

var now = time.UnixMilli(1_700_000_000_000)

func ptr[T any](v T) *T { return &v }

// observed are the kinds of row that a list can have.
func observed() []state.Observation {
	ago := func(d time.Duration) uint64 { return uint64(now.Add(-d).UnixMicro()) }
	return []state.Observation{
		{
			Name: "hello-world.service", Active: "active", Sub: "running", Result: "success", MainPID: 7,
			ChangedUS: ago(90 * time.Second), Memory: ptr(uint64(3 << 20)),
		},
		{
			Name: "redis-worker@0.service", Active: "active", Sub: "running", Result: "success", MainPID: 10,
			ChangedUS: ago(76 * time.Hour), StatusText: "job job-1: 40%", InvocationID: strings.Repeat("a", 32),
			Memory: ptr(uint64(312 << 20)), MemoryMax: ptr(uint64(2 << 30)), CPUNS: ptr(uint64(38 * time.Hour)),
		},
		{
			Name: "redis-worker@0:1.2.service", Active: "active", Sub: "running", Result: "success", MainPID: 11,
			ChangedUS: ago(5 * time.Second), StatusText: "\x1b[2J\x1b]0;owned\x07idle", NRestarts: 3,
			Memory: ptr(uint64(1900 << 20)), MemoryMax: ptr(uint64(2 << 30)), CPUNS: ptr(uint64(0)),
		},
		{
			Name: "redis-worker@1.service", Active: "failed", Sub: "failed", Result: "exit-code",
			ExecMainCode: 1, ExecMainStatus: 203, ChangedUS: ago(time.Hour), NRestarts: 12, MemoryMax: ptr(uint64(2 << 30)),
		},
		{
			Name: "redis-worker@2.service", Active: "activating", Sub: "auto-restart", Result: "oom-kill",
			ExecMainCode: 2, ExecMainStatus: 9, ChangedUS: ago(time.Second), NRestarts: 1,
		},
		{Name: "redis-worker@3.service", Active: "inactive", Sub: "dead", Result: "success"},
	}
}

func workers(inventory *gpu.Inventory) []worker {
	a := newApp()
	a.now = func() time.Time { return now }
	var ws []worker
	for _, o := range observed() {
		ws = append(ws, a.observed(o, inventory))
	}
	return ws
}

func TestListTable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		screen terminal.Screen
		want   string
	}{
		{"piped", terminal.Screen{}, `
UNIT                GPU  STATE                    UPTIME  RESTARTS  MEMORY/LIMIT  CPU  STATUS
hello-world         -    active/running            1m30s         0          3M/-    -
redis-worker@0      0    active/running             3d4h         0       312M/2G  50%  job job-1: 40%
redis-worker@0:1.2  0:1  active/running               5s         3     1.855G/2G   0%  \x1b[2J\x1b]0;owned\x07idle
redis-worker@1      1    failed/failed                 -        12          -/2G    -  exit-code, status 203
redis-worker@2      2    activating/auto-restart       -         1             -    -  oom-kill
redis-worker@3      3    inactive/dead                 -         0             -    -
`},
		{"80 columns", terminal.Screen{Terminal: true, Width: 80}, `
UNIT                GPU  STATE                    UPTIME  RESTARTS  MEMORY/LIMIT
hello-world         -    active/running            1m30s         0          3M/-
redis-worker@0      0    active/running             3d4h         0       312M/2G
redis-worker@0:1.2  0:1  active/running               5s         3     1.855G/2G
redis-worker@1      1    failed/failed                 -        12          -/2G
redis-worker@2      2    activating/auto-restart       -         1             -
redis-worker@3      3    inactive/dead                 -         0             -
`},
		{"100 columns", terminal.Screen{Terminal: true, Width: 100}, `
UNIT                GPU  STATE                    UPTIME  RESTARTS  MEMORY/LIMIT  CPU  STATUS
hello-world         -    active/running            1m30s         0          3M/-    -
redis-worker@0      0    active/running             3d4h         0       312M/2G  50%  job job-1: 4…
redis-worker@0:1.2  0:1  active/running               5s         3     1.855G/2G   0%  \x1b[2J\x1b]…
redis-worker@1      1    failed/failed                 -        12          -/2G    -  exit-code, s…
redis-worker@2      2    activating/auto-restart       -         1             -    -  oom-kill
redis-worker@3      3    inactive/dead                 -         0             -    -
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			if err := listTable(workers(nil)).Write(&b, tc.screen); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestListColoursAreOfOurs(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := listTable(workers(nil)).Write(&b, terminal.Screen{Terminal: true, Width: 200, Color: true}); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, want := range []string{"\x1b[32mactive/running\x1b[0m", "\x1b[31mfailed/failed\x1b[0m", "\x1b[33mactivating/auto-restart\x1b[0m"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if strings.Contains(out, "\x1b[2J") || strings.Contains(out, "\x07") {
		t.Errorf("a worker's escape sequence reached the terminal: %q", out)
	}
}

func TestListJSON(t *testing.T) {
	t.Parallel()
	inventory := &gpu.Inventory{GPUs: []gpu.GPU{{
		Index: 0, Name: "NVIDIA H100", UUID: "GPU-1",
		MIG: []gpu.MIG{{Index: 1, UUID: "MIG-1", Profile: "1g.10gb"}},
	}}}
	var b bytes.Buffer
	a := &app{stdout: &output{Writer: &b}}
	if err := a.printJSON(workers(inventory)[1:3]); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{
			"unit": "redis-worker@0.service", "service": "redis-worker", "instance": "0", "gpu": 0.0,
			"active": "active", "sub": "running", "result": "success", "pid": 10.0, "restarts": 0.0,
			"invocation_id": strings.Repeat("a", 32), "since_ms": 1.7e12 - 76*3600e3, "exit_status": 0.0,
			"status_text": "job job-1: 40%", "memory_bytes": 312.0 * (1 << 20), "memory_max_bytes": 2.0 * (1 << 30),
			"cpu_ns": 38 * 3600e9, "seq": 0.0, "uptime_ms": 76 * 3600e3, "cpu_percent": 50.0,
			"gpu_name": "NVIDIA H100", "gpu_uuid": "GPU-1",
		},
		{
			"unit": "redis-worker@0:1.2.service", "service": "redis-worker", "instance": "0:1.2", "gpu": 0.0,
			"active": "active", "sub": "running", "result": "success", "pid": 11.0, "restarts": 3.0,
			"invocation_id": "", "since_ms": 1.7e12 - 5000, "exit_status": 0.0,
			"status_text": "\x1b[2J\x1b]0;owned\x07idle", "memory_bytes": 1900.0 * (1 << 20), "memory_max_bytes": 2.0 * (1 << 30),
			"cpu_ns": 0.0, "seq": 0.0, "uptime_ms": 5000.0, "cpu_percent": 0.0,
			"gpu_name": "NVIDIA H100 MIG 1g.10gb", "gpu_uuid": "MIG-1",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if bytes.ContainsAny(b.Bytes(), "\x1b\x07") {
		t.Errorf("control characters in %q", b.String())
	}
}
