package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const redisSocket = "redis.sock"

// startRedis starts a redis-server that keeps nothing and listens on a unix
// socket only, in a folder of its own, which a machine can share. stop ends it.
func startRedis(ctx context.Context) (db *redis.Client, dir string, stop func() error, err error) {
	dir, err = os.MkdirTemp("", "gpuherd-bench-")
	if err != nil {
		return nil, "", nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	// The monitor connects as its own user.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, "", nil, err
	}
	socket := filepath.Join(dir, redisSocket)
	server := exec.CommandContext(context.WithoutCancel(ctx), "redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "777", "--save", "", "--appendonly", "no", "--dir", dir)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return nil, "", nil, fmt.Errorf("cannot start redis-server (Debian package redis-server): %w", err)
	}
	db = redis.NewClient(&redis.Options{
		Network: "unix", Addr: socket, ContextTimeoutEnabled: true, DisableIdentity: true, MaxRetries: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	stop = func() error {
		closed := db.Close()
		killed := server.Process.Kill()
		_ = server.Wait() // "signal: killed" is what was asked for
		return errors.Join(closed, killed, os.RemoveAll(dir))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for db.Ping(ctx).Err() != nil {
		select {
		case <-ctx.Done():
			return nil, "", nil, errors.Join(errors.New("redis-server does not answer"), stop())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return db, dir, stop, nil
}
