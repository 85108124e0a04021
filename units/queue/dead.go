package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// retryScript lets a dead job wait again as if it were new, and a delayed one
// at once. Returns "waiting", "" where no such job is known, "malformed" where
// there is no whole job in Q:dead, or the state in which it cannot be retried.
//
//	KEYS[1…12] as above
//	ARGV[1] ID of the entry in Q:dead, for a job without a hash, or ""
var retryScript = newScript(library + `
local h = redis.call('HMGET', job, 'state', 'entry', 'dead', 'home')
if h[1] == 'delayed' then
  if promote() then return 'waiting' end
  -- No worker has seen yet that its time has not come.
  stream, entry = string.match(h[2] or '', '^([123])/(.+)$')
  key = KEYS[tonumber(stream)]
  local named
  if key then named = select(2, remove()) end
  if not named then return '' end
  wait(stream, again(named))
  return 'waiting'
end
if h[1] and h[1] ~= 'dead' then return h[1] end
local grave = h[3] or ARGV[1]
local _, named = fields(KEYS[4], grave ~= '' and grave or '0-0')
if not named or named.id ~= id() then return '' end
for _, name in ipairs(kept) do
  if named[name .. '_bytes'] then return 'malformed' end
end
redis.call('XDEL', KEYS[4], grave)
redis.call('ZREM', KEYS[7], id())
redis.call('PERSIST', job)
redis.call('HDEL', job, 'error', 'reason', 'stderr', 'dead', 'settled', 'worker', 'started_ms', 'finished_ms')
redis.call('HSET', job, 'attempts', 0)
redis.call('HSETNX', job, 'enqueued_ms', now)
redis.call('HSETNX', job, 'home', 2)
wait(h[4] or '2', again(named))
return 'waiting'`)

// Retry lets a dead job wait again, with all its attempts, or a delayed one
// without further delay. Where no such job is known the error is ErrUnknown;
// in other states, and for what was no whole job, ErrState.
func (q *Queue) Retry(ctx context.Context, id string) error {
	err := q.retry(ctx, id)
	if err != nil {
		return fmt.Errorf("cannot retry job %.100q: %w", id, err)
	}
	return nil
}

func (q *Queue) retry(ctx context.Context, id string) error {
	if err := ValidID(id); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	state, err := retryScript.Run(ctx, q.redis, q.keys(id), "").Text()
	if err == nil && state == "" {
		// Its hash has gone before it.
		var grave string
		if grave, err = q.search(ctx, q.Key("dead"), id); err == nil && grave != "" {
			state, err = retryScript.Run(ctx, q.redis, q.keys(id), grave).Text()
		}
	}
	switch {
	case err != nil:
		return err
	case state == "":
		return ErrUnknown
	case state == Malformed:
		return fmt.Errorf("%w: it was above a limit, and that was not kept", ErrState)
	case state != Waiting:
		return fmt.Errorf("%w: it is %s", ErrState, state)
	}
	return nil
}

// RetryDead does for all jobs in Q:dead what Retry does, and returns how many
// there were. What is no whole job stays.
func (q *Queue) RetryDead(ctx context.Context) (n int, err error) {
	for after := ""; ; {
		page, next, err := q.page(ctx, q.Key("dead"), after, pageSize, false)
		if err != nil {
			return n, fmt.Errorf("cannot retry the dead jobs: %w", err)
		}
		for _, e := range page {
			if e.fields["reason"] == Malformed {
				continue
			}
			err := q.Retry(ctx, e.fields["id"])
			switch {
			case err == nil:
				n++
			case !errors.Is(err, ErrState) && !errors.Is(err, ErrUnknown):
				return n, err
			}
		}
		if after = next; after == "" {
			return n, nil
		}
	}
}

// PurgeDead removes what went into Q:dead before the time given, by Redis'
// clock, or all of it where that is zero. It returns how many there were. The
// jobs' hashes stay for their time.
func (q *Queue) PurgeDead(ctx context.Context, before time.Time) (n int64, err error) {
	if before.IsZero() {
		if before, err = q.redis.Time(ctx).Result(); err != nil {
			return 0, fmt.Errorf("cannot purge the dead jobs: %w", err)
		}
		before = before.Add(time.Millisecond)
	}
	n, err = q.redis.XTrimMinID(ctx, q.Key("dead"), strconv.FormatInt(before.UnixMilli(), 10)).Result()
	if err != nil {
		return 0, fmt.Errorf("cannot purge the dead jobs: %w", err)
	}
	return n, nil
}

// RemoveDead removes entries of Q:dead, by the Entry of List. It returns how
// many were there.
func (q *Queue) RemoveDead(ctx context.Context, entries ...string) (n int64, err error) {
	n, err = q.redis.XDel(ctx, q.Key("dead"), entries...).Result()
	if err != nil {
		return 0, fmt.Errorf("cannot remove dead jobs: %w", err)
	}
	return n, nil
}
