package queue

import "fmt"

// The scripts share their first KEYS, and those about one claim the first
// ARGV, too:
//
//	KEYS[1] Q:jobs:high  KEYS[2] Q:jobs    KEYS[3] Q:jobs:low
//	KEYS[4] Q:dead       KEYS[5] Q:paused  KEYS[6] Q:delayed
//	KEYS[7] Q:ended      KEYS[8] Q:counts  KEYS[9] Q:job:, what the hashes' keys begin with
//	KEYS[10] Q:idle      KEYS[11] Q:standby
//	KEYS[12] Q:job:ID, where the script is about one job
//	ARGV[1] which of KEYS 1 to 3 the entry is in
//	ARGV[2] the entry's ID
//	ARGV[3] the consumer  ARGV[4] the delivery count: both must still hold
//
// takeScript comes to know by what it reads which job's hash it needs, so that
// key is not among its KEYS. It is in the same slot. KEYS[9] itself never
// exists, as no job's ID is empty: that makes a Cluster refuse (TRYAGAIN) all
// scripts while it moves the slot, when a hash may be elsewhere already.
//
// Every script may be sent again after a time-out: what it has done already
// for the same claim it does not do twice. The field "claim" of the job's hash
// remembers which claim began, "settled" which one ended the attempt, and
// "token" by which call of a consumer it began, with a + where others began by
// the same one and it has not been renewed.
//
// Needs Redis 6.2. In 6.2 an XCLAIM of a deleted entry answers with a nil, in
// 7.0 it drops the entry from the group: both are handled.
//
// A script makes all its functions anew each time it is called. So core has only
// those that most calls need, and the others are in rest.
var (
	// library is for scripts that few jobs need.
	library = core + limits + rest
	// lean is for those that each job needs: rare() makes the functions of rest,
	// where a call comes to want one.
	lean = core + limits + "local function rare()\n" + rest + reclaiming + judging + standing +
		"return {promote = promote, reclaim = reclaim, judge = judge, seat = seat, leave = leave}\nend\n"
)

const core = `
local call, job = redis.call, KEYS[12]
local stream, entry, me, deliveries = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = KEYS[tonumber(stream)]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- All is a string that may be given to Redis. Of numbers format('%d') makes one:
-- else they are written with all digits that a double may have, which takes
-- longer than many a command.
local format = string.format
local clock = format('%d', now)
local ended = {succeeded = true, dead = true, cancelled = true}

local function id() return string.sub(job, #KEYS[9] + 1) end

local function place() return stream .. '/' .. entry end

local function claim() return stream .. '/' .. entry .. '/' .. me .. '/' .. deliveries end

local function held()
  local p = redis.pcall('XPENDING', key, 'workers', entry, entry, '1')
  return not p.err and p[1] ~= nil and p[1][2] == me and p[1][4] == tonumber(deliveries)
end

-- The entry goes from the group and from the stream, which would grow for ever.
local function drop()
  call('XACK', key, 'workers', entry)
  call('XDEL', key, entry)
end

-- Counts what happens, by the minute. Once a minute the ended whose hash has
-- gone are forgotten, and minutes that are over an hour old are added up.
local function count(what)
  local minute = math.floor(now / 60000)
  if call('HINCRBY', KEYS[8], format('%s:%d', what, minute), '1') > 1 then return end
  call('ZREMRANGEBYSCORE', KEYS[7], '-inf', clock)
  local all = call('HGETALL', KEYS[8])
  for i = 1, #all, 2 do
    local name, of = string.match(all[i], '^(%l+):(%d+)$')
    if of and tonumber(of) < minute - 60 then
      call('HINCRBY', KEYS[8], name, all[i + 1])
      call('HDEL', KEYS[8], all[i])
    end
  end
end

-- The job, which ran, has come to its end: the hash, with the fields that
-- follow, stays for ttl ms.
local function over(state, ttl, ...)
  call('HSET', job, 'state', state, 'finished_ms', clock, ...)
  call('HDEL', job, 'progress', 'entry', 'claim', 'token', 'cancel')
  call('PEXPIRE', job, ttl)
  call('ZADD', KEYS[7], format('%d', now + ttl), id())
  count(state)
end
`

