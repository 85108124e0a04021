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
	"strings"
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
	instance, redis, queue, consumer string
	exec, http, comfyui              string
	drain, timeout                   time.Duration
}

func (s *settings) register(flags *flag.FlagSet) {
	flags.StringVar(&s.instance, "instance", "", "the `N` of redis-worker@N; CUDA_VISIBLE_DEVICES and GPU_INDEX must be set then if jobs are programs")
	flags.StringVar(&s.redis, "redis", "", "`URL` of Redis instead of the configured one; a password is better in REDIS_URL")
	flags.StringVar(&s.queue, "queue", "", "`name` of the queue instead of the configured one")
	flags.StringVar(&s.exec, "exec", "", "`program` and arguments that run a job, quoted as in a unit file, instead of what is configured")
	flags.StringVar(&s.http, "http", "", "`URL` that each job is sent to by POST, instead of what is configured")
	flags.StringVar(&s.comfyui, "comfyui", "", "`URL` of the ComfyUI that runs the jobs, instead of what is configured")
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
	}
	executor, err := s.executor(conf, output)
	if err != nil {
		return nil, err
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
			Executor:     executor,
			Log:          log,
			Ping:         func(ctx context.Context) error { return client.Ping(ctx).Err() },
			Where:        redisclient.Redacted(where),
			DrainTimeout: s.drain,
			JobTimeout:   s.timeout,
		},
	}, nil
}

// executor makes what runs the jobs.
func (s *settings) executor(conf *config.Config, output io.Writer) (redisworker.Executor, error) {
	kind, value, given := conf.Worker.Executor, "", 0
	for flag, v := range map[string]string{"exec": s.exec, "http": s.http, "comfyui": s.comfyui} {
		if v != "" {
			kind, value, given = flag, v, given+1
		}
	}
	if given > 1 {
		return nil, errors.New("--exec, --http and --comfyui exclude each other")
	}
	if kind == "exec" {
		argv := conf.Worker.Exec
		if value != "" {
			var err error
			if argv, err = unitfile.SplitArgv(value); err != nil {
				return nil, fmt.Errorf("cannot read --exec: %w", err)
			}
		}
		return s.program(argv, output)
	}
	if value == "" {
		var err error
		if value, err = s.url(conf.Worker); err != nil {
			return nil, fmt.Errorf("the executor %s: %w", kind, err)
		}
	}
	if kind == "http" {
		return redisworker.NewHTTP(value)
	}
	return redisworker.NewComfyUI(value)
}

// url is what is configured for this worker. It may hold a token, and is not
// repeated.
func (s *settings) url(w config.Worker) (string, error) {
	switch {
	case w.URL == "":
		return "", errors.New("[Worker] has no URL=")
	case !strings.Contains(w.URL, "%i"):
		return w.URL, nil
	case s.instance == "":
		return "", errors.New("URL= has %i, the index of a GPU, and --instance is not given")
	}
	in, err := service.ParseInstance(s.instance)
	if err != nil {
		return "", err
	}
	return w.URLOf(in.GPU), nil
}

// program makes the executor whose jobs are children of this process, on its
// GPU. A server has a GPU of its own, whatever this process may see.
func (s *settings) program(argv []string, output io.Writer) (redisworker.Executor, error) {
	if len(argv) == 0 {
		return nil, errors.New("no program is configured to run jobs")
	}
	if s.instance != "" {
		// Without them a job would see, and use, every GPU of the machine.
		for _, name := range []string{"CUDA_VISIBLE_DEVICES", "GPU_INDEX"} {
			if os.Getenv(name) == "" {
				return nil, fmt.Errorf("%s is not set: instance %s is bound to no GPU", name, s.instance)
			}
		}
	}
	return &redisworker.Exec{Argv: argv, Env: os.Environ(), Output: output, Subreaper: true}, nil
}
