package queue

import (
	"fmt"
)

// What start does with an entry that is not simply the first of its job.
// Returns "run" and the number of attempts so far, or another verdict of start
// and what that returns.
const judging = `
local function judge(h, origin, limit, ttl, token, due, paused)
  if h.err then
    bury('key ' .. job .. ' is no hash', 'malformed', '', 0)
    return 'dead', 0
  end
  local state, attempts = h[1], tonumber(h[4] or 0)
  if ended[state] then
    drop()
    return 'ended', attempts
  end
  if h[2] ~= place() and elsewhere(state, h[2]) then
    drop()
    return 'duplicate', attempts
  end
  local unfit = h[5] or due > now or paused or attempts >= limit or tonumber(deliveries) > limit + 100
  if unfit and not state then call('HSET', job, unpack(origin)) end
  if h[5] then
    drop()
    stop('cancelled', ttl)
    return 'cancelled', attempts
  end
  if due > now or paused then
    local f, named = remove()
    if not f then
      stop('cancelled', ttl)
      return 'cancelled', attempts
    end
    if due > now then
      delay(named, due)
      return 'delayed', attempts
    end
    wait('1', f)
    return 'paused', attempts
  end
  if state == 'running' then
    -- The consumer never heard that this attempt began: it is the same one. So it
    -- is of a job that began together with others: which of them took the worker
    -- along shows when each runs alone.
    local known, others = string.match(h[6] or '', '^([^+]*)(%+?)$')
    if known == token or others == '+' then attempts = attempts - 1 end
    if known ~= token then count('lost') end
  end
  if attempts >= limit or tonumber(deliveries) > limit + 100 then
    if state == 'running' then
      die('worker was lost while the job ran', 'lost', '', attempts, ttl)
    else
      local last = call('HMGET', job, 'error', 'reason', 'stderr')
      die(last[1] or 'no attempt came to an end', last[2] or 'lost', last[3] or '', attempts, ttl)
    end
    return 'dead', attempts
  end
  if state then call('HDEL', job, 'progress', 'due_ms', unpack(kept)) end
  return 'run', attempts
end
`

var starting = lean + `
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
  -- Of a job that no worker has seen there is nothing to be read.
  local h = call('EXISTS', job) == 1 and redis.pcall('HMGET', job, 'state', 'entry', 'claim', 'attempts', 'cancel', 'token') or {}
  local this, state, attempts = place(), h[1], tonumber(h[4] or 0)
  local origin = state and {} or {'home', stream, 'enqueued_ms', string.match(entry, '^%d+')}
  -- Most jobs wait by this entry, known or not, and may run.
  local known = state == 'waiting' and h[2] == this
  local new = not state and not h[2] and not h.err
  if not (known or new) or h[5] or due > now or paused or attempts >= limit or deliveries ~= '1' and tonumber(deliveries) > limit + 100 then
    local verdict
    verdict, attempts = rare().judge(h, origin, limit, ttl, token, due, paused)
    if verdict ~= 'run' then return verdict, attempts end
  end
  attempts = format('%d', attempts + 1)
  call('HSET', job, 'state', 'running', 'attempts', attempts, 'worker', me,
    'entry', this, 'claim', claim(), 'token', token, 'started_ms', clock, unpack(origin))
  return 'run', attempts
end
`

// XCLAIM rather than a read of the own entries from 0: that raises the
// delivery count without telling append-only file and replicas.
const reclaiming = `
local function reclaim(idle, ...)
  for i = 1, 3 do
    for _ = 1, 100 do
      local p = call('XPENDING', KEYS[i], 'workers', ...)
      if not p[1] then break end
      local r = call('XCLAIM', KEYS[i], 'workers', me, idle, p[1][1])
      if r[1] and r[1][2] then
        stream, key, entry, deliveries = format('%d', i), KEYS[i], p[1][1], format('%d', p[1][4] + 1)
        return r[1][2]
      end
      call('XACK', KEYS[i], 'workers', p[1][1])
    end
  end
end
`

// takeScript ends claims well, and begins attempts of entries that are there
// now: one that the consumer holds already, else one whose lease ran out, else
// new ones, all from the first of the streams that has any; high before normal
// before low. Delayed jobs whose time has come wait again first. What it cannot
// judge itself, it gives unbegun: parse is to do that. Of what has too many
// bytes or fields it gives the id only.
//
// Returns a list that begins with a text of one digit for each claim to end: 1,
// or 0 where the lease is lost, and then nothing is taken. There follows
//
//	nothing, where nothing was to be taken
//	"paused"
//	"none", ms until the next delayed job is due, or −1, the consumer's seat
//
// or for each entry
//
//	"run", stream, entry, delivery count, attempt, number of what follows, fields…
//	"read", stream, entry, delivery count, bytes, number of what follows, fields…
//	another verdict of start, delivery count, id
//
//	KEYS[1…11] as above, KEYS[12…] the hashes of the jobs to end
//	ARGV[3] consumer
//	ARGV[5] most attempts  ARGV[6] ms to keep the hash of an ended job
//	ARGV[7] token  ARGV[8] "1": look for what the consumer holds. So it
//	does where a job had ended already: a Cluster's client sends it all again by itself
//	ARGV[9] lease in ms, 0: do not look for leases that ran out
//	ARGV[10] how many to take at most
//	ARGV[11] how many may wait at the streams, 0: all  ARGV[12] the consumer's seat
//	ARGV[13…] for each job to end: stream, entry, delivery count, result
var takeScript = newScript(starting + `
local out, repeated = {''}, false
for i = 1, #KEYS - 11 do
  local at = 9 + 4 * i
  local result = ARGV[at + 3]
  stream, entry, deliveries, job = ARGV[at], ARGV[at + 1], ARGV[at + 2], KEYS[11 + i]
  key = KEYS[tonumber(stream)]
` + finishing + `
  out[1] = out[1] .. (settled and '1' or '0')
end
if ARGV[10] == '0' or string.find(out[1], '0', 1, true) then return out end
` + taking)

