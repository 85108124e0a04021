//go:build acceptance

package acceptance

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An instance that nothing binds to a GPU is not started, and could open none.
// One may run on after its GPU left the configuration, and be killed: systemd
// 252 looks at the condition then, 257 does not.
func TestUnplannedInstance(t *testing.T) {
	h := open(t)
	const name = "redis-worker@77.service"
	if _, stderr, status := run(t, "systemctl", "start", name); status != 0 {
		t.Fatalf("systemctl start ended with %d: %s", status, stderr)
	}
	defer func() { _, _, _ = run(t, "systemctl", "stop", name) }()
	property := func(name, property string) string {
		out, stderr, status := run(t, "systemctl", "show", "--value", "--property="+property, name)
		if status != 0 {
			t.Fatal(stderr)
		}
		return strings.TrimSpace(out)
	}
	if active, condition := property(name, "ActiveState"), property(name, "ConditionResult"); active != "inactive" || condition != "no" {
		t.Errorf("it is %s, and its condition says %s", active, condition)
	}
	if policy, allowed := property(name, "DevicePolicy"), property(name, "DeviceAllow"); policy != "closed" || allowed != "" {
		t.Errorf("it could open %s devices, and %q", policy, allowed)
	}
	for _, worker := range h.workers() {
		if condition := property(worker, "ConditionResult"); condition != "yes" {
			t.Errorf("the condition of %s says %s", worker, condition)
		}
	}
}

// A job can open the device node of its own GPU, and of no other. Without a
// driver behind it, a node that may be opened answers ENXIO, and one that may
// not answers EPERM.
func TestOwnGPUOnly(t *testing.T) {
	const major = 195 // NVIDIA's
	h := open(t)
	h.jobs()
	for minor := range 2 {
		node := filepath.Join(jobDir, "nvidia"+strconv.Itoa(minor))
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(major, uint32(minor)))); err != nil {
			t.Fatalf("cannot make %s: %v", node, err)
		}
		t.Cleanup(func() { _ = os.Remove(node) })
		// mknod is subject to the umask.
		if err := os.Chmod(node, 0o666); err != nil {
			t.Fatal(err)
		}
		if got := openError(node, os.O_RDWR); got != "ENXIO" {
			t.Fatalf("outside of any worker opening %s gives %s, want ENXIO", node, got)
		}
	}
	asked := map[string]bool{}
	for deadline := time.Now().Add(patience); len(asked) < 2 && time.Now().Before(deadline); {
		id := jobID(t)
		h.redis.enqueue(id, task{Do: "open"}.String())
		a := answerOf(t, h.redis.waitJob(id, "succeeded"))
		asked[a.GPU] = true
		for minor, got := range a.Opened {
			want := "EPERM"
			if minor == a.GPU {
				want = "ENXIO"
			}
			if got != want {
				t.Errorf("on GPU %s opening nvidia%s gives %s, want %s", a.GPU, minor, got, want)
			}
		}
		if len(a.Opened) != 2 {
			t.Fatalf("the job answers %+v", a)
		}
	}
	if len(asked) < 2 {
		t.Errorf("only the workers of GPUs %v took a job", asked)
	}
}
