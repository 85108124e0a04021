// Package jobs asks systemd to start, stop and restart units, all at once,
// and waits until each of its jobs has ended; and it makes the calls on units
// that are no jobs.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// A Verb is what is done to a unit.
type Verb string

// The verbs, as people type them.
const (
	Start   Verb = "start"
	Stop    Verb = "stop"
	Restart Verb = "restart"
	Reload  Verb = "reload" // restart as a part of a rolling reload
	Kill    Verb = "kill"
	Signal  Verb = "signal"
	Reset   Verb = "reset"
)

var past = map[Verb]string{
	Start: "started", Stop: "stopped", Restart: "restarted", Reload: "reloaded",
	Kill: "killed", Signal: "signalled", Reset: "reset",
}

// Past returns the verb for what has been done.
func (v Verb) Past() string { return past[v] }

// job reports whether systemd makes a job of the verb, which takes its time.
func (v Verb) job() bool { return v != Kill && v != Signal && v != Reset }

// Results of an Outcome beside those that systemd's JobRemoved tells: done,
// canceled, timeout, failed, dependency, skipped, invalid, assert,
// unsupported, collected, once.
const (
	Done    = "done"
	Failed  = "failed"
	Queued  = "queued"  // not waited for
	Refused = "refused" // systemd did not take the job
	Waiting = "waiting" // the time was up before the job was; it goes on
)

// Results of a rolling reload.
const (
	Unstable  = "unstable"  // it was up and did not stay so
	Lonely    = "lonely"    // no other worker of its service is up
	Untouched = "untouched" // one before it failed
	Off       = "off"       // it was stopped, and stays so
)

// A Bus is what this package needs of go-systemd's dbus.Conn.
type Bus interface {
	StartUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	StopUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	RestartUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	GetUnitTypePropertyContext(ctx context.Context, unit, unitType, property string) (*sd.Property, error)
	Connected() bool
}

// An Outcome is what became of one unit. Its JSON is the output of
// `gpuherd start --json`.
type Outcome struct {
	Unit       string `json:"unit"`
	Verb       Verb   `json:"verb"`
	Result     string `json:"result"`                // of the job: "done", "failed", …
	OK         bool   `json:"ok"`                    // the unit is where the verb wanted it, or queued on request
	Error      string `json:"error,omitempty"`       // why systemd refused, or why the wait ended
	Millis     int64  `json:"ms"`                    // from asking to the end of the job
	Active     string `json:"active,omitempty"`      // ActiveState afterwards
	Sub        string `json:"sub,omitempty"`         // SubState afterwards
	UnitResult string `json:"unit_result,omitempty"` // Result of the service: "exit-code", "oom-kill", …
	ExitStatus int32  `json:"exit_status"`           // of its main process, when it has ended
	PID        uint32 `json:"pid,omitempty"`         // main process afterwards
	StatusText string `json:"status_text,omitempty"` // what the unit said of itself last (STATUS=), where it is not OK
	err        error
	unmet      bool // a condition of the unit kept it from starting
}

// Err returns why systemd refused the unit's job, nil where it did not.
func (o *Outcome) Err() error { return o.err }

// probe is how often the connection is looked at: its end closes no channel
// that a waiting caller could see.
const probe = 500 * time.Millisecond

// inspections is how many units are inspected at once: dbus-daemon allows a
// connection 128 answers that are due (max_replies_per_connection of
// dbus-daemon(1)), and refuses the others.
const inspections = 32

// errLost is the cause of a wait that the bus ended.
var errLost = errors.New("lost the connection to systemd; the jobs go on")

// A Listener hears of units while Run waits for their jobs, in Run's goroutine.
// Each of its functions may be nil.
type Listener struct {
	Ended    func(Outcome)  // as an outcome comes
	Standing func(Standing) // of each unit that is on its way, again and again, where its job lasts
}

