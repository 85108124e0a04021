//go:build acceptance

package acceptance

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gpuherd/generator/gpu"
)

// A machine booted with two simulated GPUs has two workers and no failure.
func TestBoot(t *testing.T) {
	h := open(t)
	if setup := h.mustUnit(setupUnit); setup.Active != "active" || setup.Sub != "exited" {
		t.Errorf("%s is %s/%s, want active/exited", setupUnit, setup.Active, setup.Sub)
	}
	if n := starts(t, setupUnit); n != 1 {
		t.Errorf("%s was started %d times in this boot, want once", setupUnit, n)
	}
	want := []string{"redis-worker@0.service", "redis-worker@1.service"}
	if got := h.workers(); !slices.Equal(got, want) {
		t.Fatalf("workers are %v, want %v", got, want)
	}
	for _, name := range want {
		u := h.mustUnit(name)
		if u.Active != "active" || u.Sub != "running" || u.Restarts != 0 {
			t.Errorf("%s is %s/%s after %d restarts, want active/running after none", name, u.Active, u.Sub, u.Restarts)
		}
	}
	if failed := h.failed(); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
	if state, err := h.conn.GetManagerProperty("SystemState"); err != nil || state != `"running"` {
		t.Errorf("the system is %s (%v), want running", state, err)
	}
}

// A login, or whatever else comes after the boot, waits for no unit of ours,
// however long setup takes or Redis is away: not for the target, and not for
// what it wants.
func TestNothingWaitsForTheHerd(t *testing.T) {
	h := open(t)
	before := map[string]string{} // unit → one that waits for it
	for next := []string{"multi-user.target"}; len(next) > 0; next = next[1:] {
		property, err := h.conn.GetUnitPropertyContext(t.Context(), next[0], "After")
		if err != nil {
			t.Fatal(err)
		}
		after, _ := property.Value.Value().([]string)
		for _, name := range after {
			if _, known := before[name]; !known {
				before[name] = next[0]
				next = append(next, name)
			}
		}
	}
	if before["basic.target"] == "" || before[redisUnit] == "" {
		t.Fatalf("multi-user.target waits for %v: neither for basic.target nor for %s", before, redisUnit)
	}
	names, err := h.herd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, target, setupUnit, monitorUnit, pathUnit, rescanUnit, verifyUnit, "gpuherd-verify.timer", "gpuherd-up.service") {
		if waits, ok := before[name]; ok {
			t.Errorf("%s waits for %s", waits, name)
		}
	}
}

// A Redis of this machine starts before those who need it, and stops after them,
// so that a shutdown is told to it.
func TestRedisOutlivesTheHerd(t *testing.T) {
	h := open(t)
	for _, name := range append(h.workers(), monitorUnit) {
		property, err := h.conn.GetUnitPropertyContext(t.Context(), name, "After")
		if err != nil {
			t.Fatal(err)
		}
		if after, _ := property.Value.Value().([]string); !slices.Contains(after, redisUnit) {
			t.Errorf("%s is not After=%s: %v", name, redisUnit, after)
		}
	}
}

// The drop-in that binds a worker to its GPU shows where an administrator
// looks for it.
func TestDropInShows(t *testing.T) {
	open(t)
	stdout, stderr, status := run(t, "systemctl", "cat", "--no-pager", "redis-worker@0.service")
	if status != 0 || !strings.Contains(stdout, "redis-worker@0.service.d/50-gpu.conf") || !strings.Contains(stdout, "GPU_INDEX=0") {
		t.Errorf("systemctl cat ended with %d and shows no drop-in for GPU 0:\n%s%s", status, stdout, stderr)
	}
}

