package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/pulse"
	"gpuherd/monitor/state"
)

// A session holds what lives as long as one connection to the bus. Two
// connections: one only receives signals, so that no reply waits behind them
// and no signal behind a slow call; the other makes calls.
type session struct {
	w       *Watcher
	sig     *dbus.Conn
	order   dbus.SignalHandler // of sig: what goes through it stays in order
	calls   *Conn
	owner   string // systemd's unique name on the bus; "": it has none now
	starts  uint64 // of systemd, that the bus told of
	knows   uint64 // after which of them systemd has had our subscription
	warned  bool   // of a signal that is not systemd's
	signals chan *dbus.Signal
	helpers sync.WaitGroup

	units map[dbus.ObjectPath]*unit
	early []*dbus.Signal // of units that a resync under way may bring

	reloading bool
	reloadEnd <-chan time.Time // the window's time-out

	matched  map[string]bool // units with a match; only the resync under way touches it
	syncing  string          // reason of the resync under way; "": none
	again    string          // reason of one more resync, after the one under way
	failures int             // resyncs failed in a row
	retry    <-chan time.Time
	probed   chan probed
	probing  bool
	asked    time.Time // when systemd was last known to send us signals
}

// A unit is what the session knows of one unit.
type unit struct {
	now     state.Observation       // all properties told so far
	sent    state.Observation       // as last handed on
	service map[string]dbus.Variant // of the Service interface, waiting for their Unit half
	touched bool                    // by a signal, since the resync under way began
}

// A herd is the answer of a resync. It comes to the loop as the body of a
// signal that the bus never sent, named herdAnswer: so it stands behind every
// signal that systemd sent before it answered.
type herd struct {
	units []state.Observation
	err   error
	knows uint64 // session.knows once all went well
}

const herdAnswer = "gpuherd.herd"

type probed struct {
	at    time.Time
	fresh bool // systemd had lost the subscription
	err   error
}

// open connects, matches what does not depend on the herd, and subscribes.
func (s *session) open(ctx context.Context) (err error) {
	s.order = dbus.NewSequentialSignalHandler()
	if s.sig, err = connect(ctx, s.w.opts, s.order); err != nil {
		return err
	}
	s.sig.Signal(s.signals)
	defer func() {
		if err != nil {
			_ = s.sig.Close()
		}
	}()
	for _, m := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchObjectPath(managerPath), dbus.WithMatchInterface(managerIface), dbus.WithMatchMember("Reloading")},
		{dbus.WithMatchSender(busDaemon), dbus.WithMatchInterface(busDaemon), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err = s.sig.AddMatchSignalContext(ctx, m...); err != nil {
			return fmt.Errorf("cannot match systemd's signals: %w", err)
		}
	}
	if err = s.sig.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, busName).Store(&s.owner); err != nil {
		return fmt.Errorf("cannot find systemd on the bus: %w", err)
	}
	b, err := connect(ctx, s.w.opts, nil)
	if err != nil {
		return err
	}
	s.calls = &Conn{bus: b, systemd: b.Object(busName, managerPath), opts: s.w.opts}
	s.asked = time.Now()
	if _, err = s.calls.Subscribe(ctx); err != nil {
		_ = b.Close()
	}
	return err
}

func (s *session) close() {
	_ = s.sig.Close()
	_ = s.calls.Close()
}

