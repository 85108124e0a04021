package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gpuherd/generator/config"
	"gpuherd/generator/gpu"
	"gpuherd/generator/version"
	"gpuherd/monitor/bus"
	"gpuherd/monitor/exits"
	"gpuherd/monitor/fleet"
	"gpuherd/monitor/gpuhealth"
	"gpuherd/monitor/journal"
	"gpuherd/monitor/machinestatus"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/resources"
	"gpuherd/monitor/state"
	"gpuherd/monitor/web"
	"gpuherd/units/redisclient"
)

// stuck is how long the reading loop may not go round before the monitor says
// of itself that it knows nothing. The loop goes round once a second.
const stuck = 5 * time.Second

// A monitor is the wired program.
type monitor struct {
	tasks []task
	units func() []state.Unit
	close func()
}

// wire puts the parts together: bus ─► herd ─► relay, and what looks at them.
func wire(conf *config.Config, stateDir string, log *slog.Logger) (*monitor, error) {
	host, err := conf.HostName()
	if err != nil {
		return nil, fmt.Errorf("no name for this host: %w; set [Redis] Host=", err)
	}
	bootID, err := gpu.BootID("/")
	if err != nil {
		return nil, err
	}
	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	client, err := redisclient.Open(conf.Redis, credentials, redisclient.WithName("gpuherd-monitor"))
	if err != nil {
		return nil, err
	}
	// Of its own, with one connection: whoever looks at the fleet takes none that
	// the relay could wait for.
	reader, err := redisclient.Open(conf.Redis, credentials, redisclient.WithName("gpuherd-monitor-fleet"), redisclient.WithPoolSize(1))
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	lock, err := relay.Lock(stateDir)
	if errors.Is(err, relay.ErrLocked) {
		_, _ = client.Close(), reader.Close()
		return nil, err
	}
	if err != nil {
		log.Warn("another monitor on this host would not be noticed", "error", err)
	}
	epoch, err := relay.NextEpoch(stateDir)
	if err != nil {
		log.Warn("the epoch is not kept", "error", err)
	}

	var (
		watcher *bus.Watcher
		metrics *web.Metrics
	)
	alive := func() error {
		if since := time.Since(watcher.Progress()); since > stuck {
			return fmt.Errorf("no progress for %v", since.Round(time.Second))
		}
		return nil
	}
	toRedis := relay.New(client, log, relay.Config{
		Prefix: conf.Redis.Prefix, Host: host, BootID: bootID, Epoch: epoch, Version: version.String(),
		SaveEpoch: func(n uint64) error { return relay.SaveEpoch(stateDir, n) },
		Alive:     func() bool { return alive() == nil && watcher.Ready() == nil },
		Uptime:    uptime,
		Monotonic: journal.Monotonic,
		Observe:   func(seconds float64) { metrics.ObserveWrite(seconds) },
	})
	feed := web.NewFeed()
	// Redis comes first: it is what others wait for.
	sinks := []func(state.Delta){toRedis.Push, feed.Push, func(d state.Delta) { metrics.Push(d) }}
	var machine *machinestatus.Publisher
	if conf.Monitor.MachineStatus {
		machine = machineStatus(conf, host, client, log)
		sinks = append(sinks, machine.Push)
	}
	var herd *state.Herd
	ends, err := exits.New(func(unit string, pid uint32, atUS int64) { herd.Ended(unit, pid, atUS) }, log)
	if err != nil {
		log.Warn("the ends of main processes are told once systemd tells them", "error", err)
	} else {
		sinks = append(sinks, ends.Push)
	}
	herd = state.NewHerd(state.Tee(sinks...), time.Now)
	past := journal.NewBackfill(herd, (&journal.Journal{BootID: bootID}).Since, kept(stateDir, bootID, log), log)
	toRedis.From(past)
	keeper := &relay.Keeper{Relay: toRedis, Dir: stateDir, Log: log}
	sampler := &resources.Sampler{Root: "/", Herd: herd, Log: log}
	to := newNotifier(log, func() string { return summary(herd, toRedis) })
	watcher = bus.NewWatcher(log, herd, to.tick)
	to.ready = watcher.Ready
	gpus := &gpuhealth.Watch{Root: "/", Set: herd.SetGPUs, Log: log}
	metrics = web.NewMetrics(web.Sources{
		Version: version.String(), Units: herd.Units, GPUs: herd.GPUs, XIDs: gpus.XIDErrors, Bus: watcher.Stats, Relay: toRedis.Stats,
		Samples: sampler.Samples, Feed: feed.Stats,
	})
	about := func() web.About {
		return web.About{Host: host, Version: version.String(), BootID: bootID, Epoch: toRedis.Stats().Epoch, Uptime: uptime().Truncate(time.Millisecond).Seconds()}
	}

	server := &web.Server{
		Listen: conf.Monitor.Listen, Credentials: credentials, Alive: alive, Metrics: metrics.Handler(), Log: log,
		Checks: []web.Check{{Name: "bus", Ready: watcher.Ready}, {Name: "redis", Ready: toRedis.Ready}},
		Feed:   feed, About: about, Samples: sampler.Samples,
		Fleet: web.NewFleet(&fleet.Reader{Client: reader, Prefix: conf.Redis.Prefix}, conf.Worker.Queue),
	}
	m := &monitor{
		units: herd.Units,
		close: func() {
			keeper.Keep()
			_ = client.Close()
			_ = reader.Close()
			if lock != nil {
				_ = lock.Close()
			}
		},
		tasks: []task{
			watcher, toRedis, past, keeper, to, gpus, sampler,
			&gpuhealth.Hardware{Root: "/", Container: config.IsContainer("/", os.Environ()), Log: log},
			server,
		},
	}
	if ends != nil {
		m.tasks = append(m.tasks, ends)
	}
	if machine != nil {
		server.Machine = machine
		m.tasks = append(m.tasks, machine)
	}
	return m, nil
}

