package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/generator/service"
	"gpuherd/generator/unitfile"
	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
	"gpuherd/units/redisworker"
)

// settings are the flags; what is empty comes from the configuration.
type settings struct {
	instance, redis, queue, exec, consumer string
	drain, timeout                         time.Duration
}

func (s *settings) register(flags *flag.FlagSet) {
	flags.StringVar(&s.instance, "instance", "", "the `N` of redis-worker@N; CUDA_VISIBLE_DEVICES and GPU_INDEX must be set then")
	flags.StringVar(&s.redis, "redis", "", "`URL` of Redis instead of the configured one; a password is better in REDIS_URL")
	flags.StringVar(&s.queue, "queue", "", "`name` of the queue instead of the configured one")
	flags.StringVar(&s.exec, "exec", "", "`program` and arguments that run a job, quoted as in a unit file, instead of the configured ones")
	flags.StringVar(&s.consumer, "consumer", "", "`name` in the queue's group, of no other living worker and the same after a restart (default HOST/redis-worker@INSTANCE)")
	flags.DurationVar(&s.drain, "drain-timeout", 25*time.Second, "`time` for the job to finish when told to stop; below TimeoutStopSec= by 5 s")
	flags.DurationVar(&s.timeout, "job-timeout", 0, "`time` for an attempt whose job has no timeout (default none)")
}

type options struct {
	redisworker.Options
	client redis.UniversalClient
}

// options makes a worker's of flags, configuration and environment.
func (s *settings) options(conf *config.Config, output io.Writer, log *slog.Logger) (*options, error) {
	if s.instance != "" {
		if _, err := service.ParseInstance(s.instance); err != nil {
			return nil, err
		}
		// Without them a job would see, and use, every GPU of the machine.
		for _, name := range []string{"CUDA_VISIBLE_DEVICES", "GPU_INDEX"} {
			if os.Getenv(name) == "" {
				return nil, fmt.Errorf("%s is not set: instance %s is bound to no GPU", name, s.instance)
			}
		}
	}
	argv := conf.Worker.Exec
	if s.exec != "" {
		var err error
		if argv, err = unitfile.SplitArgv(s.exec); err != nil {
			return nil, fmt.Errorf("cannot read --exec: %w", err)
		}
	} else if conf.Worker.Executor != "exec" {
		return nil, fmt.Errorf("executor %q is not available yet", conf.Worker.Executor)
	}
	if len(argv) == 0 {
		return nil, errors.New("no program is configured to run jobs")
	}
	consumer, transient := s.consumer, false
	if consumer == "" {
		host, err := conf.HostName()
		if err != nil {
			return nil, fmt.Errorf("cannot read host name: %w", err)
		}
		instance := s.instance
		if instance == "" {
			// From a terminal there may be any number at once. Nobody comes
			// after it by this name: its lease has to run out.
			instance, transient = "pid"+strconv.Itoa(os.Getpid()), true
		}
		consumer = host + "/redis-worker@" + instance
	}
	name := conf.Worker.Queue
	if s.queue != "" {
		name = s.queue
	}

	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	where := s.redis
	if where == "" {
		var err error
		if where, err = redisclient.URL(conf.Redis, credentials); err != nil {
			return nil, err
		}
	}
	client, err := redisclient.Open(conf.Redis, credentials, redisclient.WithURL(where), redisclient.WithName("redis-worker"))
	if err != nil {
		return nil, err
	}
	q, err := queue.New(client, conf.Redis.Prefix, name, queue.Options{})
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	return &options{
		client: client,
		Options: redisworker.Options{
			Queue:        q,
			Consumer:     consumer,
			Transient:    transient,
			Executor:     &redisworker.Exec{Argv: argv, Env: os.Environ(), Output: output, Subreaper: true},
			Log:          log,
			Ping:         func(ctx context.Context) error { return client.Ping(ctx).Err() },
			Where:        redisclient.Redacted(where),
			DrainTimeout: s.drain,
			JobTimeout:   s.timeout,
		},
	}, nil
}
