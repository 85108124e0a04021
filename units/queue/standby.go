package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/redisclient"
)

// When an entry comes, Redis looks at every client that is blocked on its
// stream, at a microsecond each, before anybody hears of the entry. So of a
// crowd of idle workers atStreams wait there, and the others stand by: they
// wait at a list, of which Redis looks at the first alone.
//
// Q:idle has who has a seat at the streams. Who takes a job gives up its seat
// and calls another by an element of Q:standby. No job depends on that: a seat
// is kept for seatHolds and no longer, so that the dead have none, and who
// stands by looks for jobs after each wait, called or not. Should there be a
// new one when it was not called, then those who have the seats are not there,
// and all seats are free.
const (
	atStreams     = 64
	seatHolds     = 20 * time.Second
	standbyBlocks = 2 // how many times Options.Block a wait there takes
)

// A seat is where a consumer waits, as the scripts are told.
type seat string

const (
	anywhere seat = ""        // the queue is not crowded
	noSeat   seat = "none"    // it is, and the consumer did not wait
	hasSeat  seat = "has"     // it waits at the streams, or was called there
	standby  seat = "standby" // it stands by, and was not called
)

// standing are the functions of the scripts for a crowd. What is said about who
// waits is no matter of the job: whatever comes of it, such as a key of another
// type or a right that the user lacks, the job goes on.
var standing = fmt.Sprintf(`
local function crowded(room)
  if ARGV[9] == '0' then return ARGV[12] ~= '' end -- as was found before
  for _, group in ipairs(call('XINFO', 'GROUPS', KEYS[2])) do
    local named = {}
    for i = 1, #group, 2 do named[group[i]] = group[i + 1] end
    if named.name == 'workers' then return named.consumers > room end
  end
end

-- The consumer waits no more, or not as one of a crowd.
local function leave(from)
  pcall(function()
    local calls = 1
    if from == '%[3]s' then
      call('ZREM', KEYS[10], me)
    else
      call('DEL', KEYS[10])
      calls = %[4]d
    end
    for _ = 1, calls do call('LPUSH', KEYS[11], '1') end
    call('LTRIM', KEYS[11], 0, %[4]d - 1)
    call('PEXPIRE', KEYS[11], %[2]d)
  end)
end

-- Where the consumer is to wait. While no seat is free, nobody is to be called.
local function seat()
  local room = tonumber(ARGV[11])
  local ok, where = pcall(function()
    if room == 0 or not crowded(room) then
      -- From here on it calls nobody, and some may be on standby still.
      if ARGV[12] == '%[3]s' then leave(ARGV[12]) end
      return ''
    end
    call('ZREMRANGEBYSCORE', KEYS[10], '-inf', clock)
    if call('ZCARD', KEYS[10]) >= room and not call('ZSCORE', KEYS[10], me) then
      call('DEL', KEYS[11])
      return '%[1]s'
    end
    call('ZADD', KEYS[10], format('%%d', now + %[2]d), me)
    call('PEXPIRE', KEYS[10], %[2]d)
    return '%[3]s'
  end)
  return ok and where or ''
end
`, standby, seatHolds.Milliseconds(), hasSeat, atStreams)

// giveUpScript gives the consumer's seat to another.
//
//	KEYS, ARGV[1…4] as above
var giveUpScript = newScript(core + standing + `
leave('` + string(hasSeat) + `')
return 1`)

// GiveUpSeat has another of a crowd of idle workers wait for jobs where this one
// did: it is for a consumer that claims no more, or not for some time. Without
// it the seat is kept for nobody, up to 20 s long. It sends nothing for who has
// no seat.
func (c *Consumer) GiveUpSeat(ctx context.Context) error {
	if c.seat != hasSeat {
		return nil
	}
	if err := giveUpScript.Run(ctx, c.q.redis, c.q.shared, "", "", c.name, "").Err(); err != nil {
		return fmt.Errorf("cannot leave the wait for jobs to another: %w", err)
	}
	c.left()
	c.look = true // should it go on
	return nil
}

// room is how many may wait at the streams; 0: there is no standby for c.
func (c *Consumer) room() int {
	if c.streams || c.q.opts.Block < time.Second { // BLPOP takes seconds
		return 0
	}
	return c.q.room
}

// seated notes where the consumer is to wait.
func (c *Consumer) seated(at seat) {
	c.seat, c.renew = at, time.Now().Add(seatHolds/2)
}

// left notes that the consumer found something to do instead of waiting.
func (c *Consumer) left() {
	if c.seat != anywhere {
		c.seat = noSeat
	}
}

// standsBy tells whether to wait at the list. A job of which the time comes
// before the wait would be over is waited for at the streams.
func (c *Consumer) standsBy() bool {
	return c.seat == standby && (c.due.IsZero() || time.Until(c.due) > standbyBlocks*c.q.opts.Block)
}

// standBy blocks until the consumer is called. Afterwards there is, called or
// not, something to look for.
func (c *Consumer) standBy(ctx context.Context, conn redis.Cmdable) error {
	c.look = true
	block := c.q.opts.Block
	if !c.fixed {
		block *= standbyBlocks
	}
	block = max((block - rand.N(block/4)).Round(time.Second), time.Second)
	ctx, cancel := context.WithTimeout(ctx, block+2*time.Second)
	defer cancel()
	err := conn.BLPop(ctx, block, c.q.Key("standby")).Err()
	switch {
	case err == nil:
		c.seat = hasSeat
	case errors.Is(err, redis.Nil):
		if !c.woken.Swap(false) {
			c.pause(ctx)
		}
	case redisclient.Diagnose(err).Reason == redisclient.Forbidden, redisclient.Code(err) == "ERR":
		// The user may not do that, or the server has no such command.
		c.seat, c.streams = anywhere, true
	default:
		return err
	}
	return nil
}
