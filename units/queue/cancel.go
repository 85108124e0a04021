package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/redisclient"
)

// cancelScript cancels a job that waits or is delayed, and tells its worker
// where it runs. Returns the state: cancelled, running, the one in which it
// had ended already, or "" where no job is known.
//
//	KEYS[1…12] as above
//	ARGV[1], ARGV[2] stream and ID of the job's entry, for a job without a
//	hash, or ""  ARGV[5] ms to keep the hash of an ended job
//	ARGV[6] the channel Q:cancel
var cancelScript = newScript(library + `
local h = redis.call('HMGET', job, 'state', 'entry')
if ended[h[1]] then return h[1] end
if h[2] then
  stream, entry = string.match(h[2], '^([123])/(.+)$')
  key = KEYS[tonumber(stream)]
end
local named
if key then named = select(2, fields(key, entry)) end
if h[1] == 'running' then
  redis.call('HSET', job, 'cancel', now)
  redis.call('PUBLISH', ARGV[6], id())
  if named then return 'running' end
elseif not h[1] and (not named or named.id ~= id()) then
  return ''
end
if key then drop() end
redis.call('ZREM', KEYS[6], id())
if not h[1] then redis.call('HSET', job, 'attempts', 0, 'home', stream, 'enqueued_ms', string.match(entry, '^%d+')) end
stop('cancelled', ARGV[5])
return 'cancelled'`)

// Cancel ends a job that waits or is delayed at once, and tells the worker of
// one that runs. It returns the job's state after that: Cancelled; Running,
// until its worker has ended it; or Succeeded or Dead, where Cancel came too
// late. Where no such job is known the error is ErrUnknown.
func (q *Queue) Cancel(ctx context.Context, id string) (state string, err error) {
	if err := ValidID(id); err != nil {
		return "", fmt.Errorf("cannot cancel %.100q: %w", id, err)
	}
	cancel := func(at place) (string, error) {
		stream := ""
		if at.entry != "" {
			stream = fmt.Sprint(int(at.stream))
		}
		return cancelScript.Run(ctx, q.redis, q.keys(id), stream, at.entry, "", "", q.ttl(), q.Key("cancel")).Text()
	}
	state, err = cancel(place{})
	if err == nil && state == "" {
		// No worker has seen it: it may be an entry of a stream alone. One may
		// see it meanwhile, so the script looks at the hash again.
		var at place
		if at, err = q.find(ctx, id); err == nil {
			state, err = cancel(at)
		}
	}
	if err == nil && state == "" {
		err = ErrUnknown
	}
	if err != nil {
		return "", fmt.Errorf("cannot cancel %s: %w", id, err)
	}
	return state, nil
}

// quiet is how long nothing may come from the channel before Redis is asked
// whether it is there.
const quiet = 30 * time.Second

// Listen closes Cancelled of the consumer's claims as soon as Redis tells, and
// not only with the next renewal. It runs beside Claim until ctx is done.
// Where Redis does not answer, or does not allow the channel, it tries again;
// trouble, unless nil, is told of the first failure in a row.
func (c *Consumer) Listen(ctx context.Context, trouble func(error)) {
	backoff := redisclient.Backoff{Max: quiet}
	for {
		err := c.listen(ctx, backoff.Reset)
		if ctx.Err() != nil {
			return
		}
		if backoff.Tries() == 0 && trouble != nil {
			trouble(fmt.Errorf("cannot listen to %s: %w", c.q.Key("cancel"), err))
		}
		if backoff.Wait(ctx) != nil {
			return
		}
	}
}

// listen calls well once it has subscribed.
func (c *Consumer) listen(ctx context.Context, well func()) error {
	sub := c.q.redis.Subscribe(ctx, c.q.Key("cancel"))
	defer func() { _ = sub.Close() }()
	// A read is not interrupted by the context.
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	for asked := false; ; {
		m, err := sub.ReceiveTimeout(ctx, quiet)
		var timeout interface{ Timeout() bool }
		switch {
		case err == nil:
			asked = false
		case !asked && errors.As(err, &timeout) && timeout.Timeout():
			asked = true
			if err := sub.Ping(ctx); err != nil {
				return err
			}
			continue
		default:
			return err
		}
		switch m := m.(type) {
		case *redis.Subscription:
			well()
		case *redis.Message:
			claims := c.current.Load()
			for i := 0; claims != nil && i < len(*claims); i++ {
				if claim := (*claims)[i]; claim.ID == m.Payload {
					claim.setCancelled()
				}
			}
		}
	}
}
