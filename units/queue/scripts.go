package queue

import "github.com/redis/go-redis/v9"

// The scripts about one claim share their first KEYS and ARGV:
//
//	KEYS[1] Q:jobs:high   KEYS[2] Q:jobs   KEYS[3] Q:jobs:low
//	KEYS[4] Q:dead        KEYS[5] Q:paused KEYS[6] Q:job:ID
//	ARGV[1] which of KEYS 1 to 3 the entry is in
//	ARGV[2] the entry's ID
//	ARGV[3] the consumer  ARGV[4] the delivery count: both must still hold
//
// Every script may be sent again after a time-out: what it has done already
// for the same claim it does not do twice. The field "claim" of the job's hash
// remembers which claim began, "settled" which one ended the attempt.
//
// Needs Redis 6.2. In 6.2 an XCLAIM of a deleted entry answers with a nil, in
// 7.0 it drops the entry from the group: both are handled.
const library = `
local function held()
  local p = redis.pcall('XPENDING', KEYS[tonumber(ARGV[1])], 'workers', ARGV[2], ARGV[2], 1)
  return not p.err and p[1] ~= nil and p[1][2] == ARGV[3] and p[1][4] == tonumber(ARGV[4])
end

local function claim() return ARGV[1] .. '/' .. ARGV[2] .. '/' .. ARGV[3] .. '/' .. ARGV[4] end

local function now()
  local t = redis.call('TIME')
  return string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000))
end

-- The entry goes from the group and from the stream, which would grow for ever.
local function drop()
  local stream = KEYS[tonumber(ARGV[1])]
  redis.call('XACK', stream, 'workers', ARGV[2])
  redis.call('XDEL', stream, ARGV[2])
end

local function fields()
  local r = redis.call('XRANGE', KEYS[tonumber(ARGV[1])], ARGV[2], ARGV[2])
  return r[1] and r[1][2]
end

-- The job waits again, as a new entry at the end of stream number to. false:
-- there is no entry to copy, somebody has deleted it.
local function again(to)
  local f = fields()
  drop()
  if not f then return false end
  local entry = redis.call('XADD', KEYS[to], '*', unpack(f))
  redis.call('HSET', KEYS[6], 'state', 'waiting', 'entry', to .. '/' .. entry)
  redis.call('HDEL', KEYS[6], 'progress')
  return true
end

local function over(state, ttl)
  redis.call('HSET', KEYS[6], 'state', state, 'finished_ms', now())
  redis.call('HDEL', KEYS[6], 'progress')
  redis.call('PEXPIRE', KEYS[6], ttl)
end

-- The job goes to Q:dead with all that is needed to put it in again. A payload
-- above its limit is told by its size.
local function bury(why, stderr, attempts, most)
  local out = {'error', why, 'stderr', stderr, 'attempts', attempts, 'worker', ARGV[3], 'stream', KEYS[tonumber(ARGV[1])], 'entry', ARGV[2], 'failed_ms', now()}
  local f = fields() or {}
  local known = {id = true, payload = true, timeout = true, max_attempts = true, trace = true}
  for i = 1, #f, 2 do
    if known[f[i]] then
      known[f[i]] = nil
      if #f[i + 1] <= most[f[i]] then
        out[#out + 1] = f[i]
        out[#out + 1] = f[i + 1]
      else
        out[#out + 1] = f[i] .. '_bytes'
        out[#out + 1] = #f[i + 1]
      end
    end
  end
  redis.call('XADD', KEYS[4], '*', unpack(out))
  drop()
end

local most = {id = 256, payload = 262144, timeout = 64, max_attempts = 64, trace = 1024}
local ended = {succeeded = true, dead = true, cancelled = true}
`

// enqueueScript puts a job in that is not known yet. Returns 1, or 0.
//
//	KEYS[1] the stream  KEYS[2] Q:job:ID
//	ARGV[1] the stream's number  ARGV[2…] the entry's fields
var enqueueScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
local t = redis.call('TIME')
redis.call('HSET', KEYS[2], 'state', 'waiting', 'attempts', 0, 'entry', ARGV[1] .. '/' .. entry, 'home', ARGV[1],
  'enqueued_ms', string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000)))
