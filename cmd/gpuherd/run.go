package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"gpuherd/generator/unitfile"
	"gpuherd/units/journal"
	"gpuherd/units/run"
	"gpuherd/units/subreaper"
)

// As shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// runFlags are the flags of run, as they are written.
type runFlags struct {
	readyHTTP, readyTCP, readyFile, readyExec []string
	readyLog                                  string
	readyMessage                              bool
	readyTimeout                              time.Duration

	liveHTTP, liveTCP, liveExec []string
	liveInterval, liveTimeout   time.Duration
	liveFailures                int

	stopHTTP    string
	stopMessage bool
	stopTimeout time.Duration

	signalGroup    bool
	stderrPriority string
	envFiles       []string
	dotenv         []string
}

func (a *app) runProgram() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] -- PROGRAM [ARGUMENT...]",
		Short: "Make any program a good systemd service",
		Long: `Run a program that knows nothing of systemd as a service of Type=notify. systemd
hears that it is ready once all --ready-… have come true, without any as soon as
it runs, and gets more time until then, --ready-timeout at most. Where the unit
has WatchdogSec= the watchdog is fed, with --live-… only while they succeed:
after --live-failures in a row it is triggered, and without a watchdog the
program is ended and the exit code is 1.

Signals are passed on to the program, as with KillMode=mixed. When it has ended,
whatever it left behind is killed, so it has to stay in the foreground; its exit
status, or the signal that ended it, is passed on (127: it was not found, 126:
it cannot be run, 2: the command line is wrong). It does not see NOTIFY_SOCKET,
WATCHDOG_* and LISTEN_*. Without systemd the program just runs.

Checks: URL has to answer GET with 200 to 399; ADDRESS is host:port or the path
of a unix socket; COMMAND is split into words without a shell and has to exit
with 0. --ready-message and --stop-message are for node programs written for
PM2: process.send('ready'), and the message 'shutdown'.

--env-file is of the syntax of EnvironmentFile= and wins over the environment;
--dotenv is a .env file, and the environment wins over it. A - before the name:
it may be missing.`,
		Example: `  gpuherd run --ready-http http://127.0.0.1:8188/ -- python3 main.py --port 8188
  gpuherd run --ready-log 'listening on' --live-tcp 127.0.0.1:9000 -- ./server
  gpuherd run --dotenv .env --ready-message --stop-message -- node app.js`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return usagef("run what?; write gpuherd run -- PROGRAM")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(args)
			if err != nil {
				return err
			}
			return a.become(cmd, o, f.stderrPriority)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *runFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.SetInterspersed(false) // what follows the program is the program's
	s.StringArrayVar(&f.readyHTTP, "ready-http", nil, "ready once URL answers")
	s.StringArrayVar(&f.readyTCP, "ready-tcp", nil, "ready once ADDRESS takes a connection")
	s.StringVar(&f.readyLog, "ready-log", "", "ready once a line of its output matches REGEXP")
	s.StringArrayVar(&f.readyFile, "ready-file", nil, "ready once it has made or changed FILE")
	s.StringArrayVar(&f.readyExec, "ready-exec", nil, "ready once COMMAND succeeds")
	s.BoolVar(&f.readyMessage, "ready-message", false, "ready once a node program says process.send('ready')")
	s.DurationVar(&f.readyTimeout, "ready-timeout", 5*time.Minute, "end the program if it is not ready by then; 0: wait as long as systemd does")
	s.StringArrayVar(&f.liveHTTP, "live-http", nil, "alive while URL answers")
	s.StringArrayVar(&f.liveTCP, "live-tcp", nil, "alive while ADDRESS takes connections")
	s.StringArrayVar(&f.liveExec, "live-exec", nil, "alive while COMMAND succeeds")
	s.DurationVar(&f.liveInterval, "live-interval", 10*time.Second, "how often --live-… are looked at; oftener if WatchdogSec= needs it")
	s.DurationVar(&f.liveTimeout, "live-timeout", 5*time.Second, "how long one of them may take")
	s.IntVar(&f.liveFailures, "live-failures", 3, "failures in a row that are the end")
	s.StringVar(&f.stopHTTP, "stop-http", "", "POST to URL instead of passing on SIGTERM or SIGINT")
	s.BoolVar(&f.stopMessage, "stop-message", false, "send a node program the message 'shutdown' instead of it")
	s.DurationVar(&f.stopTimeout, "stop-timeout", 20*time.Second, "pass the signal on after this; TimeoutStopSec= of the unit should be longer")
	s.BoolVar(&f.signalGroup, "signal-group", false, "pass signals on to the whole process group: for shells, npm and the like")
	s.StringVar(&f.stderrPriority, "stderr-priority", "", "where journald reads stderr: give its lines this PRIORITY, such as err")
	s.StringArrayVar(&f.envFiles, "env-file", nil, "read variables from FILE, as EnvironmentFile= does")
	s.StringArrayVar(&f.dotenv, "dotenv", nil, "read variables from FILE, as dotenv does")
	_ = cmd.RegisterFlagCompletionFunc("stderr-priority", cobra.FixedCompletions(run.Priorities, cobra.ShellCompDirectiveNoFileComp))
}

