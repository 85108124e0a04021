//go:build acceptance

package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// monitorURL is where the monitor answers by default.
const monitorURL = "http://127.0.0.1:9720"

// askMonitor reads an answer of the monitor's API.
func askMonitor(t *testing.T, path string, to any) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, monitorURL+path, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(to)
}

// Over HTTP there are the units as systemd has them, with what their control
// groups use, or why that is not known.
func TestUnitsAreMeasured(t *testing.T) {
	h := open(t)
	// In a container on a host with v1, v2 has no controllers: only CPU time and
	// pressure are to be had.
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	unified, controllers := err == nil, strings.Fields(string(data))
	controlled := slices.Contains(controllers, "memory") && slices.Contains(controllers, "pids")
	_, err = os.Stat("/proc/pressure/memory")
	pressure := err == nil
	type resources struct {
		Cgroup, Reason string
		Tasks          *uint64
		OOMKills       *uint64 `json:"oom_kills"`
		Pressure       struct{ Memory *struct{} }
	}
	eventually(t, "the units over HTTP", func() error {
		var answer struct {
			Units []struct {
				Unit, Active string
				PID          uint32
				Memory       *uint64 `json:"memory_bytes"`
				CPU          *uint64 `json:"cpu_ns"`
				Resources    resources
			}
		}
		if err := askMonitor(t, "/api/v1/units", &answer); err != nil {
			return err
		}
		workers := 0
		for _, u := range answer.Units {
			if now := h.mustUnit(u.Unit); u.Active != now.Active || u.PID != now.PID {
				return fmt.Errorf("%s is %s with pid %d, systemd has %s with %d", u.Unit, u.Active, u.PID, now.Active, now.PID)
			}
			if u.PID == 0 {
				continue
			}
			workers++
			r := u.Resources
			switch {
			case !unified && r.Cgroup == "none" && r.Reason != "":
				// v1, and the container has none of its hierarchies.
			case unified && (r.Cgroup != "v2" || u.CPU == nil):
				return fmt.Errorf("%s: CPU %v, %+v, want figures of v2", u.Unit, u.CPU, r)
			case (controlled || !unified) && (u.Memory == nil || u.CPU == nil || r.Tasks == nil || r.OOMKills == nil):
				return fmt.Errorf("%s lacks figures: memory %v, CPU %v, %+v", u.Unit, u.Memory, u.CPU, r)
			case unified && pressure && r.Pressure.Memory == nil:
				return fmt.Errorf("%s has no pressure: %+v", u.Unit, r)
			}
		}
		if workers < 2 {
			return fmt.Errorf("only %d units run", workers)
		}
		return nil
	})
}