return 1`)

// takeScript gives an entry that is there now: one that the consumer holds
// already, else one whose lease ran out, else a new one; high before normal
// before low. An entry of too many bytes or fields comes with its id only.
// Returns nil, "paused" or {stream, entry, delivery count, bytes, fields}.
//
//	KEYS[1…3] the streams  KEYS[4] Q:paused
//	ARGV[1] consumer  ARGV[2] "1": look for what the consumer holds
//	ARGV[3] lease in ms, 0: do not look for leases that ran out
//	ARGV[4] most bytes  ARGV[5] most fields
var takeScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[4]) == 1 then return 'paused' end

local function give(stream, entry, deliveries, fields)
  local bytes, id = 0, ''
  for i = 1, #fields, 2 do
    bytes = bytes + #fields[i] + #fields[i + 1]
    if fields[i] == 'id' then id = fields[i + 1] end
  end
  if bytes > tonumber(ARGV[4]) or #fields > 2 * tonumber(ARGV[5]) then
    fields = {'id', string.sub(id, 1, 257)}
  else
    bytes = 0
  end
  return {stream, entry, deliveries, bytes, fields}
end

-- XCLAIM rather than a read of the own entries from 0: that raises the
-- delivery count without telling append-only file and replicas.
local function reclaim(stream, idle, ...)
  for _ = 1, 100 do
    local p = redis.call('XPENDING', KEYS[stream], 'workers', ...)
    if not p[1] then return nil end
    local r = redis.call('XCLAIM', KEYS[stream], 'workers', ARGV[1], idle, p[1][1])
    if r[1] and r[1][2] then return give(stream, p[1][1], p[1][4] + 1, r[1][2]) end
    redis.call('XACK', KEYS[stream], 'workers', p[1][1])
  end
end

if ARGV[2] == '1' then
  for i = 1, 3 do
    local e = reclaim(i, 0, '-', '+', 1, ARGV[1])
    if e then return e end
  end
end
if ARGV[3] ~= '0' then
  for i = 1, 3 do
    local e = reclaim(i, ARGV[3], 'IDLE', ARGV[3], '-', '+', 1)
    if e then return e end
  end
end
for i = 1, 3 do
  local r = redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', 1, 'STREAMS', KEYS[i], '>')
  if r then
    local e = r[1][2][1]
    return give(i, e[1], 1, e[2])
  end
end
return false`)

// startScript begins an attempt. Returns {verdict, attempts}:
//
//	run        go ahead, this is attempt number attempts
//	lost       the entry is another's
//	paused     the queue is paused, the entry waits again
//	ended      the id has its result already, the entry is gone
//	duplicate  the id runs already by another entry, this one is gone
//	dead       all attempts are used up, the job is in Q:dead
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] most attempts  ARGV[6] ms to keep the hash of an ended job
var startScript = redis.NewScript(library + `
if not held() then return {'lost', 0} end
local job = redis.call('HMGET', KEYS[6], 'state', 'entry', 'claim', 'attempts')
local state, other, attempts = job[1], job[2], tonumber(job[4] or 0)
if state == 'running' and job[3] == claim() then return {'run', attempts} end
if ended[state] then
  drop()
  return {'ended', attempts}
end
local entry = ARGV[1] .. '/' .. ARGV[2]
if state == 'running' and other and other ~= entry then
  local stream, id = string.match(other, '^([123])/(.+)$')
  local p = redis.pcall('XPENDING', KEYS[tonumber(stream)], 'workers', id, id, 1)
  if not p.err and p[1] then
    drop()
    return {'duplicate', attempts}
  end
end
redis.call('HSETNX', KEYS[6], 'home', ARGV[1])
redis.call('HSETNX', KEYS[6], 'enqueued_ms', string.match(ARGV[2], '^%d+'))
if redis.call('EXISTS', KEYS[5]) == 1 then
  if not again(1) then over('cancelled', ARGV[6]) end
  return {'paused', attempts}
end
if attempts >= tonumber(ARGV[5]) then
  local why = redis.call('HGET', KEYS[6], 'error')
  if state == 'running' or not why then
    why = 'worker was lost while the job ran'
  end
  bury(why, redis.call('HGET', KEYS[6], 'stderr') or '', attempts, most)
  redis.call('HSET', KEYS[6], 'error', why)
  over('dead', ARGV[6])
  return {'dead', attempts}
end
attempts = attempts + 1
redis.call('HSET', KEYS[6], 'state', 'running', 'attempts', attempts, 'worker', ARGV[3],
  'entry', entry, 'claim', claim(), 'started_ms', now())
redis.call('HDEL', KEYS[6], 'progress')
return {'run', attempts}`)