// loop reads signals until ctx ends or the bus goes. Nothing in it waits for
// an answer.
func (s *session) loop(ctx context.Context) error {
	ticks := pulse.NewTicker(tick)
	defer ticks.Stop()
	probe := time.NewTicker(s.w.opts.times.probe)
	defer probe.Stop()
	reassert := time.NewTicker(s.w.opts.times.reassert)
	defer reassert.Stop()
	s.resync(ctx, ReasonConnected)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case sig, ok := <-s.signals:
			if !ok {
				return errors.New("the bus closed the connection")
			}
			if h, ok := answered(sig); ok {
				if err := s.answer(ctx, h); err != nil {
					return err
				}
				continue
			}
			if !s.trusted(sig) {
				if !s.warned { // once, whoever sends so many
					s.warned = true
					s.w.log.Warn("a signal that is not systemd's is not believed", "signal", sig.Name, "sender", sig.Sender, "path", sig.Path)
				}
				continue
			}
			s.w.stats.signals.Add(1)
			s.take(ctx, sig)
		case <-ticks.C:
			s.w.turn()
			if !s.calls.bus.Connected() {
				return errors.New("the bus closed the connection for calls")
			}
		case <-s.reloadEnd:
			s.w.log.Warn("systemd has not finished reloading, reading the herd regardless", "after", s.w.opts.times.reload)
			s.endReload(ctx, ReasonReload)
		case <-s.retry:
			s.retry = nil
			s.resync(ctx, ReasonRetry)
		case <-reassert.C:
			s.resync(ctx, ReasonPeriodic)
		case <-probe.C:
			s.probe(ctx)
		case p := <-s.probed:
			s.probing = false
			if errors.Is(p.err, context.DeadlineExceeded) && ctx.Err() == nil {
				// It is busy. Its signals still come over this connection.
				s.w.log.Warn("systemd does not answer", "error", p.err)
				continue
			}
			if p.err != nil {
				return p.err
			}
			if p.fresh {
				s.w.log.Warn("systemd had lost the subscription, reading the herd")
				s.w.handler.Lost(s.asked.UnixMicro())
				s.resync(ctx, ReasonSubscription)
			}
			s.asked = p.at
		}
	}
}

// probe subscribes once more. Success means that systemd had lost us, and that
// signals are missing.
func (s *session) probe(ctx context.Context) {
	if s.probing || s.reloading {
		return
	}
	s.probing = true
	s.helpers.Go(func() {
		at := time.Now()
		fresh, err := s.calls.Subscribe(ctx)
		s.probed <- probed{at, fresh, err}
	})
}

// answered returns what a herdAnswer holds. Nothing that comes over the bus can
// hold a herd, whatever its name.
func answered(sig *dbus.Signal) (herd, bool) {
	if sig.Name != herdAnswer || len(sig.Body) != 1 {
		return herd{}, false
	}
	h, ok := sig.Body[0].(herd)
	return h, ok
}

// busDaemon is the sender of what the bus itself says.
const busDaemon = "org.freedesktop.DBus"

// trusted reports whether the signal is of whom it should be. Matches are no
// help: whoever is on the bus may send a signal to one receiver alone, which
// then gets it without a match.
func (s *session) trusted(sig *dbus.Signal) bool {
	if sig.Sender == busDaemon { // a name that nobody else can have
		return true
	}
	return sig.Name != busDaemon+".NameOwnerChanged" && sig.Sender == s.owner && s.owner != ""
}

func (s *session) take(ctx context.Context, sig *dbus.Signal) {
	switch sig.Name {
	case propsChanged:
		s.changed(sig)
	case managerIface + ".Reloading":
		var active bool
		if dbus.Store(sig.Body, &active) != nil {
			return
		}
		if active {
			s.beginReload()
			return
		}
		s.endReload(ctx, ReasonReload)
	case busDaemon + ".NameOwnerChanged":
		var name, before, after string
		if dbus.Store(sig.Body, &name, &before, &after) != nil || name != busName {
			return
		}
		s.owner = after
		if after == "" { // daemon-reexec: away until the new one is there
			s.beginReload()
			return
		}
		s.starts++
		s.endReload(ctx, ReasonReexec)
	}
}

func (s *session) beginReload() {
	s.reloading = true
	s.reloadEnd = time.After(s.w.opts.times.reload)
	s.w.handler.Lost(time.Now().UnixMicro())
}

func (s *session) endReload(ctx context.Context, reason string) {
	s.reloading, s.reloadEnd = false, nil
	for _, u := range s.units {
		u.service = nil
	}
	s.resync(ctx, reason)
}

// resync reads the herd's membership and every unit, off the loop. Units get
// their match before they are asked, so nothing falls between.
func (s *session) resync(ctx context.Context, reason string) {
	if s.syncing != "" {
		s.again = reason
		return
	}
	s.syncing = reason
	s.w.stats.resync(reason).Add(1)
	for _, u := range s.units {
		u.touched = false
	}
	// Not every version carries subscriptions over.
	starts, strange := s.starts, s.starts != s.knows
	s.helpers.Go(func() {
		h, err := s.read(ctx, strange)
		s.order.DeliverSignal("", "", &dbus.Signal{Name: herdAnswer, Body: []any{herd{h, err, starts}}})
	})
}