// systemd has nothing to complain of in any unit of ours, generated or not.
func TestUnitsVerify(t *testing.T) {
	h := open(t)
	names, err := h.herd()
	if err != nil {
		t.Fatal(err)
	}
	// By default it leaves out what generators made; an empty last part
	// stands for the default path.
	t.Setenv("SYSTEMD_UNIT_PATH", generatorDir+":")
	// It returns 0 on unknown keys, so that only silence is success.
	args := append([]string{"verify", "--man=no", target, "gpuherd.slice", monitorUnit, pathUnit, rescanUnit,
		"gpuherd-up.service", verifyUnit, "gpuherd-verify.timer"}, names...)
	stdout, stderr, status := run(t, "systemd-analyze", args...)
	if status != 0 || stdout+stderr != "" {
		t.Errorf("systemd-analyze verify ended with %d and says:\n%s%s", status, stdout, stderr)
	}
}

// Redis has the GPUs that setup wrote down in this boot. In a container the
// monitor once saw the boot id of the host, because systemd 252 gives a unit
// with ProtectKernelTunables= and the like a /proc of its own, and took the
// inventory for another boot's.
func TestGPUsAreTold(t *testing.T) {
	h := open(t)
	inventory, err := gpu.ReadInventory("/")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, g := range inventory.GPUs {
		want[strconv.Itoa(g.Index)] = g.UUID
	}
	if len(want) < 2 {
		t.Fatalf("the inventory has %v", inventory.GPUs)
	}
	eventually(t, "the GPUs in Redis", func() error {
		got, err := h.redis.gpus()
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("Redis has %v, want %v", got, want)
		}
		return err
	})
	beat, err := h.redis.heartbeat()
	if err != nil || beat.BootID != inventory.BootID {
		t.Errorf("the heartbeat is of boot %s (%v), want %s", beat.BootID, err, inventory.BootID)
	}
}

// A container's variables, given on its command line, decide what runs.
func TestContainer(t *testing.T) {
	h := open(t)
	want := []string{"redis-worker@0.service", "redis-worker@1.service", "redis-worker@2.service"}
	if got := h.workers(); !slices.Equal(got, want) {
		t.Fatalf("workers are %v, want %v", got, want)
	}
	for _, name := range want {
		environment := processEnvironment(t, h.mustUnit(name).PID)
		if got, want := environment["WORKER_ID"], "box-gpu"+instance(name); got != want {
			t.Errorf("%s has WORKER_ID=%q, want %q", name, got, want)
		}
		if got := environment["GPU_INDEX"]; got != instance(name) {
			t.Errorf("%s has GPU_INDEX=%q", name, got)
		}
	}
	if u := h.mustUnit("hello-world.service"); u.Active != "active" || u.Sub != "running" {
		t.Errorf("hello-world is %s/%s, want active/running", u.Active, u.Sub)
	}
}

// ENABLE_REDIS_WORKER=false leaves no worker, and explain says why.
func TestWorkersOff(t *testing.T) {
	h := open(t)
	names, err := h.herd()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "redis-worker@") }) {
		t.Errorf("the herd is %v, want no worker", names)
	}
	units, err := h.conn.ListUnitsByPatternsContext(t.Context(), nil, []string{"redis-worker@*"})
	if err != nil || len(units) > 0 {
		t.Errorf("systemd has %v (%v), want no worker", units, err)
	}
	stdout, stderr, status := run(t, "gpuherd", "explain")
	explained := slices.ContainsFunc(strings.Split(stdout, "\n"), func(line string) bool {
		return strings.Contains(line, "redis-worker") && strings.Contains(line, "ENABLE_REDIS_WORKER")
	})
	if status != 0 || !explained {
		t.Errorf("gpuherd explain ended with %d and does not say why:\n%s%s", status, stdout, stderr)
	}
}

// starts counts how often systemd finished starting a unit in this boot.
func starts(t *testing.T, unit string) int {
	t.Helper()
	// SD_MESSAGE_UNIT_STARTED of sd-messages.h.
	const started = "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"
	stdout, stderr, status := run(t, "journalctl", "--boot", "--output=cat", "--no-pager", started, "UNIT="+unit)
	if status != 0 {
		t.Fatalf("journalctl ended with %d: %s", status, stderr)
	}
	return strings.Count(stdout, "\n")
}

func processEnvironment(t *testing.T, pid uint32) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	environment := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(bytes.ReplaceAll(data, []byte{0}, []byte{'\n'})))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		environment[name] = value
	}
	return environment
}
