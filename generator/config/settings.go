package config

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gpuherd/generator/gpu"
	"gpuherd/generator/unitfile"
)

// BuiltIn is the origin of a setting that nobody set.
const BuiltIn = "built-in"

// A setting is a key and the function that checks a value and takes it. The
// function leaves c as it was where it returns an error; errors never repeat a
// value that may be a secret.
type setting struct {
	Setting
	set func(c *Config, value string) error
	// setVariable takes the value of an environment variable, where that is
	// not what the key takes.
	setVariable func(c *Config, value string) error
}

func (s *setting) name() string { return s.Section + "." + s.Key }

var settings = []setting{
	{Setting{"GPU", "Count", "all", []string{"NUM_GPUS", "WORKER_NUM_GPUS"}, ""}, setCount, nil},
	{Setting{"GPU", "Simulate", "no", nil, "simulate"}, setBool(func(c *Config) *bool { return &c.GPU.Simulate }), nil},
	{Setting{"Worker", "ID", "", []string{"WORKER_ID"}, ""}, setName(func(c *Config) *string { return &c.Worker.ID }), nil},
	{Setting{"Worker", "Queue", "gpu", nil, "queue"}, setKeyPart(func(c *Config) *string { return &c.Worker.Queue }), nil},
	{Setting{"Worker", "Executor", "exec", nil, ""}, setExecutor, nil},
	{Setting{"Worker", "Exec", "/usr/lib/gpuherd/jobs/echo", nil, ""}, setExec, nil},
	{Setting{"Worker", "URL", "", nil, ""}, setWorkerURL, nil},
	{Setting{"Worker", "Fitness", "", nil, ""}, setFitness, nil},
	{Setting{"Worker", "DrainMax", "", nil, ""}, setDrainMax, nil},
	{Setting{"Worker", "MaxJobs", "0", nil, ""}, setMaxJobs, nil},
	{Setting{"Worker", "RecycleMemory", "90%", nil, ""}, setRecycleMemory, nil},
	{Setting{"Redis", "URL", "redis://127.0.0.1:6379/0", []string{"REDIS_URL", "HUB_REDIS_URL"}, ""}, setRedisURL, nil},
	{Setting{"Redis", "Host", "", []string{"MACHINE_ID"}, ""}, setHost, nil},
	{Setting{"Redis", "Prefix", "gpuherd", nil, ""}, setKeyPart(func(c *Config) *string { return &c.Redis.Prefix }), nil},
	{Setting{"Monitor", "Listen", "127.0.0.1:9720", []string{"HEALTH_PORT"}, ""}, setListen, setPort},
	{Setting{"Monitor", "MachineStatus", "no", nil, ""}, setBool(func(c *Config) *bool { return &c.Monitor.MachineStatus }), nil},
}

func setCount(c *Config, value string) error {
	if value == "all" {
		c.GPU.Count = -1
		return nil
	}
	n, err := number(value, 0, gpu.MaxGPUs)
	if err != nil {
		return err
	}
	c.GPU.Count = n
	return nil
}

// number reads decimal digits between low and high.
func number(value string, low, high int) (int, error) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || int(n) < low || int(n) > high {
		return 0, fmt.Errorf("%s is not a number from %d to %d", quote(value), low, high)
	}
	return int(n), nil
}

func setBool(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, value string) error {
		b, err := unitfile.ParseBool(value)
		if err != nil {
			return notBool(value)
		}
		*field(c) = b
		return nil
	}
}

func notBool(value string) error {
	return fmt.Errorf("%s is neither yes nor no", quote(value))
}

// setName takes what may stand in WORKER_ID.
func setName(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if err := plain(value, 200); err != nil {
			return err
		}
		*field(c) = value
		return nil
	}
}

// setKeyPart takes what becomes part of a Redis key, where braces mean a hash
// slot and white space would make the key hard to type.
func setKeyPart(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if err := keyPart(value); err != nil {
			return err
		}
		*field(c) = value
		return nil
	}
}

func keyPart(value string) error {
	if err := plain(value, 200); err != nil {
		return err
	}
	if value == "" || strings.ContainsAny(value, "{} \t\"'\\*?[]") {
		return fmt.Errorf("%s cannot be part of a Redis key: no spaces, quotes, braces or *?[] there", quote(value))
	}
	return nil
}

