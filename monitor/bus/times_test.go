package bus

import "time"

// WithTimes makes the Watcher ask for its subscription, give up on a reload,
// on a call and on a failed resync in the given times.
func WithTimes(probe, reload, call, retry time.Duration) Option {
	return func(o *options) {
		o.times = times{call: call, probe: probe, reassert: time.Hour, reload: reload, retry: retry}
	}
}