// Run asks for verb on every unit, waits for all jobs unless wait is false,
// and returns the outcomes in the order of units. When ctx ends, Run returns
// what it has; jobs that systemd took go on there.
func Run(ctx context.Context, bus Bus, verb Verb, units []string, wait bool, l Listener) []Outcome {
	ctx, cancel := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel(nil)

	outcomes := make([]Outcome, len(units))
	arrived := make(chan int, len(units))
	turns := make(chan struct{}, inspections)
	pending := map[int]string{}
	for i, unit := range units {
		outcomes[i] = Outcome{Unit: unit, Verb: verb}
		o := &outcomes[i]
		begun := time.Now()
		result := make(chan string, 1)
		var listener chan<- string
		if wait {
			listener = result
		}
		if err := enqueue(ctx, bus, verb, unit, listener); err != nil {
			o.Result, o.err, o.Error = Refused, err, err.Error()
			if cause := context.Cause(ctx); cause != nil {
				o.Result, o.Error = Waiting, cause.Error()
			}
			o.Millis = time.Since(begun).Milliseconds()
			report(l.Ended, *o)
			continue
		}
		if !wait {
			o.Result, o.OK = Queued, true
			report(l.Ended, *o)
			continue
		}
		pending[i] = unit
		go func() {
			await(ctx, bus, o, result, turns)
			o.Millis = time.Since(begun).Milliseconds()
			arrived <- i
		}()
	}
	ticker := time.NewTicker(probe)
	defer ticker.Stop()
	next := time.NewTimer(patience)
	defer next.Stop()
	looked := make(chan []Standing, 1) // room for a look that nobody waits for any more
	said := map[string]string{}        // by units that are starting
	for len(pending) > 0 {
		select {
		case i := <-arrived:
			delete(pending, i)
			o := &outcomes[i]
			if !o.OK && o.StatusText == "" { // systemd forgets it when it starts the unit anew
				o.StatusText = said[o.Unit]
			}
			report(l.Ended, *o)
		case <-ticker.C:
			if !bus.Connected() {
				cancel(errLost)
			}
		case <-next.C:
			asked := slices.Sorted(maps.Values(pending))
			looking.Go(func() { looked <- lookAll(ctx, bus, asked) })
		case all := <-looked:
			next.Reset(again)
			left := slices.Collect(maps.Values(pending))
			for _, s := range all {
				if !slices.Contains(left, s.Unit) {
					continue
				}
				if s.Active == "activating" && s.StatusText != "" {
					said[s.Unit] = s.StatusText
				}
				if l.Standing != nil {
					l.Standing(s)
				}
			}
		}
	}
	return outcomes
}

// Call makes one call on every unit, which is done when it returns, and
// returns the outcomes in the order of units. ended, if not nil, is called for
// each.
func Call(ctx context.Context, verb Verb, units []string, call func(ctx context.Context, unit string) error, ended func(Outcome)) []Outcome {
	outcomes := make([]Outcome, len(units))
	for i, unit := range units {
		o := &outcomes[i]
		*o = Outcome{Unit: unit, Verb: verb, Result: Done, OK: true}
		begun := time.Now()
		if err := call(ctx, unit); err != nil {
			o.Result, o.OK, o.err, o.Error = Refused, false, err, err.Error()
		}
		o.Millis = time.Since(begun).Milliseconds()
		report(ended, *o)
	}
	return outcomes
}

func report(ended func(Outcome), o Outcome) {
	if ended != nil {
		ended(o)
	}
}