// kept returns what an earlier monitor of this boot had told.
func kept(stateDir, bootID string, log *slog.Logger) journal.Since {
	p, err := relay.LoadPosition(stateDir, bootID)
	if err != nil {
		log.Warn("what happened without a monitor is known only where Redis knows what it was told", "error", err)
	}
	if p == nil {
		return journal.Since{}
	}
	return journal.Since{Seeds: p.Units, MonoUS: p.MonotonicUS}
}

// summary is the line that systemctl status shows.
func summary(herd *state.Herd, to *relay.Relay) string {
	n := herd.Tally()
	line := fmt.Sprintf("%d units, %d active, %d failed; ", n.Units, n.Active, n.Failed) + gpuSummary(herd.GPUs())
	s := to.Stats()
	switch {
	case s.Fenced:
		return line + "a newer monitor writes to Redis, this one ends soon"
	case s.Connected:
		return line + "Redis is told"
	}
	return line + fmt.Sprintf("Redis is not told (%s), %d events wait", cmp.Or(s.Reason, "not asked yet"), s.Pending)
}

// gpuSummary says what is wrong with GPUs, or nothing.
func gpuSummary(gpus []state.GPU) string {
	unhealthy, unknown := 0, ""
	for _, g := range gpus {
		switch {
		case g.Health == state.Unhealthy:
			unhealthy++
		case g.Health == state.HealthUnknown && len(g.Reasons) > 0:
			unknown = g.Reasons[0]
		}
	}
	line := ""
	if unhealthy > 0 {
		line += fmt.Sprintf("%d of %d GPUs unhealthy; ", unhealthy, len(gpus))
	}
	if unknown != "" {
		line += "health of GPUs not known: " + unknown + "; "
	}
	return line
}

// uptime returns how long the host is up, suspension included.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
