// Package run makes a program that knows nothing of systemd a good service of
// it: it tells systemd when the program is ready and that it lives, passes
// signals on, asks it to stop in the program's own way, and leaves no process
// behind. Where systemd is not there, the program just runs.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say what to run, and how.
type Options struct {
	Argv                  []string // the program and its arguments
	Env                   []string // NAME=VALUE; what systemd meant for this process alone is taken out
	Stdin, Stdout, Stderr *os.File

	// The program is ready once all of these have come true, with none of
	// them as soon as it runs.
	Ready        []Check
	ReadyLog     *regexp.Regexp // matches a line of stdout or stderr
	ReadyMessage bool           // process.send('ready') on node's channel
	ReadyTimeout time.Duration  // from the start; the program is ended then. 0: no bound

	Live         []Check       // all have to succeed, once the program is ready
	LiveInterval time.Duration // between two rounds
	LiveTimeout  time.Duration // of one check
	LiveFailures int           // so many rounds in a row that failed are the end

	StopHTTP    string        // POST here instead of the first SIGTERM or SIGINT
	StopMessage bool          // send 'shutdown' on node's channel instead of it
	StopTimeout time.Duration // the signal follows after this

	SignalGroup bool // signals go to the whole process group, not to the program alone

	Notify   func(state string) // sd_notify(3)
	Watchdog time.Duration      // WatchdogSec= of the unit; 0: none
	Log      *slog.Logger
}

// killAfter is how long a program may take that is ended because it did not
// become ready or does not live. Stopping on request has systemd's bound.
const killAfter = 10 * time.Second

// extendBy is what is asked for while the program starts, again and again.
const extendBy = 15 * time.Second

// ErrNotStarted wraps the reason why a program could not be started.
var ErrNotStarted = errors.New("cannot start the program")

// A runner is one run of one program. Its fields belong to the goroutine of
// loop.
type runner struct {
	Options
	family  *family
	program *program
	tasks   sync.WaitGroup
	ctx     context.Context // ends after the program
	checks  context.Context // ends when the program is to stop
	stop    context.CancelFunc

	notReady int           // conditions that have not come true
	met      chan struct{} // one has
	status   chan string   // what is waited for

	ready, stopping, failed bool

	asked    chan error  // how StopHTTP or StopMessage went
	pending  os.Signal   // what follows the asking
	deadline *time.Timer // of readiness, then of what was asked for
	kill     *time.Timer

	lived    chan error
	failures int
}

// Run starts the program and returns how it ended, once no process of it is
// left. Signals are passed on to it. The process should be a subreaper, see
// package subreaper, and have no other children.
func Run(o Options, signals <-chan os.Signal) (Exit, error) {
	r := &runner{
		Options: o, family: newFamily(),
		met: make(chan struct{}), status: make(chan string), asked: make(chan error, 1), lived: make(chan error),
		deadline: stopped(), kill: stopped(),
	}
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	r.checks, r.stop = context.WithCancel(r.ctx)
	defer r.stop()

	match := newMatch(o.ReadyLog)
	var err error
	if r.program, err = r.family.run(o, match); err != nil {
		return Exit{}, err
	}
	r.watch(match)
	r.loop(signals)
	cancel()
	r.tasks.Wait()
	exit := r.program.end()
	if r.failed {
		exit = Exit{Code: 1}
	}
	return exit, nil
}

// stopped returns a timer that does not run.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// loop lives as long as the program.
func (r *runner) loop(signals <-chan os.Signal) {
	extend := time.NewTicker(extendBy / 3)
	defer extend.Stop()
	watchdog := time.NewTicker(r.beat())
	defer watchdog.Stop()
	begun := time.Now()
	if r.notReady == 0 {
		r.isReady()
	} else {
		if r.ReadyTimeout > 0 {
			r.deadline.Reset(r.ReadyTimeout)
		}
		r.extend(begun)
	}
	waitingFor := ""
	for {
		select {
		case <-r.program.exited:
			if !r.ready && !r.stopping {
				r.Log.Warn("the program ended before it was ready")
			}
			return
		case sig := <-signals:
			r.signal(sig)
		case <-r.met:
			if r.notReady--; r.notReady == 0 && !r.stopping {
				r.isReady()
			}
		case waitingFor = <-r.status:
			if !r.ready && !r.stopping {
				r.say("starting: " + waitingFor)
			}
		case <-extend.C:
			if !r.ready && !r.stopping {
				r.extend(begun)
			}
		case <-watchdog.C:
			// Before it is ready the watchdog does not run, but this costs nothing.
			if r.Watchdog > 0 && r.failures < max(1, r.LiveFailures) {
				r.Notify("WATCHDOG=1")
			}
		case err := <-r.lived:
			r.judge(err)
		case err := <-r.asked:
			if err != nil {
				r.Log.Warn("cannot ask the program to stop; it gets the signal", "error", err)
				r.deadline.Stop()
				r.program.signal(r.pending)
			}
		case <-r.deadline.C:
			if r.stopping {
				r.Log.Warn("the program was asked to stop and goes on; it gets the signal", "after", r.StopTimeout)
				r.program.signal(r.pending)
				continue
			}
			r.fail(fmt.Sprintf("not ready within %s", r.ReadyTimeout), "waiting", waitingFor)
		case <-r.kill.C:
			r.program.signal(syscall.SIGKILL)
		}
	}
}

