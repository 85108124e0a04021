package queue

import "github.com/redis/go-redis/v9"

// The scripts share their first KEYS, and those about one claim the first
// ARGV, too:
//
//	KEYS[1] Q:jobs:high  KEYS[2] Q:jobs    KEYS[3] Q:jobs:low
//	KEYS[4] Q:dead       KEYS[5] Q:paused  KEYS[6] Q:delayed
//	KEYS[7] Q:ended      KEYS[8] Q:counts  KEYS[9] Q:job:, what the hashes' keys begin with
//	KEYS[10] Q:job:ID, where the script is about one job
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
// "token" by which call of a consumer it began.
//
// Needs Redis 6.2. In 6.2 an XCLAIM of a deleted entry answers with a nil, in
// 7.0 it drops the entry from the group: both are handled.
const library = `
local job = KEYS[10]
local stream, entry, me, deliveries = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Numbers are given to Redis as what this makes of them: Redis itself writes
-- them with all digits that a double may have, which takes longer than many a
-- command.
local function int(n) return string.format('%d', n) end
local clock = int(now)
local ended = {succeeded = true, dead = true, cancelled = true}

local function id() return string.sub(job, #KEYS[9] + 1) end

local function place() return int(stream) .. '/' .. entry end

local function claim() return place() .. '/' .. me .. '/' .. int(deliveries) end

local function held()
  local p = redis.pcall('XPENDING', KEYS[stream], 'workers', entry, entry, '1')
  return not p.err and p[1] ~= nil and p[1][2] == me and p[1][4] == deliveries
end

-- The entry goes from the group and from the stream, which would grow for ever.
local function drop()
  redis.call('XACK', KEYS[stream], 'workers', entry)
  redis.call('XDEL', KEYS[stream], entry)
end

-- The fields of an entry, as they are and by name; nil: it is not there.
local function fields(key, at)
  local r = redis.call('XRANGE', key, at, at)
  if not r[1] then return nil end
  local named = {}
  for i = 1, #r[1][2], 2 do named[r[1][2][i]] = r[1][2][i + 1] end
  return r[1][2], named
end

-- The lease begins anew. Not so where the entry was deleted: then it goes. JUSTID
-- leaves the delivery count as it is. Before 7.0, which tells its version to
-- scripts, that also claims an entry that was deleted.
local function renewed()
  local r = redis.call('XCLAIM', KEYS[stream], 'workers', me, '0', entry, 'JUSTID')
  if r[1] and (redis.REDIS_VERSION_NUM or fields(KEYS[stream], entry)) then return true end
  drop()
  return false
end

-- The same as fields, and the entry goes. Out of memory Redis refuses what may
-- need more unless the script has written something: so this comes first.
local function remove()
  local f, named = fields(KEYS[stream], entry)
  drop()
  return f, named
end

-- What a job keeps where it is no entry of a stream, and the most bytes.
local kept = {'payload', 'timeout', 'max_attempts', 'trace'}
local most = {id = 256, payload = 262144, timeout = 64, max_attempts = 64, trace = 1024}

-- Counts what happens, by the minute. Once a minute the ended whose hash has
-- gone are forgotten, and minutes that are over an hour old are added up.
local function count(what)
  local minute = math.floor(now / 60000)
  if redis.call('HINCRBY', KEYS[8], what .. ':' .. int(minute), '1') > 1 then return end
  redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', clock)
  local all = redis.call('HGETALL', KEYS[8])
  for i = 1, #all, 2 do
    local name, of = string.match(all[i], '^(%l+):(%d+)$')
    if of and tonumber(of) < minute - 60 then
      redis.call('HINCRBY', KEYS[8], name, all[i + 1])
      redis.call('HDEL', KEYS[8], all[i])
    end
  end
end

-- The job waits, as a new entry with the fields f at the end of stream number to.
local function wait(to, f)
  local at = redis.call('XADD', KEYS[to], '*', unpack(f))
  redis.call('HSET', job, 'state', 'waiting', 'entry', int(to) .. '/' .. at)
  redis.call('HDEL', job, 'progress', 'claim')
end

-- The job waits until the time due, in ms. Its hash keeps what its entry had.
local function delay(named, due)
  for _, name in ipairs(kept) do
    if named[name] then redis.call('HSET', job, name, named[name]) end
  end
  redis.call('HSET', job, 'state', 'delayed', 'due_ms', due)
  redis.call('HDEL', job, 'progress', 'claim', 'entry')
  redis.call('ZADD', KEYS[6], due, id())
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
  if redis.call('ZREM', KEYS[6], id()) == 0 or h.err or h[1] ~= 'delayed' then return false end
  local named = {}
  for i, name in ipairs(kept) do named[name] = h[i + 2] end
  wait(tonumber(h[2] or 2), again(named))
  redis.call('HDEL', job, 'due_ms', unpack(kept))
  return true
end

-- The job has come to its end: the hash, with the fields that follow, stays for
-- ttl ms.
local function over(state, ttl, ...)
  redis.call('HSET', job, 'state', state, 'finished_ms', clock, ...)
  redis.call('HDEL', job, 'progress', 'entry', 'claim', 'token', 'cancel', 'due_ms', unpack(kept))
  redis.call('PEXPIRE', job, ttl)
  redis.call('ZADD', KEYS[7], int(now + ttl), id())
  count(state)
end

-- The entry goes to Q:dead with all that is needed to put the job in again.
-- What is above its limit is told by its size. Returns the entry there.
local function bury(why, reason, stderr, attempts)
  local out = {'error', why, 'reason', reason, 'stderr', stderr, 'attempts', attempts, 'worker', me,
    'stream', KEYS[stream], 'entry', entry, 'failed_ms', clock}
  local _, named = remove()
  for name, limit in pairs(most) do
    local value = named and named[name]
    if value then
      out[#out + 1] = #value <= limit and name or name .. '_bytes'
      out[#out + 1] = #value <= limit and value or #value
    end
  end
  return redis.call('XADD', KEYS[4], '*', unpack(out))
end

-- So does the entry of a job that has failed for good.
local function die(why, reason, stderr, attempts, ttl, ...)
  local grave = bury(why, reason, stderr, attempts)
  over('dead', ttl, 'error', why, 'reason', reason, 'stderr', stderr, 'dead', grave, ...)
end

-- Whether the job waits or runs by its entry other, or is delayed.
local function elsewhere(state, other)
  if state == 'delayed' and not other then return redis.call('ZSCORE', KEYS[6], id()) end
  local s, at = string.match(other or '', '^([123])/(.+)$')
  return s and fields(KEYS[tonumber(s)], at)
end

-- Begins an attempt of the job by the entry. Returns a verdict and the number
-- of attempts:
--
--   run        go ahead
--   delayed    its time has not come
--   ended      the id has its result already, the entry is gone
--   duplicate  the id waits or runs by another entry, this one is gone
--   cancelled  and the entry is gone
--   paused     the job waits again, before all others
--   dead       no attempt is left, or the hash is none; the job is in Q:dead
local function start(limit, ttl, token, due, paused)
  local h = redis.pcall('HMGET', job, 'state', 'entry', 'claim', 'attempts', 'cancel', 'token')
  if h.err then
    bury('key ' .. job .. ' is no hash', 'malformed', '', 0)
    return 'dead', 0
  end
  local state, attempts = h[1], tonumber(h[4] or 0)
  if ended[state] then
    drop()
    return 'ended', attempts
  end
  local this = place()
  if h[2] ~= this and elsewhere(state, h[2]) then
    drop()
    return 'duplicate', attempts
  end
  local origin = not state and {'home', int(stream), 'enqueued_ms', string.match(entry, '^%d+')} or {}
  local unfit = h[5] or due > now or paused or attempts >= limit or deliveries > limit + 100
  if unfit and not state then redis.call('HSET', job, unpack(origin)) end
  if h[5] then
    drop()
    over('cancelled', ttl)
    return 'cancelled', attempts
  end
  if due > now or paused then
    local f, named = remove()
    if not f then
      over('cancelled', ttl)
      return 'cancelled', attempts
    end
    if due > now then
      delay(named, due)
      return 'delayed', attempts
    end
    wait(1, f)
    return 'paused', attempts
  end
  -- The consumer never heard that this attempt began: it is the same one.
  local unheard = state == 'running' and h[6] == token
  if unheard then
    attempts = attempts - 1
  elseif state == 'running' then
    count('lost')
  end
  if attempts >= limit or deliveries > limit + 100 then
    if state == 'running' then
      die('worker was lost while the job ran', 'lost', '', attempts, ttl)
    else
      local last = redis.call('HMGET', job, 'error', 'reason', 'stderr')
      die(last[1] or 'no attempt came to an end', last[2] or 'lost', last[3] or '', attempts, ttl)
    end
    return 'dead', attempts
  end
  attempts = attempts + 1
  redis.call('HSET', job, 'state', 'running', 'attempts', int(attempts), 'worker', me,
    'entry', this, 'claim', claim(), 'token', token, 'started_ms', clock, unpack(origin))
  if state then redis.call('HDEL', job, 'progress', 'due_ms') end
  return 'run', attempts
end
`