func enqueue(ctx context.Context, bus Bus, verb Verb, unit string, ch chan<- string) error {
	var err error
	switch verb {
	case Start:
		_, err = bus.StartUnitContext(ctx, unit, "replace", ch)
	case Stop:
		_, err = bus.StopUnitContext(ctx, unit, "replace", ch)
	case Restart, Reload:
		_, err = bus.RestartUnitContext(ctx, unit, "replace", ch)
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	return err
}

func await(ctx context.Context, bus Bus, o *Outcome, result <-chan string, turns chan struct{}) {
	select {
	case o.Result = <-result:
	case <-ctx.Done():
		o.Result, o.Error = Waiting, context.Cause(ctx).Error()
	}
	turns <- struct{}{}
	defer func() { <-turns }()
	if o.Result == Waiting {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
		defer cancel()
		s, _ := look(ctx, bus, o.Unit)
		o.StatusText = s.StatusText
		return
	}
	inspect(ctx, bus, o)
	switch o.Verb {
	case Stop:
		// A unit that had to be killed is stopped too; UnitResult tells.
		o.OK = o.Result == Done
	default:
		// A Type=simple service that cannot run has a job that succeeds.
		o.OK = o.Result == Done && o.Active != "failed" && !strings.HasPrefix(o.Sub, "auto-restart") && !o.unmet
	}
}

// inspect reads where the unit stands now, one property at a time: all of them
// would be 450, and take systemd longer than to restart the unit. Failure to
// read costs only detail.
func inspect(ctx context.Context, bus Bus, o *Outcome) {
	read := func(kind, name string, to any) bool { return property(ctx, bus, o.Unit, kind, name, to) }
	read("Unit", "ActiveState", &o.Active)
	read("Unit", "SubState", &o.Sub)
	if o.Active == "inactive" && o.Verb != Stop {
		var met bool
		o.unmet = read("Unit", "ConditionResult", &met) && !met
	}
	read("Service", "Result", &o.UnitResult)
	read("Service", "ExecMainStatus", &o.ExitStatus)
	read("Service", "MainPID", &o.PID)
	// What did not run has said nothing: systemd has the word of the run before.
	if o.Verb != Stop && o.UnitResult != "" && o.UnitResult != "success" {
		read("Service", "StatusText", &o.StatusText)
	}
}

// Unauthorized reports whether err is polkit's or the bus's refusal.
func Unauthorized(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
		"org.freedesktop.DBus.Error.AccessDenied",
		"org.freedesktop.DBus.Error.AuthFailed":
		return true
	}
	return false
}

// String says in one line what became of the unit, without its name.
func (o *Outcome) String() string {
	switch {
	case o.Result == Queued:
		return "queued to " + string(o.Verb)
	case o.OK && o.Result == Off:
		return "not running, and left so"
	case o.OK:
		s := o.Verb.Past()
		if o.Verb.job() {
			s += " in " + o.took()
		}
		if o.Verb == Stop && o.UnitResult != "" && o.UnitResult != "success" {
			s += " (" + o.reason() + ")"
		}
		return s
	case o.Result == Refused && Unauthorized(o.err):
		return fmt.Sprintf("not %s: permission denied", o.Verb.Past())
	case o.Result == Refused:
		return fmt.Sprintf("not %s: %s", o.Verb.Past(), o.Error)
	case o.Result == Untouched:
		return strings.TrimSuffix("not touched: "+o.Error, ": ")
	case o.Result == Unstable:
		return "did not stay up: " + o.Error
	case o.Result == Lonely:
		return fmt.Sprintf("not %s: %s", o.Verb.Past(), o.Error)
	case o.Result == Waiting:
		s := fmt.Sprintf("not yet %s: %s", o.Verb.Past(), o.Error)
		if o.StatusText != "" {
			s += "; it says: " + o.StatusText
		}
		return s
	default:
		return fmt.Sprintf("failed to %s: %s", o.Verb, quoting(o.reason(), o.StatusText))
	}
}

// took is how long it was: "53ms", "2.0s".
func (o *Outcome) took() string {
	if o.Millis < 1000 {
		return fmt.Sprintf("%dms", o.Millis)
	}
	return fmt.Sprintf("%.1fs", float64(o.Millis)/1000)
}

// reason joins the job's result, where it tells anything, with the unit's.
func (o *Outcome) reason() string {
	if o.unmet {
		return "a condition of its unit is not met, see systemctl status " + o.Unit
	}
	var s string
	switch o.Result {
	case Done, Failed:
	case "dependency":
		s = "a unit it needs failed"
	case "timeout":
		s = "its job timed out"
	case "canceled":
		s = "another job replaced this one"
	default:
		s = "its job was " + o.Result
	}
	switch o.UnitResult {
	case "", "success":
		if s == "" {
			s = "it is " + o.Active + "/" + o.Sub
		}
		return s
	}
	if s != "" {
		s += ", "
	}
	s += o.UnitResult
	if o.UnitResult == "exit-code" || o.UnitResult == "signal" || o.UnitResult == "core-dump" {
		s += fmt.Sprintf(", status %d", o.ExitStatus)
	}
	return s
}