func setHost(c *Config, value string) error {
	if value != "" {
		if err := keyPart(value); err != nil {
			return err
		}
	}
	c.Redis.Host = value
	return nil
}

// plain refuses control characters and what is longer than limit bytes.
func plain(value string, limit int) error {
	if len(value) > limit {
		return fmt.Errorf("longer than %d bytes", limit)
	}
	for _, r := range value {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return errors.New("has control characters or is no UTF-8")
		}
	}
	return nil
}

// Executors lists what [Worker] Executor= may be.
var Executors = []string{"exec", "http", "comfyui"}

func setExecutor(c *Config, value string) error {
	if !slices.Contains(Executors, value) {
		return fmt.Errorf("there is no executor %s: %s", quote(value), suggest(value, Executors, "", ""))
	}
	c.Worker.Executor = value
	return nil
}

func setExec(c *Config, value string) error {
	argv, err := program(value)
	if err != nil {
		return err
	}
	c.Worker.Exec = argv
	return nil
}

// program reads a program and its arguments.
func program(value string) ([]string, error) {
	argv, err := unitfile.SplitArgv(value)
	if err != nil {
		return nil, err
	}
	if len(argv) == 0 || !path.IsAbs(argv[0]) {
		return nil, errors.New("the program needs an absolute path")
	}
	return argv, nil
}

func setFitness(c *Config, value string) error {
	if value == "" {
		c.Worker.Fitness = nil
		return nil
	}
	argv, err := program(value)
	if err != nil {
		return err
	}
	c.Worker.Fitness = argv
	return nil
}

// maxDrain is a week: who waits longer waits for something else.
const maxDrain = 7 * 24 * time.Hour

func setDrainMax(c *Config, value string) error {
	if value == "" {
		c.Worker.DrainMax = 0
		return nil
	}
	d, err := unitfile.ParseSpan(value)
	if err != nil {
		return err
	}
	if d < time.Second || d > maxDrain {
		return fmt.Errorf("%s is not from 1s to 7d", quote(value))
	}
	c.Worker.DrainMax = d
	return nil
}

func setMaxJobs(c *Config, value string) error {
	n, err := number(value, 0, 1_000_000_000)
	if err != nil {
		return err
	}
	c.Worker.MaxJobs = n
	return nil
}

func setRecycleMemory(c *Config, value string) error {
	percent, ok := strings.CutSuffix(value, "%")
	if !ok && value != "0" {
		return fmt.Errorf("%s is no percentage of MemoryMax= such as 90%%", quote(value))
	}
	n, err := number(percent, 0, 100)
	if err != nil {
		return err
	}
	c.Worker.RecycleMemory = n
	return nil
}

func setWorkerURL(c *Config, value string) error {
	if value != "" {
		if err := workerURL(value); err != nil {
			return err
		}
	}
	c.Worker.URL = value
	return nil
}

func setRedisURL(c *Config, value string) error {
	if err := redisURL(value); err != nil {
		return err
	}
	c.Redis.URL = value
	return nil
}

// setListen takes host:port without package net, which would cost the
// generator start-up time.
func setListen(c *Config, value string) error {
	i := strings.LastIndexByte(value, ':')
	if i < 0 {
		return fmt.Errorf("%s is not host:port", quote(value))
	}
	host, port := value[:i], value[i+1:]
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if strings.ContainsAny(host, " \t/@") || strings.Contains(host, ":") && !bracketed {
		return fmt.Errorf("%s is not host:port", quote(value))
	}
	if _, err := number(port, 0, 65535); err != nil {
		return fmt.Errorf("port %w", err)
	}
	c.Monitor.Listen = value
	return nil
}

// setPort takes HEALTH_PORT, which changes the port and leaves the address.
func setPort(c *Config, value string) error {
	if _, err := number(value, 1, 65535); err != nil {
		return err
	}
	host := c.Monitor.Listen[:strings.LastIndexByte(c.Monitor.Listen, ':')]
	return setListen(c, host+":"+value)
}

// quote makes a value fit for a message: short and without control characters.
func quote(value string) string {
	if len(value) > 60 {
		value = value[:60] + "…"
	}
	return strconv.Quote(value)
}