// say tells what systemctl status shows.
func (r *runner) say(status string) {
	r.Notify("STATUS=" + strings.ReplaceAll(status, "\n", " "))
}

// beat is how often the watchdog is fed: sd_watchdog_enabled(3) asks for half
// its time.
func (r *runner) beat() time.Duration {
	if r.Watchdog > 0 {
		return max(r.Watchdog/3, time.Millisecond)
	}
	return time.Hour
}

// extend asks systemd not to give up, no longer than ReadyTimeout goes on.
func (r *runner) extend(begun time.Time) {
	by := extendBy
	if r.ReadyTimeout > 0 {
		by = min(by, r.ReadyTimeout-time.Since(begun)+killAfter)
	}
	if by > 0 {
		r.Notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", by.Microseconds()))
	}
}

func (r *runner) isReady() {
	r.ready = true
	r.deadline.Stop()
	r.Notify("READY=1\nSTATUS=ready")
	if len(r.Live) > 0 {
		r.tasks.Go(r.live)
	}
}

// live makes the checks, round after round.
func (r *runner) live() {
	every := r.LiveInterval
	if r.Watchdog > 0 {
		every = min(every, max(r.Watchdog/3, time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-r.checks.Done():
			return
		case <-tick.C:
		}
		var failed error
		for _, c := range r.Live {
			if err := try(r.checks, c, r.family, r.LiveTimeout); err != nil {
				failed = fmt.Errorf("%s: %w", c, err)
				break
			}
		}
		select {
		case <-r.checks.Done():
			return
		case r.lived <- failed:
		}
	}
}

// judge counts the rounds that failed.
func (r *runner) judge(err error) {
	switch {
	case r.stopping || r.failures >= r.LiveFailures:
	case err == nil && r.failures > 0:
		r.failures = 0
		r.say("ready")
		r.Log.Info("the program answers again")
	case err == nil:
	default:
		r.failures++
		r.Log.Warn("the program does not answer", "error", err, "failures", r.failures, "of", r.LiveFailures)
		r.say("does not answer: " + err.Error())
		if r.failures < r.LiveFailures {
			return
		}
		if r.Watchdog > 0 {
			// systemd acts, and says that it was the watchdog.
			r.Notify("WATCHDOG=trigger")
			return
		}
		r.fail("the program is ended", "error", err)
	}
}

// fail ends the program, and with it the run, as failed.
func (r *runner) fail(why string, args ...any) {
	r.failed, r.stopping = true, true
	r.stop()
	r.Log.Error(why, args...)
	r.say(why)
	r.program.signal(syscall.SIGTERM)
	r.kill.Reset(killAfter)
}

// signal passes a signal on, or asks the program to stop in its own way first.
func (r *runner) signal(sig os.Signal) {
	if sig != syscall.SIGTERM && sig != syscall.SIGINT {
		r.program.signal(sig)
		return
	}
	first := !r.stopping
	r.stopping = true
	if first {
		r.Notify("STOPPING=1\nSTATUS=stopping")
		// The checks have nothing left to say; whoever asks to stop has time.
		defer r.stop()
	}
	if !first || r.StopHTTP == "" && !r.StopMessage {
		r.deadline.Stop()
		r.program.signal(sig)
		return
	}
	r.pending = sig
	r.deadline.Reset(r.StopTimeout)
	r.tasks.Go(func() { r.asked <- r.ask() })
}

// ask asks the program to stop.
func (r *runner) ask() error {
	if r.StopMessage {
		if err := r.program.send("shutdown"); err != nil {
			return err
		}
	}
	if r.StopHTTP == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.StopTimeout)
	defer cancel()
	return post(ctx, r.StopHTTP)
}

// watch begins to wait for readiness.
func (r *runner) watch(match *match) {
	wait := func(what string, until func(report func(string)) bool) {
		r.notReady++
		r.tasks.Go(func() {
			report := func(s string) {
				select {
				case r.status <- s:
				case <-r.checks.Done():
				}
			}
			report("waiting for " + what)
			if until(report) {
				select {
				case r.met <- struct{}{}:
				case <-r.checks.Done():
				}
			}
		})
	}
	came := func(c <-chan struct{}) func(func(string)) bool {
		return func(func(string)) bool {
			select {
			case <-c:
				return true
			case <-r.checks.Done():
				return false
			}
		}
	}
	for _, c := range r.Ready {
		wait(c.String(), func(report func(string)) bool { return poll(r.checks, c, r.family, report) })
	}
	if r.ReadyLog != nil {
		wait("a line that matches "+r.ReadyLog.String(), came(match.found))
	}
	if r.ReadyMessage {
		wait("process.send('ready')", came(r.program.saidReady))
	}
}

// lookPath finds the program.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotStarted, err)
	}
	return path, nil
}
