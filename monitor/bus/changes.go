package bus

import (
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"gpuherd/monitor/state"
)

// changed takes one half of a change. systemd sends the Service interface's
// properties first, then the Unit's: the pair is one change.
func (s *session) changed(sig *dbus.Signal) {
	if s.reloading || len(sig.Body) < 2 {
		// Between Reloading(true) and (false) units come and go without
		// meaning; the resync that follows tells what is.
		return
	}
	iface, _ := sig.Body[0].(string)
	props, _ := sig.Body[1].(map[string]dbus.Variant)
	if iface != serviceIface && iface != unitIface {
		return
	}
	u, ok := s.units[sig.Path]
	if !ok {
		const most = 4096 // a bound only: resyncs take milliseconds
		if s.syncing != "" && len(s.early) < most {
			s.early = append(s.early, sig)
		}
		return
	}
	if iface == serviceIface {
		u.service = props
		return
	}
	merge(&u.now, u.service)
	merge(&u.now, props)
	u.service = nil
	u.touched = true
	u.now.ReceivedUS = time.Now().UnixMicro()
	now, ok := u.now, true
	if waiting(now) && now.InvocationID != "" && now.InvocationID != u.sent.InvocationID {
		now, ok = belated(u.sent, now)
	}
	if !ok || !news(u.sent, now) {
		s.w.stats.duplicates.Add(1)
		return
	}
	u.sent = now
	s.w.stats.changes.Add(1)
	s.w.handler.Observe(now)
}

// belated takes what systemd tells first at each start: the state before it
// once more, inactive or failed, on 254 and later auto-restart-queued, already
// with the new invocation's properties. Mostly that was told. Where a stop
// took no time, as that of a oneshot that remains after exit, it is the only
// word of it, and belongs to the invocation before.
func belated(before, now state.Observation) (state.Observation, bool) {
	if waiting(before) || before.Active == "" {
		return before, false
	}
	o := before
	o.Active, o.Sub, o.MainPID, o.StatusText = now.Active, now.Sub, 0, ""
	o.ChangedUS, o.ChangedMonoUS, o.ReceivedUS = now.ChangedUS, now.ChangedMonoUS, now.ReceivedUS
	return o, true
}

// news tells whether now says more than before.
func news(before, now state.Observation) bool {
	if now.ChangedMonoUS < before.ChangedMonoUS {
		return false
	}
	if now.Active != before.Active || now.Sub != before.Sub || now.InvocationID != before.InvocationID ||
		now.ChangedMonoUS != before.ChangedMonoUS {
		return true
	}
	// Jobs repeat the state. MainPID going to 0 announces a change that
	// follows at once.
	return now.StatusText != before.StatusText || now.MainPID != before.MainPID && now.MainPID != 0
}

// waiting tells whether a unit in that state may be started.
func waiting(o state.Observation) bool {
	return o.Active == "inactive" || o.Active == "failed" || strings.HasPrefix(o.Sub, "auto-restart")
}