// takeScript begins an attempt of an entry that is there now: one that the
// consumer holds already, else one whose lease ran out, else a new one; high
// before normal before low. Delayed jobs whose time has come wait again
// first. What it cannot judge itself, it gives unbegun: parse is to do that.
// Of what has too many bytes or fields it gives the id only. Returns
//
//	{"paused"}
//	{"none", ms until the next delayed job is due, or −1}
//	{"run", stream, entry, delivery count, attempt, fields}
//	{"read", stream, entry, delivery count, bytes, fields}
//	{another verdict of start, delivery count, id}
//
//	KEYS[1…9] as above, ARGV[3] consumer
//	ARGV[5] most attempts  ARGV[6] ms to keep the hash of an ended job
//	ARGV[7] token  ARGV[8] "1": look for what the consumer holds
//	ARGV[9] lease in ms, 0: do not look for leases that ran out
//	ARGV[10] most bytes  ARGV[11] most fields
var takeScript = redis.NewScript(library + taking + `
return take()`)

const taking = `
-- XCLAIM rather than a read of the own entries from 0: that raises the
-- delivery count without telling append-only file and replicas.
local function reclaim(idle, ...)
  for i = 1, 3 do
    for _ = 1, 100 do
      local p = redis.call('XPENDING', KEYS[i], 'workers', ...)
      if not p[1] then break end
      local r = redis.call('XCLAIM', KEYS[i], 'workers', me, idle, p[1][1])
      if r[1] and r[1][2] then
        stream, entry, deliveries = i, p[1][1], p[1][4] + 1
        return r[1][2]
      end
      redis.call('XACK', KEYS[i], 'workers', p[1][1])
    end
  end
end

local function new()
  for i = 1, 3 do
    local r = redis.call('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', '1', 'STREAMS', KEYS[i], '>')
    if r then
      stream, entry, deliveries = i, r[1][2][1][1], 1
      return r[1][2][1][2]
    end
  end
end

local function take()
  if redis.call('EXISTS', KEYS[5]) == 1 then return {'paused'} end

  for _, due in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', clock, 'LIMIT', '0', '16')) do
    job = KEYS[9] .. due
    promote()
  end

  local f = ARGV[8] == '1' and reclaim(0, '-', '+', 1, me)
    or ARGV[9] ~= '0' and reclaim(ARGV[9], 'IDLE', ARGV[9], '-', '+', 1)
    or new()
  if not f then
    local due = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
    return {'none', due[2] and math.max(0, due[2] - now) or -1}
  end

  local named, bytes = {}, 0
  for i = 1, #f, 2 do
    named[f[i]] = f[i + 1]
    bytes = bytes + #f[i] + #f[i + 1]
  end
  if bytes > tonumber(ARGV[10]) or #f > 2 * tonumber(ARGV[11]) then
    return {'read', stream, entry, deliveries, bytes, {'id', string.sub(named.id or '', 1, 257)}}
  end

  -- What parse takes for certain. It knows more, such as times and UTF-8.
  local function plain(name, pattern)
    local value = named[name]
    return not value or #value <= most[name] and string.find(value, pattern)
  end
  if not (named.id and plain('id', '^[%w%p ]+$') and #(named.payload or '') <= most.payload and not named.not_before and
    plain('timeout', '^[1-9]%d?%d?%d?%d?%d?$') and plain('max_attempts', '^[1-9]%d?%d?$') and plain('trace', '^[%w%p ]*$')) then
    return {'read', stream, entry, deliveries, 0, f}
  end
  job = KEYS[9] .. named.id
  local verdict, attempts = start(tonumber(named.max_attempts or ARGV[5]), ARGV[6], ARGV[7], 0, false)
  if verdict == 'run' then return {verdict, stream, entry, deliveries, attempts, f} end
  return {verdict, deliveries, named.id}
end
`