// renewScript starts the lease anew. Returns 1, or 0 where it is lost. An
// entry that somebody has deleted is a cancelled job.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] progress, "" for none  ARGV[6] ms to keep the hash of an ended job
var renewScript = redis.NewScript(library + `
if not held() then return 0 end
-- JUSTID leaves the delivery count as it is. Before 7.0, which tells its version
-- to scripts, that also claims an entry that was deleted.
local r = redis.call('XCLAIM', KEYS[tonumber(ARGV[1])], 'workers', ARGV[3], 0, ARGV[2], 'JUSTID')
if not r[1] or not redis.REDIS_VERSION_NUM and not fields() then
  drop()
  redis.call('HSET', KEYS[6], 'error', 'entry was deleted from its stream')
  over('cancelled', ARGV[6])
  return 0
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[6], 'progress', ARGV[5]) end
return 1`)

// finishScript ends a job well. Returns 1, or 0 where the lease is lost.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] result  ARGV[6] ms to keep the hash
var finishScript = redis.NewScript(library + `
if redis.call('HGET', KEYS[6], 'settled') == claim() then return 1 end
if not held() then return 0 end
drop()
redis.call('HSET', KEYS[6], 'result', ARGV[5], 'settled', claim())
redis.call('HDEL', KEYS[6], 'error', 'stderr')
over('succeeded', ARGV[6])
return 1`)

// failScript ends an attempt badly: the job waits again in the stream it came
// from, or has used up its attempts and goes to Q:dead. Returns "retry",
// "dead" or "lost".
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] error  ARGV[6] end of stderr  ARGV[7] "1": no attempt would help
//	ARGV[8] most attempts  ARGV[9] ms to keep the hash of an ended job
var failScript = redis.NewScript(library + `
if redis.call('HGET', KEYS[6], 'settled') == claim() then
  return redis.call('HGET', KEYS[6], 'state') == 'dead' and 'dead' or 'retry'
end
if not held() then return 'lost' end
redis.call('HSET', KEYS[6], 'error', ARGV[5], 'stderr', ARGV[6], 'settled', claim())
local job = redis.call('HMGET', KEYS[6], 'attempts', 'home')
local attempts = tonumber(job[1] or 0)
if ARGV[7] ~= '1' and attempts < tonumber(ARGV[8]) and fields() then
  again(tonumber(job[2] or ARGV[1]))
  return 'retry'
end
bury(ARGV[5], ARGV[6], attempts, most)
over('dead', ARGV[9])
return 'dead'`)

// releaseScript hands a job back as if the attempt had never begun; it is
// the next to be claimed. Returns 1, or 0 where the lease is lost.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] ms to keep the hash of an ended job
var releaseScript = redis.NewScript(library + `
if redis.call('HGET', KEYS[6], 'settled') == claim() then return 1 end
if not held() then return 0 end
if tonumber(redis.call('HGET', KEYS[6], 'attempts') or 0) > 0 then redis.call('HINCRBY', KEYS[6], 'attempts', -1) end
redis.call('HSET', KEYS[6], 'settled', claim())
if not again(1) then
  redis.call('HSET', KEYS[6], 'error', 'entry was deleted from its stream')
  over('cancelled', ARGV[5])
end
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
bury(ARGV[5], '', 0, most)
if ARGV[6] == '1' then
  local job = redis.call('HMGET', KEYS[6], 'state', 'entry')
  if not job[1] or job[1] == 'waiting' and job[2] == ARGV[1] .. '/' .. ARGV[2] then
    redis.call('HSET', KEYS[6], 'error', ARGV[5])
    over('dead', ARGV[7])
  end
end
return 1`)

// putBackScript moves an entry that was read but not begun to the end of its
// stream. Returns 1, or 0 where it is another's.
//
//	KEYS[1…3], ARGV[1…4] as above
var putBackScript = redis.NewScript(library + `
if not held() then return 0 end
local f = fields()
if f then redis.call('XADD', KEYS[tonumber(ARGV[1])], '*', unpack(f)) end
drop()
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
