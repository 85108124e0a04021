package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/monitor/relay"
	"gpuherd/monitor/state"
	"gpuherd/units/redisclient"
)

// figuresTimeout bounds each question for what the GPUs do: a list is not kept
// waiting for it.
const figuresTimeout = 500 * time.Millisecond

// A gpuFigures is what the monitor tells of the GPUs, by index, or why it
// cannot be had.
type gpuFigures struct {
	gpus map[int]state.GPU
	err  error
}

// askFigures asks the monitor for its GPUs, by HTTP or by way of Redis, while
// systemd is asked for the units.
func (a *app) askFigures(ctx context.Context) <-chan gpuFigures {
	answer := make(chan gpuFigures, 1)
	if a.remote != "" {
		answer <- gpuFigures{err: fmt.Errorf("of %s only what systemd tells is shown: nothing of GPUs, nor the peak of memory", a.remote)}
		return answer
	}
	go func() {
		source, _ := config.HostSource(a.rootDir) // without PID 1's environment the files decide
		cfg, _ := config.Load(source)             // its problems are verify's to tell
		gpus, err := gpusByHTTP(ctx, cfg.Monitor.Listen)
		if err != nil {
			var second error
			if gpus, second = gpusByRedis(ctx, a.rootDir, cfg); second != nil {
				err = fmt.Errorf("nothing is shown of what the GPUs do: the monitor: %w; Redis: %w", err, second)
			} else {
				err = nil
			}
		}
		f := gpuFigures{gpus: map[int]state.GPU{}, err: err}
		for _, g := range gpus {
			f.gpus[g.Index] = g
		}
		answer <- f
	}()
	return answer
}

// addFigures adds what the GPUs do to the workers on them, and says where that
// is not to be had.
func (a *app) addFigures(workers []worker, f gpuFigures) {
	missed := false
	for i := range workers {
		w := &workers[i]
		if w.GPU == nil {
			continue
		}
		g, ok := f.gpus[*w.GPU]
		if !ok {
			missed = true
			continue
		}
		w.GPUUtilisation, w.GPUTemperature, w.GPUHealth, w.GPUReasons = g.Utilisation, g.Temperature, g.Health, g.Reasons
		w.GPUName = cmp.Or(w.GPUName, g.Name)
	}
	if f.err != nil && (missed || a.remote != "") {
		a.complain("%s", f.err)
	}
}

// gpusByHTTP asks the monitor itself, which answers without a token on a
// loopback address only.
func gpusByHTTP(ctx context.Context, listen string) ([]state.GPU, error) {
	address, err := monitorURL(listen, "/api/v1/gpus")
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(address, "https:") {
		return nil, errors.New("listens on an address that wants a token")
	}
	ctx, cancel := context.WithTimeout(ctx, figuresTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // the monitor is local: no proxy
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("it answers " + resp.Status)
	}
	var answer struct {
		GPUs []state.GPU `json:"gpus"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("cannot read its answer: %w", err)
	}
	return answer.GPUs, nil
}

// gpusByRedis reads what the monitor wrote, as long as its heart beats: what is
// older says nothing of now.
func gpusByRedis(ctx context.Context, root string, cfg *config.Config) ([]state.GPU, error) {
	host, err := cfg.HostName()
	if err != nil {
		return nil, err
	}
	redisclient.LogTo(slog.New(slog.DiscardHandler)) // errors come back as such
	place, err := findRedis(root, "", cfg, os.Getenv)
	if err != nil {
		return nil, err
	}
	client, err := place.open(cfg.Redis)
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // only read
	ctx, cancel := context.WithTimeout(ctx, figuresTimeout)
	defer cancel()
	key := func(name string) string { return relay.Key(cfg.Redis.Prefix, host, name) }
	switch err := client.Get(ctx, key("heartbeat")).Err(); {
	case errors.Is(err, redis.Nil):
		return nil, errors.New("no monitor tells of " + host)
	case err != nil:
		return nil, err
	}
	values, err := client.HGetAll(ctx, key("gpus")).Result()
	if err != nil {
		return nil, err
	}
	gpus := make([]state.GPU, 0, len(values))
	for _, value := range values {
		var g state.GPU
		if err := json.Unmarshal([]byte(value), &g); err != nil {
			return nil, fmt.Errorf("cannot read a GPU: %w", err)
		}
		gpus = append(gpus, g)
	}
	return gpus, nil
}
