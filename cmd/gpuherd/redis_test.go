package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gpuherd/generator/config"
	"gpuherd/units/queue"
	"gpuherd/units/queue/redistest"
)

func TestFindRedis(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	credential := filepath.Join(root, "run/gpuherd/credentials/gpuherd.redis-url")
	store := filepath.Join(root, "etc/credstore")
	conf := config.Default()
	conf.Redis.URL = "redis://conf"
	conf.Origins = map[string]string{"Redis.URL": "/etc/gpuherd/gpuherd.conf:2"}
	for _, tt := range []struct {
		name, credential, given string
		env                     map[string]string
		want                    redisPlace
	}{
		{"configured", "", "", nil, redisPlace{url: "redis://conf", origin: "/etc/gpuherd/gpuherd.conf:2", credentials: store}},
		{"by setup", "redis://setup", "", nil, redisPlace{url: "redis://setup", origin: credential, credentials: store}},
		{"by hand", "redis://setup", "redis://hand", map[string]string{"REDIS_URL": "redis://env"}, redisPlace{url: "redis://hand", origin: "--redis"}},
		{"by environment", "redis://setup", "", map[string]string{"REDIS_URL": "redis://env", "HUB_REDIS_URL": "redis://hub"}, redisPlace{url: "redis://env", origin: "REDIS_URL"}},
		{"by its other name", "", "", map[string]string{"HUB_REDIS_URL": "redis://hub"}, redisPlace{url: "redis://hub", origin: "HUB_REDIS_URL"}},
		{"the configured one by hand", "redis://setup", "redis://setup", nil, redisPlace{url: "redis://setup", origin: "--redis", credentials: store}},
		{"credentials by hand", "", "redis://hand", map[string]string{"CREDENTIALS_DIRECTORY": "/c"}, redisPlace{url: "redis://hand", origin: "--redis", credentials: "/c"}},
	} {
		if err := os.RemoveAll(filepath.Dir(credential)); err != nil {
			t.Fatal(err)
		}
		if tt.credential != "" {
			if err := os.MkdirAll(filepath.Dir(credential), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(credential, []byte(tt.credential+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := findRedis(root, tt.given, conf, func(name string) string { return tt.env[name] })
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(redisPlace{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestRedisPassword: the credential lets in, and without it the error says
// what to do and holds no password.
func TestRedisPassword(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--requirepass", "hunter2")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gpuherd.redis-password"), []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stats := func(p redisPlace) error {
		client, err := p.open(config.Redis{URL: srv.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		q, err := queue.New(client, "gpuherd", "gpu", queue.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = q.Stats(t.Context())
		return p.trouble(err)
	}
	if err := stats(redisPlace{url: srv.URL(), credentials: dir}); err != nil {
		t.Error(err)
	}
	for want, p := range map[string]redisPlace{
		"were left out: run this as root": {url: srv.URL(), locked: true},
		", by --redis":                    {url: strings.Replace(srv.URL(), "unix://", "unix://:hunter3@", 1), origin: "--redis"},
	} {
		err := stats(p)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestMaybeDone(t *testing.T) {
	t.Parallel()
	if maybeDone(errors.New("no Redis' error")) {
		t.Error("an error of another kind")
	}
	srv := redistest.Start(t)
	client := srv.Client(t)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	err := client.Do(t.Context(), "PING").Err() // fails by the read's time-out
	srv.Resume()
	if err == nil || !maybeDone(err) {
		t.Errorf("sent, and not answered: %v", err)
	}
	srv.Kill()
	other := srv.Client(t)
	if err := other.Ping(t.Context()).Err(); err == nil || maybeDone(err) {
		t.Errorf("not sent: %v", err)
	}
}
