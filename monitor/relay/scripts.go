package relay

import "github.com/redis/go-redis/v9"

// claimScript makes a monitor the writer of its host.
//
//	KEYS[1] fence
//	ARGV    boot_id, epoch, started (unix µs), 1 where a claim was made before,
//	        number of the last batch made
//
// The fence is a hash: boot_id, epoch, started of the writer, and batch and
// seq as last applied. Batches are counted on over a new claim: a server that
// was primary before, and becomes it again, must not take a new batch for one
// that it has applied. A higher epoch wins. Where the fence has this epoch or
// a higher one, the epochs do not tell who is newer (the folder that keeps them
// was lost, or two machines have one name): then who started later wins, with
// an epoch above both.
//
// Answers {"ok", epoch} or {"fenced", epoch, boot_id}.
var claimScript = redis.NewScript(`
local epoch = tonumber(ARGV[2])
local f = redis.call('HMGET', KEYS[1], 'epoch', 'started', 'boot_id')
if f[1] then
  local other = tonumber(f[1])
  local mine = other == epoch and f[3] == ARGV[1] and f[2] == ARGV[3]
  if other >= epoch and not mine then
    if ARGV[4] == '1' or tonumber(f[2] or '0') > tonumber(ARGV[3]) then
      return {'fenced', f[1], f[3] or ''}
    end
    epoch = other + 1
  end
end
local n = string.format('%.0f', epoch)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'boot_id', ARGV[1], 'epoch', n, 'started', ARGV[3], 'batch', ARGV[5], 'seq', '0')
return {'ok', n}
`)

// batchScript applies one batch, once, and only for the writer that claimed.
//
//	KEYS fence, units, gpus, events, heartbeat
//	ARGV boot_id, epoch, batch, channel, maxlen, then operations:
//	     R                                  forget all units and GPUs
//	     U name json     D name             set, drop a unit
//	     C               G index json       forget all GPUs, set a GPU
//	     E seq at_us type data message      append an event, publish message
//	     P message                          publish only
//	     H json ms       O                  set, drop the heartbeat
//
// Batches are numbered without a gap from what the claim said. One that was applied is not
// applied again, so a batch whose answer was lost can be sent again, and one
// that was late in the network does nothing. Events are guarded by their seq
// besides, should a script fail half-way.
//
// Answers {"ok"}, {"done"} (applied before), {"fenced", epoch, boot_id}, or
// {"lost", seq}: the server does not have what it once confirmed, and seq is
// that of our last event in the stream.
var batchScript = redis.NewScript(`
local f = redis.call('HMGET', KEYS[1], 'epoch', 'boot_id', 'batch', 'seq')
local epoch, batch = tonumber(ARGV[2]), tonumber(ARGV[3])
local theirs = tonumber(f[1] or '0')
if theirs > epoch or (theirs == epoch and f[2] ~= ARGV[1]) then
  return {'fenced', f[1], f[2] or ''}
end
local applied, seq = tonumber(f[3] or '0'), tonumber(f[4] or '0')
if theirs == epoch and applied >= batch then return {'done'} end
if theirs < epoch or applied < batch - 1 or (seq > 0 and redis.call('EXISTS', KEYS[4]) == 0) then
  local last, has = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1], {}
  if last then
    for i = 1, #last[2], 2 do has[last[2][i]] = last[2][i+1] end
  end
  if has.boot_id == ARGV[1] and has.epoch == ARGV[2] then return {'lost', has.seq} end
  return {'lost', '0'}
end
-- What is somebody else's is not for us to delete.
local function forget(key)
  local is = redis.call('TYPE', key).ok
  if is ~= 'hash' and is ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key) end
  redis.call('DEL', key)
end
local i, n = 6, #ARGV
while i <= n do
  local op = ARGV[i]
  if op == 'U' then
    redis.call('HSET', KEYS[2], ARGV[i+1], ARGV[i+2])
    i = i + 3
  elseif op == 'E' then
    if tonumber(ARGV[i+1]) > seq then
      redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[5], '*', 'boot_id', ARGV[1], 'epoch', ARGV[2],
        'seq', ARGV[i+1], 'at_us', ARGV[i+2], 'type', ARGV[i+3], 'data', ARGV[i+4])
      redis.call('HSET', KEYS[1], 'seq', ARGV[i+1])
      redis.call('PUBLISH', ARGV[4], ARGV[i+5])
    end
    i = i + 6
  elseif op == 'P' then
    redis.call('PUBLISH', ARGV[4], ARGV[i+1])
    i = i + 2
  elseif op == 'D' then
    redis.call('HDEL', KEYS[2], ARGV[i+1])
    i = i + 2
  elseif op == 'G' then
    redis.call('HSET', KEYS[3], ARGV[i+1], ARGV[i+2])
    i = i + 3
  elseif op == 'C' then
    local wrong = forget(KEYS[3])
    if wrong then return wrong end
    i = i + 1
  elseif op == 'R' then
    local wrong = forget(KEYS[2]) or forget(KEYS[3])
    if wrong then return wrong end
    i = i + 1
  elseif op == 'H' then
    redis.call('SET', KEYS[5], ARGV[i+1], 'PX', ARGV[i+2])
    i = i + 3
  elseif op == 'O' then
    redis.call('DEL', KEYS[5])
    i = i + 1
  else
    return redis.error_reply('ERR unknown operation ' .. op)
  end
end
redis.call('HSET', KEYS[1], 'batch', ARGV[3])
return {'ok'}
`)

// enlistScript notes that a host's heart beat now. The time is that of the node
// that holds the list, so that who reads it need not trust the hosts' clocks.
//
//	KEYS[1] the hosts
//	ARGV    host
//
// Answers 1 where the host is new, else 0.
var enlistScript = redis.NewScript(`
local t = redis.call('TIME')
return redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])`)
