//go:build acceptance

package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A herd is the system under test: systemd's side and Redis' side.
type herd struct {
	*systemd
	redis *store
}

// open connects to the herd, waits until it is healthy, and sees to it that
// the test leaves it so.
func open(t *testing.T) *herd {
	t.Helper()
	h := &herd{systemd: connectSystemd(t), redis: connectRedis(t)}
	h.healthy()
	t.Cleanup(h.healthy)
	return h
}

// healthy waits until every unit of the herd is up, nothing failed, and Redis
// tells the same as systemd.
func (h *herd) healthy() {
	h.t.Helper()
	eventually(h.t, "a healthy herd", h.sick)
}

// sick says what is wrong, if anything.
func (h *herd) sick() error {
	names, err := h.herd()
	if err != nil {
		return err
	}
	if !slices.Contains(names, monitorUnit) {
		return fmt.Errorf("%s wants %v", target, names)
	}
	for _, name := range names {
		u, err := h.unit(name)
		if err != nil {
			return err
		}
		if u.Active != "active" {
			return fmt.Errorf("%s is %s/%s: %s", name, u.Active, u.Sub, u.Result)
		}
	}
	if failed := h.failed(); len(failed) > 0 {
		return fmt.Errorf("failed: %v", failed)
	}
	return h.differ(names)
}

// differ compares the units in Redis with systemd's, both ways.
func (h *herd) differ(names []string) error {
	told, err := h.redis.units()
	if err != nil {
		return err
	}
	for name := range told {
		if !slices.Contains(names, name) {
			return fmt.Errorf("redis has %s, which is not of the herd %v", name, names)
		}
	}
	for _, name := range names {
		actual, err := h.unit(name)
		if err != nil {
			return err
		}
		u, ok := told[name]
		if !ok {
			return fmt.Errorf("redis lacks %s", name)
		}
		if u.Active != actual.Active || u.Sub != actual.Sub || u.PID != actual.PID || u.InvocationID != actual.Invocation || u.Result != actual.Result {
			return fmt.Errorf("redis has %+v, systemd %+v", u, actual)
		}
	}
	return nil
}

// instance is the N of redis-worker@N.service.
func instance(unit string) string {
	_, rest, _ := strings.Cut(strings.TrimSuffix(unit, ".service"), "@")
	return rest
}

// consumer is the name under which a worker owns jobs.
func (h *herd) consumer(unit string) string {
	return h.redis.host + "/" + strings.TrimSuffix(unit, ".service")
}

// owner returns the unit that holds or held a job.
func (h *herd) owner(job map[string]string) string {
	h.t.Helper()
	for _, worker := range h.workers() {
		if job["worker"] == h.consumer(worker) {
			return worker
		}
	}
	h.t.Fatalf("no worker of this host owns %v", job)
	return ""
}

// jobID makes an id that no other run of the tests has used.
func jobID(t *testing.T) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano())
}