// startScript begins an attempt of an entry that was read unbegun. Returns
// {verdict of start, or "lost", attempt}.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] most attempts  ARGV[6] ms to keep the hash of an ended job
//	ARGV[7] token  ARGV[8] not before this time in ms, 0 for none
var startScript = redis.NewScript(library + `
if not held() then return {'lost', 0} end
local verdict, attempts = start(tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8]), redis.call('EXISTS', KEYS[5]) == 1)
-- The lease begins now, however long ago the entry was read.
if verdict == 'run' and not renewed() then
  over('cancelled', ARGV[6])
  return {'cancelled', attempts}
end
return {verdict, attempts}`)

// The scripts that end a claim, and renewScript, begin alike.
const claimed = library + `
local h = redis.call('HMGET', job, 'settled', 'claim', 'cancel', 'attempts', 'home', 'state')
local settled, cancelled, attempts, home = h[1] == claim(), h[3], tonumber(h[4] or 0), tonumber(h[5] or stream)
local lost = not held() or h[2] and h[2] ~= claim() or ended[h[6]]
`

// renewScript starts the lease anew. Returns 1, 2 where the job is to be
// cancelled, or 0 where the lease is lost. An entry that somebody has deleted
// is a cancelled job.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] progress, "" for none  ARGV[6] ms to keep the hash of an ended job
var renewScript = redis.NewScript(claimed + `
if lost then return 0 end
if not renewed() then
  over('cancelled', ARGV[6])
  return 0
end
if ARGV[5] ~= '' then redis.call('HSET', job, 'progress', ARGV[5]) end
return cancelled and 2 or 1`)

