package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gpuherd/packaging/npm"
)

const (
	ioredisVersion = "5.8.2" // so that a run can be repeated
	pm2Channel     = "bench:pm2"
)

//go:embed relay.js
var relayProgram []byte

// A pm2 is PM2 with its daemon, its workers and a relay to Redis.
type pm2 struct {
	modules string // where node_modules is
	home    string // PM2_HOME
	relay   *exec.Cmd
}

// installPM2 puts PM2, its Redis client and the relay into the user's cache folder.
func installPM2(ctx context.Context) (string, error) {
	return installModules(ctx, map[string]string{"pm2": npm.PM2, "ioredis": ioredisVersion}, "relay.js", relayProgram)
}

// installModules has npm install packages (name → version), and puts a program
// that needs them beside these.
func installModules(ctx context.Context, packages map[string]string, name string, program []byte) (string, error) {
	dir, err := npm.Install(ctx, packages)
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, name), program, 0o644)
}

// startPM2 starts a daemon of its own, the workers victim0 … victimN−1, and
// the relay that publishes their events.
func startPM2(ctx context.Context, modules, redisSocket string, workers int) (*pm2, error) {
	home, err := os.MkdirTemp("", "pm2-") // short: it holds unix sockets
	if err != nil {
		return nil, err
	}
	p := &pm2{modules: modules, home: home}
	type app struct {
		Name        string `json:"name"`
		Script      string `json:"script"`
		Args        string `json:"args"`
		Interpreter string `json:"interpreter"`
		MaxRestarts int    `json:"max_restarts"`
	}
	var apps []app
	for i := range workers {
		apps = append(apps, app{fmt.Sprintf("victim%d", i), "/bin/sleep", "infinity", "none", 1 << 20})
	}
	ecosystem, err := json.Marshal(map[string]any{"apps": apps})
	if err != nil {
		return nil, err
	}
	config := filepath.Join(home, "ecosystem.json")
	if err := os.WriteFile(config, ecosystem, 0o644); err != nil {
		return nil, err
	}
	if out, err := p.command(ctx, "node_modules/pm2/bin/pm2", "start", config).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start PM2: %w\n%s", err, out), p.stop())
	}
	p.relay = p.command(ctx, "relay.js", redisSocket, pm2Channel)
	p.relay.Stderr = os.Stderr
	out, err := p.relay.StdoutPipe()
	if err == nil {
		err = p.relay.Start()
	}
	if err == nil {
		err = waitReady(out)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the relay: %w", err), p.stop())
	}
	return p, nil
}

// waitReady reads until the relay listens to PM2's bus.
func waitReady(out io.Reader) error {
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line != "ready\n" {
		err = fmt.Errorf("it says %q", line)
	}
	return err
}

func (p *pm2) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = p.modules
	cmd.Env = append(os.Environ(), "PM2_HOME="+p.home)
	return cmd
}

// stop ends the relay, the workers and the daemon.
func (p *pm2) stop() error {
	var errs []error
	if p.relay != nil && p.relay.Process != nil {
		errs = append(errs, p.relay.Process.Kill())
		_ = p.relay.Wait() // "signal: killed" is what was asked for
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := p.command(ctx, "node_modules/pm2/bin/pm2", "kill").CombinedOutput(); err != nil {
		errs = append(errs, fmt.Errorf("cannot stop PM2: %w\n%s", err, out))
	}
	return errors.Join(append(errs, os.RemoveAll(p.home))...)
}

// pids returns the processes of the daemon and of the relay.
func (p *pm2) pids() (daemon, relay int, err error) {
	daemon, err = readPID(filepath.Join(p.home, "pm2.pid"))
	return daemon, p.relay.Process.Pid, err
}

func (p *pm2) name() string    { return "PM2 " + npm.PM2 + " with a relay" }
func (p *pm2) channel() string { return pm2Channel }

// victim returns the process of worker i, from the file in which PM2 keeps it.
func (p *pm2) victim(i int) (int, error) {
	return readPID(filepath.Join(p.home, "pids", fmt.Sprintf("victim%d-%d.pid", i, i)))
}

// told reads one message of the relay.
func (p *pm2) told(payload string) (worker int, what change, err error) {
	var m struct{ Event, Name string }
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		return 0, other, fmt.Errorf("cannot read %q: %w", payload, err)
	}
	worker, err = strconv.Atoi(strings.TrimPrefix(m.Name, "victim"))
	switch m.Event {
	case "exit":
		what = ended
	case "online":
		what = running
	}
	return worker, what, err
}

func readPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
