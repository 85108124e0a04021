package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/relay"
)

// The herd on which the monitor is measured.
const (
	monitorGPUs = 64
	monitorEach = 4
	restAfter   = 45 * time.Second // the start is over, and units count as idle
	restFor     = 30 * time.Second // several times all that the monitor does by the clock
	busyFor     = 15 * time.Second
	hands       = 8 // that restart units, each its own
)

// benchMonitor measures what the monitor takes for 256 units: memory, CPU at
// rest, and CPU next to systemd's own while units are restarted without pause.
func benchMonitor(ctx context.Context, r *result, tree string) (err error) {
	db, share, stopRedis, err := startRedis(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopRedis()) }()
	h, err := startHerd(ctx, tree, share, db, monitorGPUs, monitorEach)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	monitor, err := h.monitor()
	if err != nil {
		return err
	}

	if err := pause(ctx, restAfter); err != nil {
		return err
	}
	idle, err := cpuOver(restFor, func() error { return pause(ctx, restFor) }, monitor)
	if err != nil {
		return err
	}
	held, err := readMemory(monitor)
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%d units", h.workers)
	r.add(figure{Name: "monitor at rest: CPU in a second", Value: idle[0], Unit: "ms", Goal: 1, Note: note})
	r.add(figure{Name: "monitor at rest: RSS", Value: held.Rss, Unit: "MB", Goal: 30, Note: fmt.Sprintf("Pss %.1f MB, %s", held.Pss, note)})

	before, err := added(ctx, db)
	if err != nil {
		return err
	}
	var restarts int
	busy, err := cpuOver(busyFor, func() (err error) {
		restarts, err = h.restartAll(ctx, busyFor)
		return err
	}, monitor, h.leader)
	if err != nil {
		return err
	}
	if err := settled(ctx, db); err != nil {
		return err
	}
	after, err := added(ctx, db)
	if err != nil {
		return err
	}
	if held, err = readMemory(monitor); err != nil {
		return err
	}
	note = fmt.Sprintf("%d restarts, %.0f events in a second", restarts, float64(after-before)/busyFor.Seconds())
	r.add(figure{Name: "monitor under load: ratio of its CPU to systemd's", Value: busy[0] / busy[1], Goal: 0.5, Note: note})
	r.add(figure{Name: "monitor after load: RSS", Value: held.Rss, Unit: "MB", Goal: 30, Note: fmt.Sprintf("Pss %.1f MB", held.Pss)})
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// cpuOver returns how much CPU each process took in a second, in ms, while do
// ran for about as long as took.
func cpuOver(took time.Duration, do func() error, pids ...int) ([]float64, error) {
	read := func() ([]time.Duration, error) {
		var all []time.Duration
		for _, pid := range pids {
			cpu, err := readCPU(pid)
			if err != nil {
				return nil, err
			}
			all = append(all, cpu)
		}
		return all, nil
	}
	before, err := read()
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := read()
	if err != nil {
		return nil, err
	}
	shares := make([]float64, len(pids))
	for i := range pids {
		shares[i] = ms(after[i]-before[i]) / took.Seconds()
	}
	return shares, nil
}

// readCPU reads how long a process, all its threads, has been on a CPU.
func readCPU(pid int) (time.Duration, error) {
	// Field 1 of schedstat, in ns (proc(5)): utime and stime are in ticks of 10 ms.
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, thread := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		if err != nil {
			continue // it ended meanwhile
		}
		ns, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("process %d: schedstat is %q", pid, text)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// restartAll restarts units without pause, for a while, as fast as systemd can,
// and returns how many were restarted.
func (h *herd) restartAll(ctx context.Context, d time.Duration) (int, error) {
	conn, err := dbus.NewConnection(func() (*godbus.Conn, error) {
		conn, err := godbus.Dial(fmt.Sprintf("unix:path=/proc/%d/root/run/dbus/system_bus_socket", h.leader), godbus.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if err := errors.Join(conn.Auth([]godbus.Auth{godbus.AuthExternal("0")}), conn.Hello()); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	})
	if err != nil {
		return 0, fmt.Errorf("cannot reach the container's systemd: %w", err)
	}
	defer conn.Close()
	var units []string
	for unit := range h.pids {
		units = append(units, unit)
	}
	until := time.Now().Add(d)
	done, errs := make([]int, hands), make([]error, hands)
	var group sync.WaitGroup
	for hand := range hands {
		group.Go(func() {
			for i := hand; errs[hand] == nil && time.Now().Before(until); i += hands {
				finished := make(chan string, 1)
				if _, errs[hand] = conn.RestartUnitContext(ctx, units[i%len(units)], "replace", finished); errs[hand] == nil {
					if result := <-finished; result != "done" {
						errs[hand] = fmt.Errorf("restart of %s: %s", units[i%len(units)], result)
					}
					done[hand]++
				}
			}
		})
	}
	group.Wait()
	sum := 0
	for _, n := range done {
		sum += n
	}
	return sum, errors.Join(errs...)
}

// added returns how many events the stream ever had.
func added(ctx context.Context, db *redis.Client) (int64, error) {
	info, err := db.XInfoStream(ctx, relay.Key("gpuherd", hostName, "events")).Result()
	if err != nil {
		return 0, err
	}
	return info.EntriesAdded, nil
}

// settled waits until no more events come.
func settled(ctx context.Context, db *redis.Client) error {
	for last := int64(-1); ; {
		n, err := added(ctx, db)
		if err != nil {
			return err
		}
		if n == last {
			return nil
		}
		last = n
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}
