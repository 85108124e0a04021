package relay

import (
	"context"
	"errors"
	"fmt"

	"gpuherd/units/redisclient"
)

// ErrFenced says that a newer monitor writes for this host.
var ErrFenced = errors.New("a newer monitor writes for this host")

// errLost says that the server lacks what it had confirmed.
var errLost = errors.New("redis lost events that it had confirmed")

// Reasons of a failure besides those of redisclient.
const (
	reasonFenced = "fenced"
	reasonLost   = "lost"
)

// reasonOf returns the reason of a failure.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, ErrFenced):
		return reasonFenced
	case errors.Is(err, errLost):
		return reasonLost
	}
	return redisclient.Diagnose(err).Reason
}

// noFailures counts none of every reason: a counter that begins when it first
// counts hides its first step from Prometheus.
func noFailures() map[string]uint64 {
	counts := map[string]uint64{reasonFenced: 0, reasonLost: 0}
	for _, reason := range redisclient.Reasons {
		counts[reason] = 0
	}
	return counts
}

// diagnose says what is wrong with Redis, and what mends it. Redis does not
// name the key that is of a wrong type, so it is looked for.
func (r *Relay) diagnose(err error) error {
	t := redisclient.Diagnose(err)
	if t.Reason != redisclient.WrongType {
		return t
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	for i, key := range append(r.keys[:len(r.keys):len(r.keys)], r.hosts) {
		is, err := r.client.Type(ctx, key).Result()
		if err == nil && is != "none" && is != keyTypes[i] {
			t.Mend = fmt.Sprintf("%s is of type %s, not %s: remove it (redis-cli DEL '%[1]s'), or change [Redis] Prefix=", key, is, keyTypes[i])
			break
		}
	}
	return t
}
