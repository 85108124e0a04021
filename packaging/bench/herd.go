package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
	"gpuherd/packaging/machine"
)

// hostName is the machine's name in Redis.
const hostName = "bench"

// victimFile is the service of which each worker is an instance: the same
// program as PM2's workers run. With the default Type=simple it counts as
// running once its process is there, as PM2's "online" does.
const victimFile = `[Unit]
Description=Worker to be killed on GPU %i
[X-GPU]
Per=gpu
[Service]
ExecStart=/bin/sleep infinity
`

// A herd is a container with gpuherd and its workers. The container shares the
// kernel, its clock and its processes with this program, and reaches the
// redis-server that PM2's relay uses by the same socket.
type herd struct {
	machine *machine.Machine
	tree    string
	workers int
	leader  int            // its PID 1, as this process sees it
	pids    map[string]int // unit → its process, as the container sees it
}

// startHerd boots the container with workers on each of some GPUs, and waits
// until Redis tells of every worker. share is the folder of the socket.
func startHerd(ctx context.Context, tree, share string, db *redis.Client, gpus, workersEach int) (h *herd, err error) {
	extra, err := os.MkdirTemp("", "gpuherd-bench-")
	if err != nil {
		return nil, err
	}
	h = &herd{tree: extra, workers: gpus * workersEach, pids: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.stop())
		}
	}()
	conf := fmt.Sprintf("[GPU]\nCount=%d\nSimulate=yes\n[Service redis-worker]\nEnabled=no\n[Service bench]\nInstances=%d\n[Redis]\nURL=unix://%s/redis.sock\n", gpus, workersEach, machine.SharePath)
	err = errors.Join(
		layEnabled(extra, conf),
		write(filepath.Join(extra, "etc/gpuherd/services/bench.service"), victimFile),
	)
	if err != nil {
		return nil, err
	}
	mark := "BENCH=" + rand.Text()
	name, value, _ := strings.Cut(mark, "=")
	h.machine, err = machine.Boot(ctx, machine.Config{
		Backend: machine.Nspawn, Suite: machine.Trixie, Hostname: hostName, Trees: []string{tree, extra},
		Share: share, Env: map[string]string{name: value}, Log: os.Stderr,
	})
	if err != nil {
		return nil, err
	}
	if h.leader, err = findLeader(mark); err != nil {
		return nil, err
	}
	if err := h.waitWorkers(ctx, db); err != nil {
		h.machine.Report(os.Stderr)
		return nil, err
	}
	return h, nil
}

func (h *herd) stop() error {
	var err error
	if h.machine != nil {
		err = h.machine.Close()
	}
	return errors.Join(err, os.RemoveAll(h.tree))
}

// waitWorkers waits until every worker runs and Redis tells its process.
func (h *herd) waitWorkers(ctx context.Context, db *redis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		raw, err := db.HGetAll(ctx, relay.Key("gpuherd", hostName, "units")).Result()
		if err != nil {
			return fmt.Errorf("cannot read the herd's units (%d of %d run): %w", len(h.pids), h.workers, err)
		}
		for unit, data := range raw {
			var u state.Unit
			if err := json.Unmarshal([]byte(data), &u); err != nil {
				return fmt.Errorf("cannot read unit %q: %w", data, err)
			}
			if u.Service == "bench" && u.Sub == "running" {
				h.pids[unit] = int(u.PID)
			}
		}
		if len(h.pids) == h.workers {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d workers run", len(h.pids), h.workers)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// findLeader finds the container's PID 1 by a variable of its environment.
func findLeader(mark string) (int, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		environ, err := os.ReadFile(filepath.Join(entry, "environ"))
		if err != nil || !bytes.Contains(environ, []byte(mark)) {
			continue
		}
		outer, inner, err := namespacePIDs(entry)
		if err == nil && inner == 1 {
			return outer, nil
		}
	}
	return 0, errors.New("cannot find the container's PID 1")
}

// monitor returns the monitor's process.
func (h *herd) monitor() (int, error) {
	inside, err := sameNamespace(h.leader)
	if err != nil {
		return 0, err
	}
	for _, pid := range inside {
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.HasPrefix(string(argv), "/usr/lib/gpuherd/gpuherd-monitor\x00") {
			return pid, nil
		}
	}
	return 0, errors.New("gpuherd-monitor does not run")
}

func (h *herd) name() string    { return "gpuherd" }
func (h *herd) channel() string { return relay.Key("gpuherd", hostName, "notify") }

func (h *herd) victim(i int) (int, error) {
	inside, err := sameNamespace(h.leader)
	if err != nil {
		return 0, err
	}
	inner := h.pids[fmt.Sprintf("bench@%d.service", i)]
	pid, ok := inside[inner]
	if !ok {
		return 0, fmt.Errorf("process %d of the container is gone", inner)
	}
	return pid, nil
}

// told reads one message of the monitor.
func (h *herd) told(payload string) (worker int, what change, err error) {
	var m struct {
		Type string          `json:"type"`
		Data state.UnitEvent `json:"data"`
	}
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		return 0, other, fmt.Errorf("cannot read %q: %w", payload, err)
	}
	if m.Type != state.TypeUnit && m.Type != state.TypeExit || m.Data.Service != "bench" || m.Data.GPU == nil {
		return -1, other, nil
	}
	worker = *m.Data.GPU
	switch m.Data.Event {
	case state.Exited:
		what = ended
	case state.Failed:
		what = failed
	case state.Running:
		what = running
		h.pids[m.Data.Name] = int(m.Data.PID)
	}
	return worker, what, nil
}