// Nothing is nested in what it returns: for each table Redis asks Lua seven
// times whether it is one of a special kind.
var taking = `
local function add(...)
  for i = 1, select('#', ...) do out[#out + 1] = select(i, ...) end
  return out
end

local due
if call('EXISTS', KEYS[5], KEYS[6]) > 0 then
  if call('EXISTS', KEYS[5]) == 1 then return add('paused') end
  due = call('ZRANGEBYSCORE', KEYS[6], '-inf', clock, 'LIMIT', '0', '16')
  local promote = due[1] and rare().promote
  for _, of in ipairs(due) do
    job = KEYS[9] .. of
    promote()
  end
end

local named
-- What parse takes for certain. It knows more, such as times and UTF-8.
local function plain(name, pattern)
  local value = named[name]
  return not value or #value <= most[name] and string.find(value, pattern)
end

-- Begins an attempt of the entry with the fields f, if that can be.
local function judge(f, token)
  local bytes = 0
  named = {}
  for i = 1, #f, 2 do
    named[f[i]] = f[i + 1]
    bytes = bytes + #f[i] + #f[i + 1]
  end
` + fmt.Sprintf(`  if bytes > %d or #f > 2 * %d then`, maxEntry, maxFields) + `
    return add('read', stream, entry, deliveries, bytes, 2, 'id', string.sub(named.id or '', 1, 257))
  end
  if not (named.id and plain('id', '^[%w%p ]+$') and #(named.payload or '') <= most.payload and not named.not_before and
    plain('timeout', '^[1-9]%d?%d?%d?%d?%d?$') and plain('max_attempts', '^[1-9]%d?%d?$') and plain('trace', '^[%w%p ]*$')) then
    return add('read', stream, entry, deliveries, 0, #f, unpack(f))
  end
  job = KEYS[9] .. named.id
  local verdict, attempts = start(tonumber(named.max_attempts or ARGV[5]), ARGV[6], token, 0, false)
  if verdict == 'run' then return add(verdict, stream, entry, deliveries, attempts, #f, unpack(f)) end
  return add(verdict, deliveries, named.id)
end

local f
-- Before 7.2 Redis counts, and tells of, those only who have had an entry.
if ARGV[8] == '1' then redis.pcall('XGROUP', 'CREATECONSUMER', KEYS[2], 'workers', me) end
if ARGV[8] == '1' or repeated then f = rare().reclaim(0, '-', '+', 1, me) end
if not f and ARGV[9] ~= '0' then f = rare().reclaim(ARGV[9], 'IDLE', ARGV[9], '-', '+', 1) end
if f then
  if ARGV[12] == '` + string(hasSeat) + `' then rare().leave(ARGV[12]) end
  return judge(f, ARGV[7])
end
for i = 1, 3 do
  -- Mostly nothing is urgent, and then to ask for the length takes less.
  local r = (i > 1 or call('XLEN', KEYS[i]) > 0) and
    call('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', ARGV[10], 'STREAMS', KEYS[i], '>')
  if r then
    -- What was promoted just now nobody else can have seen.
    local promoted = due and due[1]
    if ARGV[12] == '` + string(hasSeat) + `' or ARGV[12] == '` + string(standby) + `' and not promoted then rare().leave(ARGV[12]) end
    local entries = r[1][2]
    local token = entries[2] and ARGV[7] .. '+' or ARGV[7]
    stream, key, deliveries = format('%d', i), KEYS[i], '1'
    for _, e in ipairs(entries) do
      entry = e[1]
      judge(e[2], token)
    end
    return out
  end
end
due = call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
return add('none', due[2] and math.max(0, due[2] - now) or -1,
  (ARGV[9] ~= '0' or ARGV[12] ~= '') and rare().seat() or '')`

// startScript begins an attempt of an entry that was read unbegun. Returns
// {verdict of start, or "lost", attempt}.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] most attempts  ARGV[6] ms to keep the hash of an ended job
//	ARGV[7] token  ARGV[8] not before this time in ms, 0 for none
//	ARGV[9] "1": the job is to wait, as if the queue were paused
//	ARGV[10] the consumer's seat
var startScript = newScript(starting + renewing + `
if ARGV[10] == '` + string(hasSeat) + `' then rare().leave(ARGV[10]) end
if not held() then return {'lost', 0} end
local verdict, attempts = start(tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9] == '1' or call('EXISTS', KEYS[5]) == 1)
-- The lease begins now, however long ago the entry was read.
if verdict == 'run' and not renewed() then
  over('cancelled', ARGV[6])
  return {'cancelled', attempts}
end
return {verdict, attempts}`)

// putBackScript moves an entry that was read but not begun to the end of its
// stream. Returns 1, or 0 where it is another's.
//
//	KEYS[1…11], ARGV[1…4] as above
var putBackScript = newScript(library + `
if not held() then return 0 end
local f = remove()
if f then call('XADD', key, '*', unpack(f)) end
return 1`)

// leaveScript forgets a consumer, where it holds nothing: with what it holds
// the redelivery would be lost. Returns how many of the streams knew it.
//
//	KEYS[1…3] the streams  ARGV[1] the consumer
var leaveScript = newScript(`
local n = 0
for i = 1, 3 do
  local p = redis.pcall('XPENDING', KEYS[i], 'workers', '-', '+', 1, ARGV[1])
  if not p.err and not p[1] then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], 'workers', ARGV[1])
    n = n + 1
  end
end
return n`)