// limits are the most bytes that bury keeps of a value.
var limits = fmt.Sprintf(`
local most = {id = %d, payload = %d, timeout = 64, max_attempts = 64, trace = %d}
`, MaxID, MaxPayload, maxTrace)

const rest = `
-- The fields of an entry, as they are and by name; nil: it is not there.
local function fields(key, at)
  local r = call('XRANGE', key, at, at)
  if not r[1] then return nil end
  local named = {}
  for i = 1, #r[1][2], 2 do named[r[1][2][i]] = r[1][2][i + 1] end
  return r[1][2], named
end

-- The same as fields, and the entry goes. Out of memory Redis refuses what may
-- need more unless the script has written something: so this comes first.
local function remove()
  local f, named = fields(key, entry)
  drop()
  return f, named
end

-- What a job keeps where it is no entry of a stream.
local kept = {'payload', 'timeout', 'max_attempts', 'trace'}

-- The job waits, as a new entry with the fields f at the end of stream number to.
local function wait(to, f)
  local at = call('XADD', KEYS[tonumber(to)], '*', unpack(f))
  call('HSET', job, 'state', 'waiting', 'entry', to .. '/' .. at)
  call('HDEL', job, 'progress', 'claim', 'due_ms')
end

-- The job waits until the time due, in ms. Its hash keeps what its entry had.
local function delay(named, due)
  for _, name in ipairs(kept) do
    if named[name] then call('HSET', job, name, named[name]) end
  end
  call('HSET', job, 'state', 'delayed', 'due_ms', due)
  call('HDEL', job, 'progress', 'claim', 'entry')
  call('ZADD', KEYS[6], due, id())
end

-- The fields of an entry for the job, from values by name.
local function again(named)
  local f = {'id', id()}
  for _, name in ipairs(kept) do
    if named[name] then
      f[#f + 1] = name
      f[#f + 1] = named[name]
    end
  end
  return f
end

-- The job that was delayed waits in the stream that it came from.
local function promote()
  local h = redis.pcall('HMGET', job, 'state', 'home', unpack(kept))
  if call('ZREM', KEYS[6], id()) == 0 or h.err or h[1] ~= 'delayed' then return false end
  local named = {}
  for i, name in ipairs(kept) do named[name] = h[i + 2] end
  wait(h[2] or '2', again(named))
  call('HDEL', job, unpack(kept))
  return true
end

-- The job, which may have waited or been delayed, has come to its end.
local function stop(state, ttl, ...)
  call('HDEL', job, 'due_ms', unpack(kept))
  over(state, ttl, ...)
end

-- The entry goes to Q:dead with all that is needed to put the job in again.
-- What is above its limit is told by its size. Returns the entry there.
local function bury(why, reason, stderr, attempts)
  local out = {'error', why, 'reason', reason, 'stderr', stderr, 'attempts', attempts, 'worker', me,
    'stream', key, 'entry', entry, 'failed_ms', clock}
  local _, named = remove()
  for name, limit in pairs(most) do
    local value = named and named[name]
    if value then
      out[#out + 1] = #value <= limit and name or name .. '_bytes'
      out[#out + 1] = #value <= limit and value or #value
    end
  end
  return call('XADD', KEYS[4], '*', unpack(out))
end

-- So does the entry of a job that has failed for good.
local function die(why, reason, stderr, attempts, ttl, ...)
  local grave = bury(why, reason, stderr, attempts)
  stop('dead', ttl, 'error', why, 'reason', reason, 'stderr', stderr, 'dead', grave, ...)
end

-- Whether the job waits or runs by its entry other, or is delayed.
local function elsewhere(state, other)
  if state == 'delayed' and not other then return call('ZSCORE', KEYS[6], id()) end
  local s, at = string.match(other or '', '^([123])/(.+)$')
  return s and fields(KEYS[tonumber(s)], at)
end
`
