package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
)

// Where credentials lie on the host, for root to read: the URL that
// gpuherd-setup found in PID 1's environment, and what the operator laid down.
const (
	setupCredentials    = "/run/gpuherd/credentials"
	operatorCredentials = "/etc/credstore"
)

// A redisPlace is which Redis to ask and how it is known.
type redisPlace struct {
	url         string // with its password: never to be shown
	origin      string // who said so
	credentials string // folder; "": none
	locked      bool   // there are credentials that only root may read
}

// findRedis decides which Redis is meant: given, which is --redis; REDIS_URL;
// or the configured one. The host's credentials are those of the configured
// one and go to no other; a folder that CREDENTIALS_DIRECTORY names is meant
// for whichever.
func findRedis(root, given string, conf *config.Config, getenv func(string) string) (redisPlace, error) {
	p := redisPlace{url: given, origin: "--redis", credentials: getenv("CREDENTIALS_DIRECTORY")}
	for _, name := range []string{"REDIS_URL", "HUB_REDIS_URL"} {
		if p.url == "" {
			p.url, p.origin = getenv(name), name
		}
	}
	dir := filepath.Join(root, setupCredentials)
	configured, err := redisclient.URL(conf.Redis, dir)
	if errors.Is(err, fs.ErrPermission) {
		p.locked = p.url == ""
		configured, err = conf.Redis.URL, nil
	}
	if p.url == "" {
		if err != nil {
			return p, err
		}
		p.url, p.origin = configured, conf.Origin("Redis.URL")
		if configured != conf.Redis.URL {
			p.origin = filepath.Join(dir, redisclient.CredentialURL)
		}
	}
	if p.url == configured && p.credentials == "" {
		p.credentials = filepath.Join(root, operatorCredentials)
	}
	return p, nil
}

// open makes the client. Credentials that may not be read are done without: a
// Redis may let in who has none.
func (p *redisPlace) open(conf config.Redis) (redis.UniversalClient, error) {
	opts := []redisclient.Option{redisclient.WithURL(p.url), redisclient.WithName("gpuherd"), redisclient.WithPoolSize(1)}
	client, err := redisclient.Open(conf, p.credentials, opts...)
	if errors.Is(err, fs.ErrPermission) {
		p.locked, p.credentials = true, ""
		client, err = redisclient.Open(conf, "", opts...)
	}
	return client, err
}

// trouble says of an error of Redis what mends it and which Redis that was.
// Errors about a job pass as they are.
func (p *redisPlace) trouble(err error) error {
	if err == nil || errors.Is(err, queue.ErrUnknown) || errors.Is(err, queue.ErrState) || errors.Is(err, context.Canceled) {
		return err
	}
	t := redisclient.Diagnose(err)
	if t.Reason == redisclient.Unknown {
		return err
	}
	text := "Redis is " + redisclient.Redacted(p.url) + ", by " + p.origin
	if t.Reason == redisclient.Unreachable || t.Reason == redisclient.Timeout {
		text += "; REDIS_URL or --redis names another"
	}
	switch t.Reason {
	case redisclient.Unreachable, redisclient.Timeout, redisclient.Unauthorised, redisclient.Certificate:
		if p.locked {
			text += "; credentials that only root may read were left out: run this as root, or set REDIS_URL"
		}
	}
	return fmt.Errorf("%w; %s", t, text)
}

// maybeDone says whether what was sent may have arrived though an error came
// back.
func maybeDone(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	reason := redisclient.Diagnose(err).Reason
	return reason == redisclient.Timeout || reason == redisclient.Unreachable
}

// passing says whether an error of Redis may pass by waiting.
func passing(err error) bool {
	switch redisclient.Diagnose(err).Reason {
	case redisclient.Unreachable, redisclient.Timeout, redisclient.Loading, redisclient.ReadOnly,
		redisclient.Unclustered, redisclient.Leaderless:
		return true
	}
	return false
}

// A queueClient is a queue and the Redis that it is in.
type queueClient struct {
	*queue.Queue
	redisPlace
	name  string
	redis redis.UniversalClient
}

// queueOptions are the flags that all verbs of the queue have.
type queueOptions struct{ redis, queue string }

// openRedis makes a client of the Redis that is meant, with the configuration
// that names it. given is --redis. It does not connect yet.
func openRedis(given string) (*config.Config, *redisPlace, redis.UniversalClient, error) {
	redisclient.LogTo(slog.New(slog.DiscardHandler)) // errors come back as such
	source, _ := config.HostSource("/")              // only root may read PID 1's environment
	conf, _ := config.Load(source)                   // its problems are verify's to tell
	place, err := findRedis("/", given, conf, os.Getenv)
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := place.open(conf.Redis)
	switch {
	case err != nil && given != "":
		return nil, nil, nil, usageError{err}
	case err != nil:
		return nil, nil, nil, fmt.Errorf("%w; it comes by %s", err, place.origin)
	}
	return conf, &place, client, nil
}

func (a *app) openQueue(o *queueOptions) (*queueClient, error) {
	conf, place, client, err := openRedis(o.redis)
	if err != nil {
		return nil, err
	}
	name := orElse(o.queue, conf.Worker.Queue)
	q, err := queue.New(client, conf.Redis.Prefix, name, queue.Options{})
	if err != nil {
		_ = client.Close()
		return nil, usageError{err}
	}
	return &queueClient{Queue: q, redisPlace: *place, name: name, redis: client}, nil
}

func (q *queueClient) close() { _ = q.redis.Close() } // nothing is left to be written

// now is the time by the clock that all times of jobs are by.
func (q *queueClient) now(ctx context.Context) (time.Time, error) {
	stats, err := q.Stats(ctx) // in a Cluster each node has a clock: this asks the right one
	return stats.At, q.trouble(err)
}
