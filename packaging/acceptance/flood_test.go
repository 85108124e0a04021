//go:build acceptance

package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gpuherd/monitor/state"
)

// floodProgram is this binary as a service that tells systemd another status
// as fast as systemd takes it, half of the time: systemd does nothing else
// while there are such messages.
const floodProgram = jobDir + "/flood"

func runFlood() int {
	const burst = 1000
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := 0; ; {
		began := time.Now()
		for range burst {
			if _, err := fmt.Fprintf(conn, "STATUS=message %d", n); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			n++
		}
		time.Sleep(time.Since(began))
	}
}

// A service that talks without a pause keeps nobody else waiting: crashes of
// another are told, in order, while it goes on.
func TestNotifyFlood(t *testing.T) {
	const crashes = 20
	h := open(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(jobDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(self, floodProgram, 0o755); err != nil {
		t.Fatal(err)
	}
	h.join(map[string]string{
		"flood.service":  "[Service]\nNotifyAccess=all\nExecStart=" + floodProgram + "\n",
		"victim.service": zoo["zoo-simple.service"],
	})
	h.do("start", "victim.service")
	h.same()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sub := h.redis.db.Subscribe(ctx, h.redis.key("notify"))
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	var hints atomic.Int64
	type change struct {
		at   time.Time
		what string
		pid  uint32
	}
	changes := make(chan change, 4*crashes)
	go func() {
		for {
			m, err := sub.ReceiveMessage(ctx)
			if err != nil {
				return
			}
			at := time.Now()
			var e struct {
				Type string
				Data state.UnitEvent
			}
			_ = json.Unmarshal([]byte(m.Payload), &e)
			switch {
			case e.Type == state.TypeStatus:
				hints.Add(1)
			case e.Type == state.TypeUnit && e.Data.Name == "victim.service":
				changes <- change{at, e.Data.Event, e.Data.PID}
			}
		}
	}()
	next := func(want string) change {
		select {
		case c := <-changes:
			if c.what != want {
				t.Fatalf("it is told as %s, want %s", c.what, want)
			}
			return c
		case <-time.After(2 * time.Minute):
			t.Fatalf("it is not told that it is %s", want)
			return change{}
		}
	}
	// It asks systemd nothing, which has enough to do.
	pid := h.mustUnit("victim.service").PID
	measure := func() (took []time.Duration) {
		for range crashes {
			began := time.Now()
			if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			took = append(took, next(state.Failed).at.Sub(began))
			pid = next(state.Running).pid
		}
		slices.Sort(took)
		return took
	}
	monitor := int(h.mustUnit(monitorUnit).PID)
	quiet := measure()
	mark := h.redis.mark()
	h.do("start", "flood.service")
	began, cpu, cpu1, said := time.Now(), cpuTime(t, monitor), cpuTime(t, 1), hints.Load()
	busy := measure()
	over := time.Since(began).Seconds()
	t.Logf("crash to subscriber: %v in the middle, %v at worst; with the flood %v, %v", quiet[len(quiet)/2], quiet[len(quiet)-1], busy[len(busy)/2], busy[len(busy)-1])
	t.Logf("in %.1f s the monitor took %.2f s of CPU, PID 1 %.2f s; %d status messages reached the channel", over,
		cpuTime(t, monitor)-cpu, cpuTime(t, 1)-cpu1, hints.Load()-said)
	h.endFlood()
	h.same()
	t.Logf("it has said %s", h.redis.mustUnits(t)["flood.service"].StatusText)
	events := h.redis.mustSince(mark)
	wantInOrder(t, events)
	var want []string
	for range crashes {
		want = append(want, state.Failed, state.Running)
	}
	wantPhases(t, events, "victim.service", want...)
}

// endFlood ends the flood from outside: systemd may be too busy to be asked.
func (h *herd) endFlood() {
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range comms {
		if name, err := os.ReadFile(path); err == nil && string(name) == "flood\n" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
}

func (s *store) mustUnits(t *testing.T) map[string]state.Unit {
	t.Helper()
	units, err := s.units()
	if err != nil {
		t.Fatal(err)
	}
	return units
}

// cpuTime returns the CPU time of a process in seconds, from proc(5).
func cpuTime(t *testing.T, pid int) float64 {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100 // USER_HZ
}
