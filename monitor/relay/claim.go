package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/state"
)

// claim makes this monitor the host's writer. The first claim also takes over
// the restart counters of an earlier monitor of this boot, and tells what
// changed since that one.
func (r *Relay) claim(ctx context.Context) error {
	again := "0"
	if r.acked > 0 || r.batch > 0 {
		again = "1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	var seeds map[string]state.Seed
	if again == "0" {
		var err error
		if seeds, err = r.seeds(ctx); err != nil {
			return err
		}
	}
	r.mu.Lock()
	epoch := r.epoch
	r.mu.Unlock()
	answer, err := claimScript.Run(ctx, r.client, r.keys[:1], r.cfg.BootID, epoch, r.started, again, r.batch).StringSlice()
	if err != nil {
		return r.diagnose(fmt.Errorf("cannot claim %s: %w", r.keys[0], err))
	}
	if err := fenced(answer); err != nil {
		return err
	}
	if n, err := strconv.ParseUint(answer[1], 10, 64); err == nil && n != epoch {
		r.log.Warn("Redis knows of a later epoch, going on from there", "epoch", n, "counted", epoch)
		r.mu.Lock()
		r.epoch = n
		r.mu.Unlock()
		if r.cfg.SaveEpoch != nil {
			if err := r.cfg.SaveEpoch(n); err != nil {
				r.log.Warn("the epoch is not kept", "error", err)
			}
		}
	}
	r.claimed = true
	if raised := r.source.Seed(seeds); len(raised) > 0 {
		r.mu.Lock()
		r.pending.raise(raised)
		r.mu.Unlock()
	}
	if !r.online {
		r.online = true
		r.source.Host(state.HostEvent{Event: "online", Version: r.cfg.Version})
	}
	if again == "0" {
		r.source.Resync(seeds)
	}
	return nil
}

// seeds reads what an earlier monitor of this boot left; nil: there was none.
func (r *Relay) seeds(ctx context.Context) (map[string]state.Seed, error) {
	boot, err := r.client.HGet(ctx, r.keys[0], "boot_id").Result()
	if errors.Is(err, redis.Nil) || err == nil && boot != r.cfg.BootID {
		return nil, nil
	}
	if err != nil {
		return nil, r.diagnose(fmt.Errorf("cannot read %s: %w", r.keys[0], err))
	}
	raw, err := r.client.HGetAll(ctx, r.keys[1]).Result()
	if err != nil {
		return nil, r.diagnose(fmt.Errorf("cannot read %s: %w", r.keys[1], err))
	}
	seeds := make(map[string]state.Seed, len(raw))
	for name, data := range raw {
		var u state.Unit
		if err := json.Unmarshal([]byte(data), &u); err != nil {
			r.log.Warn("ignoring what Redis has of a unit", "unit", name, "error", err)
			continue
		}
		seeds[name] = state.NewSeed(u)
	}
	return seeds, nil
}

// fenced returns ErrFenced for an answer that says so.
func fenced(answer []string) error {
	if len(answer) == 0 {
		return errors.New("redis gave an empty answer")
	}
	if answer[0] != "fenced" {
		return nil
	}
	return fmt.Errorf("%w: epoch %s of boot %s", ErrFenced, answer[1], answer[2])
}
