package main

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/generator/version"
	"gpuherd/monitor/machinestatus"
)

// machineStatus returns what tells of the machine in the form of the PM2
// machine.
func machineStatus(conf *config.Config, host string, client redis.UniversalClient, log *slog.Logger) *machinestatus.Publisher {
	name, err := os.Hostname()
	if err != nil {
		name = host
	}
	prefix := conf.Worker.ID
	if prefix == "" {
		prefix = name // %H in the units
	}
	return machinestatus.New(client, log, machinestatus.Config{
		ID: host, WorkerPrefix: prefix, Hostname: name, Version: version.String(), Self: self,
		Uptime: func() time.Duration {
			up, err := upSince("/proc/1/stat")
			if err != nil {
				log.Debug("taking the host's uptime for the machine's", "error", err)
				return uptime()
			}
			return up
		},
	})
}

// userHZ is the clock of proc_pid_stat(5) as programs see it, on every
// architecture that Go runs on.
const userHZ = 100

// upSince returns how long the process with this stat file runs: for PID 1 that
// is how long the machine is up, also where it is a container.
func upSince(stat string) (time.Duration, error) {
	data, err := os.ReadFile(stat)
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything; the start time is the 20th
	// field behind it.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s has only %d fields", stat, len(fields))
	}
	started, err := strconv.ParseUint(fields[19], 10, 62)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", stat, err)
	}
	return max(0, uptime()-time.Duration(started)*(time.Second/userHZ)), nil
}
