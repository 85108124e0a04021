package queue

const renewing = `
-- The lease begins anew. Not so where the entry was deleted: then it goes. JUSTID
-- leaves the delivery count as it is. Before 7.0, which tells its version to
-- scripts, that also claims an entry that was deleted.
local function renewed()
  local r = call('XCLAIM', key, 'workers', me, '0', entry, 'JUSTID')
  if r[1] and (redis.REDIS_VERSION_NUM or call('XRANGE', key, entry, entry)[1]) then return true end
  drop()
  return false
end
`

// The scripts that end a claim, and renewScript, begin alike.
const claimed = `
local h = redis.pcall('HMGET', job, 'settled', 'claim', 'cancel', 'attempts', 'state')
local this = claim()
local settled, cancelled, attempts, state = h[1] == this, h[3], tonumber(h[4] or 0), h[5]
local lost = h.err or not held() or h[2] and h[2] ~= this or ended[state]
`

// renewScript starts the lease anew. Returns 1, 2 where the job is to be
// cancelled, or 0 where the lease is lost. An entry that somebody has deleted
// is a cancelled job.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] progress, "" for none  ARGV[6] ms to keep the hash of an ended job
var renewScript = newScript(core + renewing + claimed + `
if lost then return 0 end
if not renewed() then
  over('cancelled', ARGV[6])
  return 0
end
if ARGV[5] ~= '' then call('HSET', job, 'progress', ARGV[5]) end
-- Of several that began together this one runs: it is known whose fault it is
-- should the worker be lost.
local token = call('HGET', job, 'token')
if token and string.sub(token, -1) == '+' then call('HSET', job, 'token', string.sub(token, 1, -2)) end
return cancelled and 2 or 1`)

// finishing ends a job well, also where it was to be cancelled: it was too late
// for that. Where it had done so already, all was sent again.
const finishing = claimed + `
repeated = repeated or settled
if not settled and not lost then
  drop()
  if attempts > 1 then call('HDEL', job, 'error', 'reason', 'stderr') end
  over('succeeded', ARGV[6], 'result', result, 'settled', this)
  settled = true
end
`

// failScript ends an attempt badly: the job waits again, in the stream that it
// came from or until its delay is over, or it has used up its attempts and
// goes to Q:dead. Returns "retry", "dead", "cancelled" or "lost".
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] error  ARGV[6] reason  ARGV[7] end of stderr
//	ARGV[8] "1": no attempt would help  ARGV[9] most attempts
//	ARGV[10] delay in ms  ARGV[11] ms to keep the hash of an ended job
var failScript = newScript(library + claimed + `
if settled then return ended[state] and state or 'retry' end
if lost then return 'lost' end
local last = ARGV[8] == '1' or attempts >= tonumber(ARGV[9])
if last and not cancelled then
  die(ARGV[5], ARGV[6], ARGV[7], attempts, ARGV[11], 'settled', this)
  count('failed')
  return 'dead'
end
local f, named = remove()
call('HSET', job, 'error', ARGV[5], 'reason', ARGV[6], 'stderr', ARGV[7], 'settled', this)
count('failed')
if cancelled or not f then
  over('cancelled', ARGV[11])
  return 'cancelled'
end
if tonumber(ARGV[10]) > 0 then delay(named, now + ARGV[10]) else wait(call('HGET', job, 'home') or stream, f) end
return 'retry'`)

// releaseScript hands a job back as if the attempt had never begun; it is
// the next to be claimed. A job that is to be cancelled ends instead, and its
// attempt counts. Returns 1, or 0 where the lease is lost.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] ms to keep the hash of an ended job
var releaseScript = newScript(library + claimed + `
if settled then return 1 end
if lost then return 0 end
local f = remove()
call('HSET', job, 'settled', this)
if cancelled or not f then
  over('cancelled', ARGV[5])
  return 1
end
count('released')
if attempts > 0 then call('HINCRBY', job, 'attempts', -1) end
wait('1', f)
return 1`)

// buryScript sends an entry that cannot be a job to Q:dead. Returns 1, or 0
// where the lease is lost. Only a valid id has a hash, and a job that is known
// already by that id stays as it is.
//
//	KEYS, ARGV[1…4] as above
//	ARGV[5] error  ARGV[6] "1": the id is valid
//	ARGV[7] ms to keep the hash
var buryScript = newScript(library + `
if not held() then return 0 end
local h = redis.pcall('HMGET', job, 'state', 'entry')
if ARGV[6] == '1' and not h.err and not ended[h[1]] and
  (h[2] == place() or not elsewhere(h[1], h[2])) then
  die(ARGV[5], 'malformed', '', 0, ARGV[7])
else
  bury(ARGV[5], 'malformed', '', 0)
end
return 1`)
