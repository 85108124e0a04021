// Package machinestatus tells those who listened to the PM2 machine what they
// were told before: its status and its start, on Redis channels and over HTTP,
// in its form. Under PM2 that was polled every ten seconds; here it is sent when
// something changes, and every ten seconds as well, since readers take a
// machine for lost that is silent for thirty.
package machinestatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/state"
	"gpuherd/units/redisclient"
)

const (
	// every is how often the status is published for its own sake.
	every = 10 * time.Second
	// pause is the least time between two statuses: each holds the whole
	// machine, and a crash loop would send hundreds a second.
	pause = 100 * time.Millisecond

	callTimeout = 2 * time.Second
	farewell    = 3 * time.Second
)

// Config says which machine it is.
type Config struct {
	ID           string // of the machine, as in Redis: [Redis] Host=
	WorkerPrefix string // of WORKER_ID: [Worker] ID=, or the host name
	Hostname     string
	Version      string               // of gpuherd
	Self         string               // the monitor's own unit, of which nothing is told
	Uptime       func() time.Duration // of the machine, which may be a container
}

// A Publisher publishes the machine's status. Push takes what changed and never
// blocks; Run does the publishing.
type Publisher struct {
	client redis.UniversalClient
	log    *slog.Logger
	cfg    Config
	now    func() time.Time
	every  time.Duration

	wake chan struct{}

	mu      sync.Mutex
	machine *machine
	changed bool   // since the last status
	problem error  // why Redis does not take it; nil: it does
	why     string // of problem, one of redisclient.Reasons
}

// New returns a Publisher that publishes through client, which stays the
// caller's.
func New(client redis.UniversalClient, log *slog.Logger, cfg Config) *Publisher {
	return &Publisher{
		client: client, log: log, cfg: cfg, now: time.Now, every: every,
		wake: make(chan struct{}, 1), machine: newMachine(cfg),
		problem: errors.New("not connected to Redis yet"),
	}
}

// String names the task.
func (p *Publisher) String() string { return "machine status" }

// Push takes a Delta. It is a sink of a state.Herd.
func (p *Publisher) Push(d state.Delta) {
	p.mu.Lock()
	if p.machine.apply(d, p.now()) {
		p.changed = true
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends, and returns nil then. Redis being away is no
// reason to end.
func (p *Publisher) Run(ctx context.Context) error {
	periodic := time.NewTicker(p.every)
	defer periodic.Stop()
	back := redisclient.Backoff{}
	for due := false; ; {
		if err := p.flush(ctx, due); err != nil && ctx.Err() == nil {
			p.failed(err)
			if back.Wait(ctx) == nil {
				continue
			}
		}
		back.Reset()
		due = false
		select {
		case <-ctx.Done():
			p.goodbye(context.WithoutCancel(ctx))
			return nil
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-periodic.C:
			due = true
		}
	}
}

// flush publishes the startup events that wait, then the status, where it is
// due or another.
func (p *Publisher) flush(ctx context.Context, due bool) error {
	for {
		p.mu.Lock()
		p.machine.progress(p.now())
		var next startupEvent
		number, found := p.machine.taken, len(p.machine.waiting) > 0
		if found {
			next = p.machine.waiting[0]
		}
		p.mu.Unlock()
		if !found {
			break
		}
		if err := p.publish(ctx, startupChannel, next); err != nil {
			return err
		}
		p.mu.Lock()
		p.machine.take(number)
		p.mu.Unlock()
	}

	p.mu.Lock()
	ready, changed := p.machine.ready, p.changed
	update := updatePeriodic
	switch {
	case p.machine.phase == "":
		p.mu.Unlock()
		return nil
	case ready:
		update = updateReady
	case changed:
		update = updateEvent
	case !due:
		p.mu.Unlock()
		return nil
	}
	message := p.machine.status(update, p.now())
	p.machine.ready, p.changed = false, false
	p.mu.Unlock()
	err := p.publish(ctx, statusChannel+p.cfg.ID, message)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.machine.ready, p.changed = p.machine.ready || ready, true
		return err
	}
	if p.problem != nil {
		p.problem = nil
		p.log.Info("publishing the machine's status", "channel", statusChannel+p.cfg.ID)
	}
	return nil
}

func (p *Publisher) publish(ctx context.Context, channel string, message any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("no JSON of a %T: %w", message, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := p.client.Publish(ctx, channel, data).Err(); err != nil {
		return fmt.Errorf("cannot publish on %s: %w", channel, redisclient.Diagnose(err))
	}
	return nil
}

// failed notes why nothing can be published, and logs what is new.
func (p *Publisher) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	why := redisclient.Diagnose(err).Reason
	if p.problem == nil || p.why != why {
		p.log.Warn("the machine's status is not published, trying again", "error", err)
	}
	p.problem, p.why = err, why
}

// goodbye tells that the machine goes, where it does: a monitor that is only
// started again says nothing.
func (p *Publisher) goodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	p.mu.Lock()
	down := p.machine.phase != "" && p.machine.down()
	if down {
		p.machine.shutdown(p.now())
	}
	p.mu.Unlock()
	if !down {
		return
	}
	err := p.flush(ctx, false)
	if err == nil {
		p.mu.Lock()
		message := p.machine.status(updateShutdown, p.now())
		p.mu.Unlock()
		err = p.publish(ctx, statusChannel+p.cfg.ID, message)
	}
	if err != nil {
		p.log.Warn("cannot tell that the machine goes", "error", err)
	}
}
