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
	"gpuherd/units/journal"
	"gpuherd/units/queue"
	"gpuherd/units/redisclient"
	"gpuherd/units/redisworker"
)

// queueOptions are the queue's own but in tests.
var queueOptions queue.Options

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
	flags.DurationVar(&s.drain, "drain-timeout", 0, "`time` for the job to finish when told to stop (default DrainMax= of gpuherd.conf, or what TimeoutStopSec= of the unit leaves, or 25s)")
	flags.DurationVar(&s.timeout, "job-timeout", 0, "`time` for an attempt whose job has no timeout (default none)")
}

type options struct {
	redisworker.Options
	client redis.UniversalClient
}

// output is where the lines of jobs go.
type output struct {
	stderr io.Writer
	native *journal.Native // nil: none
}

// options makes a worker's of flags, configuration and environment.
func (s *settings) options(conf *config.Config, out output, log *slog.Logger) (*options, error) {
	if s.instance != "" {
		if _, err := service.ParseInstance(s.instance); err != nil {
			return nil, err
		}
	}
	executor, err := s.executor(conf, out)
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
	q, err := queue.New(client, conf.Redis.Prefix, name, queueOptions)
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	o := &options{
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
			Fit:          s.fitness(conf, out),
		},
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		o.underSystemd(conf.Worker)
	}
	return o, nil
}

// underSystemd adds what a worker does that systemd starts again and again,
// in a control group of its own.
func (o *options) underSystemd(w config.Worker) {
	if o.DrainTimeout <= 0 {
		o.DrainTimeout, o.Extend, o.StopTimeout = w.DrainMax, w.DrainMax > 0, redisworker.StopTimeout
	}
	o.MaxJobs, o.RecycleMemory = w.MaxJobs, w.RecycleMemory
	var err error
	if o.Memory, err = redisworker.OwnMemory(); err != nil {
		o.Log.Info("nothing is known of memory", "error", err)
	}
}

// fitness is what tells whether the GPU works; nil: nothing does.
func (s *settings) fitness(conf *config.Config, out output) func(context.Context) error {
	if argv := conf.Worker.Fitness; len(argv) > 0 && s.instance != "" {
		return redisworker.ProgramFit(newExec(argv, out))
	}
	in, err := service.ParseInstance(s.instance)
	if err != nil || s.kind(conf) != "exec" {
		return nil // a server has a GPU of its own
	}
	return redisworker.NodesFit("/", in)
}

// kind is which executor runs the jobs.
func (s *settings) kind(conf *config.Config) string {
	switch {
	case s.exec != "":
		return "exec"
	case s.http != "":
		return "http"
	case s.comfyui != "":
		return "comfyui"
	}
	return conf.Worker.Executor
}

// executor makes what runs the jobs.
func (s *settings) executor(conf *config.Config, out output) (redisworker.Executor, error) {
	kind, value, given := s.kind(conf), "", 0
	for _, v := range []string{s.exec, s.http, s.comfyui} {
		if v != "" {
			value, given = v, given+1
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
		return s.program(argv, out)
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
func (s *settings) program(argv []string, out output) (redisworker.Executor, error) {
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
	return newExec(argv, out), nil
}

func newExec(argv []string, out output) *redisworker.Exec {
	return &redisworker.Exec{Argv: argv, Env: os.Environ(), Output: out.stderr, Journal: out.native, Subreaper: true}
}
