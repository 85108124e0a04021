package main

import (
	"strings"
	"testing"
	"time"

	"gpuherd/generator/config"
	"gpuherd/units/queue/redistest"
)

// What the monitor wrote counts while its heart beats.
func TestGPUsByRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	conf := config.Default()
	conf.Redis.URL, conf.Redis.Host = server.URL(), "box"
	ctx := t.Context()
	if err := client.HSet(ctx, "gpuherd:{box}:gpus", "1", `{"index": 1, "health": "healthy", "temperature": 50}`).Err(); err != nil {
		t.Fatal(err)
	}
	if gpus, err := gpusByRedis(ctx, t.TempDir(), conf); err == nil || !strings.Contains(err.Error(), "no monitor tells of box") {
		t.Errorf("without a heartbeat: %v, %v", gpus, err)
	}
	if err := client.Set(ctx, "gpuherd:{box}:heartbeat", "{}", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	gpus, err := gpusByRedis(ctx, t.TempDir(), conf)
	if err != nil || len(gpus) != 1 || gpus[0].Index != 1 || gpus[0].Health != "healthy" || *gpus[0].Temperature != 50 {
		t.Errorf("got %+v, %v", gpus, err)
	}
	if err := client.HSet(ctx, "gpuherd:{box}:gpus", "2", "{").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := gpusByRedis(ctx, t.TempDir(), conf); err == nil {
		t.Error("a GPU that is no JSON was read")
	}
}

// A monitor that others can reach wants a token, which is not sent.
func TestGPUsByHTTPAreLocal(t *testing.T) {
	t.Parallel()
	if _, err := gpusByHTTP(t.Context(), "192.0.2.1:9720"); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("got %v", err)
	}
}