// finishScript ends a job well, also where it was to be cancelled: it was too
// late for that. Returns 1, or 0 where the lease is lost.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] result  ARGV[6] ms to keep the hash
var finishScript = redis.NewScript(finishing + `
return finish(ARGV[5], ARGV[6])`)

const finishing = claimed + `
local function finish(result, ttl)
  if settled then return 1 end
  if lost then return 0 end
  drop()
  if attempts > 1 then redis.call('HDEL', job, 'error', 'reason', 'stderr') end
  over('succeeded', ttl, 'result', result, 'settled', claim())
  return 1
end
`

// finishTakeScript does what finishScript does, and then what takeScript does.
// Returns what the latter does, or {"lost"}, and then nothing was taken.
//
//	KEYS, ARGV[1…4] as above, of the job to finish
//	ARGV[5…11] as for takeScript  ARGV[12] result
var finishTakeScript = redis.NewScript(finishing + taking + `
if finish(ARGV[12], ARGV[6]) == 0 then return {'lost'} end
return take()`)

// failScript ends an attempt badly: the job waits again, in the stream that it
// came from or until its delay is over, or it has used up its attempts and
// goes to Q:dead. Returns "retry", "dead", "cancelled" or "lost".
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] error  ARGV[6] reason  ARGV[7] end of stderr
//	ARGV[8] "1": no attempt would help  ARGV[9] most attempts
//	ARGV[10] delay in ms  ARGV[11] ms to keep the hash of an ended job
var failScript = redis.NewScript(claimed + `
if settled then return ended[h[6]] and h[6] or 'retry' end
if lost then return 'lost' end
local last = ARGV[8] == '1' or attempts >= tonumber(ARGV[9])
if last and not cancelled then
  die(ARGV[5], ARGV[6], ARGV[7], attempts, ARGV[11], 'settled', claim())
  count('failed')
  return 'dead'
end
local f, named = remove()
redis.call('HSET', job, 'error', ARGV[5], 'reason', ARGV[6], 'stderr', ARGV[7], 'settled', claim())
count('failed')
if cancelled or not f then
  over('cancelled', ARGV[11])
  return 'cancelled'
end
if tonumber(ARGV[10]) > 0 then delay(named, now + ARGV[10]) else wait(home, f) end
return 'retry'`)

// releaseScript hands a job back as if the attempt had never begun; it is
// the next to be claimed. Returns 1, or 0 where the lease is lost.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] ms to keep the hash of an ended job
var releaseScript = redis.NewScript(claimed + `
if settled then return 1 end
if lost then return 0 end
local f = remove()
redis.call('HSET', job, 'settled', claim())
count('released')
if attempts > 0 then redis.call('HINCRBY', job, 'attempts', -1) end
if cancelled or not f then over('cancelled', ARGV[5]) else wait(1, f) end
return 1`)

// buryScript sends an entry that cannot be a job to Q:dead. Returns 1, or 0
// where the lease is lost. Only a valid id has a hash, and a job that is known
// already by that id stays as it is.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] error  ARGV[6] "1": the id is valid
//	ARGV[7] ms to keep the hash
var buryScript = redis.NewScript(library + `
if not held() then return 0 end
local h = redis.pcall('HMGET', job, 'state', 'entry')
if ARGV[6] == '1' and not h.err and not ended[h[1]] and
  (h[2] == place() or not elsewhere(h[1], h[2])) then
  die(ARGV[5], 'malformed', '', 0, ARGV[7])
else
  bury(ARGV[5], 'malformed', '', 0)
end
return 1`)

// putBackScript moves an entry that was read but not begun to the end of its
// stream. Returns 1, or 0 where it is another's.
//
//	KEYS[1…9], ARGV[1…4] as above
var putBackScript = redis.NewScript(library + `
if not held() then return 0 end
local f = remove()
if f then redis.call('XADD', KEYS[stream], '*', unpack(f)) end
return 1`)

// leaveScript forgets a consumer, where it holds nothing: with what it holds
// the redelivery would be lost. Returns how many of the streams knew it.
//
//	KEYS[1…3] the streams  ARGV[1] the consumer
var leaveScript = redis.NewScript(`
local n = 0
for i = 1, 3 do
  local p = redis.pcall('XPENDING', KEYS[i], 'workers', '-', '+', 1, ARGV[1])
  if not p.err and not p[1] then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], 'workers', ARGV[1])
    n = n + 1
  end
end
return n`)