// options checks the flags: whatever is wrong is said before anything runs.
func (f *runFlags) options(argv []string) (run.Options, error) {
	o := run.Options{
		Argv: argv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		ReadyMessage: f.readyMessage, ReadyTimeout: f.readyTimeout,
		LiveInterval: f.liveInterval, LiveTimeout: f.liveTimeout, LiveFailures: f.liveFailures,
		StopHTTP: f.stopHTTP, StopMessage: f.stopMessage, StopTimeout: f.stopTimeout, SignalGroup: f.signalGroup,
	}
	for name, d := range map[string]time.Duration{"live-interval": f.liveInterval, "live-timeout": f.liveTimeout, "stop-timeout": f.stopTimeout} {
		if d <= 0 {
			return o, usagef("--%s %s is not positive; write --%s 10s", name, d, name)
		}
	}
	if f.readyTimeout < 0 {
		return o, usagef("--ready-timeout %s is negative; 0 waits as long as systemd does", f.readyTimeout)
	}
	if f.liveFailures < 1 {
		return o, usagef("--live-failures %d is not positive; write --live-failures 3", f.liveFailures)
	}
	if f.stderrPriority != "" && !slices.Contains(run.Priorities, f.stderrPriority) {
		return o, usagef("--stderr-priority %q is unknown; known are %s", f.stderrPriority, strings.Join(run.Priorities, ", "))
	}
	if f.stopHTTP != "" {
		if _, err := run.ParseHTTP(f.stopHTTP); err != nil {
			return o, usagef("--stop-http %w", err)
		}
	}
	var err error
	if f.readyLog != "" {
		if o.ReadyLog, err = regexp.Compile(f.readyLog); err != nil {
			return o, usagef("--ready-log: %w", err)
		}
	}
	if o.Ready, err = checks("ready", f.readyHTTP, f.readyTCP, f.readyExec); err != nil {
		return o, err
	}
	for _, path := range f.readyFile {
		o.Ready = append(o.Ready, run.NewFile(path))
	}
	if o.Live, err = checks("live", f.liveHTTP, f.liveTCP, f.liveExec); err != nil {
		return o, err
	}
	o.Env, err = f.environment(os.Environ())
	return o, err
}

func checks(prefix string, urls, addresses, commands []string) ([]run.Check, error) {
	var all []run.Check
	for _, s := range urls {
		c, err := run.ParseHTTP(s)
		if err != nil {
			return nil, usagef("--%s-http %w", prefix, err)
		}
		all = append(all, c)
	}
	for _, s := range addresses {
		c, err := run.ParseTCP(s)
		if err != nil {
			return nil, usagef("--%s-tcp %q %w", prefix, s, err)
		}
		all = append(all, c)
	}
	for _, s := range commands {
		argv, err := unitfile.SplitArgv(s)
		if err == nil && len(argv) == 0 {
			err = errors.New("is empty")
		}
		if err != nil {
			return nil, usagef("--%s-exec: %w", prefix, err)
		}
		all = append(all, run.Command{Argv: argv})
	}
	return all, nil
}

// environment is environ with the files, of several the later one winning.
func (f *runFlags) environment(environ []string) ([]string, error) {
	var below, above []string
	for _, name := range f.dotenv {
		env, err := readEnv(name, run.Dotenv)
		if err != nil {
			return nil, err
		}
		below = append(below, env...)
	}
	for _, name := range f.envFiles {
		env, err := readEnv(name, run.Systemd)
		if err != nil {
			return nil, err
		}
		above = append(above, env...)
	}
	// os/exec takes the last of two.
	return slices.Concat(below, environ, above), nil
}

func readEnv(name string, syntax run.Syntax) ([]string, error) {
	path, optional := strings.CutPrefix(name, "-")
	data, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read environment file: %w", err)
	}
	return run.ParseEnv(path, data, syntax)
}

// become runs the program, and ends as it does.
func (a *app) become(cmd *cobra.Command, o run.Options, stderrPriority string) error {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	if err := cmd.Context().Err(); err != nil {
		return err // told to stop before it began
	}
	o.Log = journal.NewLogger(a.stderr)
	o.Notify = func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			o.Log.Debug("cannot tell systemd", "error", err)
		}
	}
	var err error
	if o.Watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		o.Log.Warn("cannot read the watchdog's time", "error", err)
	}
	if stderrPriority != "" && os.Getenv("JOURNAL_STREAM") != "" {
		stream, err := run.OpenStream(cmd.Context(), run.JournalSocket, filepath.Base(o.Argv[0]), slices.Index(run.Priorities, stderrPriority))
		if err != nil {
			o.Log.Warn("stderr has no priority of its own", "error", err)
		} else {
			o.Stderr = stream
		}
	}
	if err := subreaper.Become(); err != nil {
		return err
	}
	exit, err := run.Run(o, signals)
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		exit.Code = exitNotFound
	case errors.Is(err, run.ErrNotStarted):
		exit.Code = exitNotExecutable
	case err != nil:
		return err
	}
	if err != nil {
		a.complain("%s", err)
	}
	exit.Die()
	return nil
}