func (s *session) read(ctx context.Context, subscribe bool) ([]state.Observation, error) {
	if subscribe {
		if _, err := s.calls.Subscribe(ctx); err != nil {
			return nil, err
		}
	}
	names, err := s.calls.Herd(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.match(ctx, names); err != nil {
		return nil, err
	}
	list, err := s.calls.Observe(ctx, names)
	if err != nil {
		return nil, err
	}
	// Replies come over the other connection and could overtake signals. The
	// bus keeps the order towards one receiver: once it has answered on the
	// signals' connection, all that systemd sent before its replies is here.
	ctx, cancel := context.WithTimeout(ctx, s.w.opts.times.call)
	defer cancel()
	if err := s.sig.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetId", 0).Err; err != nil {
		return nil, fmt.Errorf("cannot reach the bus: %w", err)
	}
	return list, nil
}

func (s *session) match(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.w.opts.times.call)
	defer cancel()
	rule := func(name string) []dbus.MatchOption {
		return []dbus.MatchOption{dbus.WithMatchSender(busName), dbus.WithMatchObjectPath(UnitPath(name)),
			dbus.WithMatchInterface(propsIface), dbus.WithMatchMember("PropertiesChanged")}
	}
	for _, n := range names {
		if s.matched[n] {
			continue
		}
		if err := s.sig.AddMatchSignalContext(ctx, rule(n)...); err != nil {
			return fmt.Errorf("cannot match the signals of %s: %w", n, err)
		}
		s.matched[n] = true
	}
	for n := range maps.Clone(s.matched) {
		if slices.Contains(names, n) {
			continue
		}
		if err := s.sig.RemoveMatchSignalContext(ctx, rule(n)...); err != nil {
			return fmt.Errorf("cannot drop the match of %s: %w", n, err)
		}
		delete(s.matched, n)
	}
	return nil
}

// answer takes the outcome of a resync.
func (s *session) answer(ctx context.Context, h herd) error {
	reason := s.syncing
	s.syncing = ""
	if h.err != nil {
		s.early = nil
		s.again = ""
		s.failures++
		if ctx.Err() != nil || s.failures >= resyncAttempts || errors.Is(h.err, dbus.ErrClosed) {
			return h.err
		}
		s.w.log.Warn("cannot read the herd, trying again", "reason", reason, "error", h.err)
		s.retry = time.After(s.w.opts.times.retry)
		return nil
	}
	s.failures = 0
	s.knows = h.knows
	if s.reloading { // what it read may be of before; the window's end resyncs
		s.early = nil
		s.again = ""
		return nil
	}
	if again := s.again; again != "" {
		s.again = ""
		s.early = nil
		s.resync(ctx, again)
		return nil
	}
	s.adopt(h.units)
	all := make([]state.Observation, 0, len(h.units))
	for _, o := range h.units {
		all = append(all, s.units[UnitPath(o.Name)].sent)
	}
	s.w.handler.Sync(all, reason)
	s.w.subscribed.Store(true)
	early := s.early
	s.early = nil
	for _, sig := range early {
		s.changed(sig)
	}
	return nil
}

// adopt makes the answer of a resync the session's view. Where a signal came
// since the unit was asked, it knows better.
func (s *session) adopt(list []state.Observation) {
	units := make(map[dbus.ObjectPath]*unit, len(list))
	for _, o := range list {
		path := UnitPath(o.Name)
		u, ok := s.units[path]
		switch {
		case !ok:
			u = &unit{now: o, sent: o}
		case u.touched && o.ChangedMonoUS <= u.sent.ChangedMonoUS:
			for _, v := range []*state.Observation{&u.now, &u.sent} {
				v.ControlGroup, v.Slice, v.MemoryMax = o.ControlGroup, o.Slice, o.MemoryMax
				v.Memory, v.MemoryPeak, v.CPUNS = o.Memory, o.MemoryPeak, o.CPUNS
			}
		default:
			u.now, u.sent = o, o
		}
		units[path] = u
	}
	s.units = units
}
