-- Store one answer in the exact cache under the current stamp, and count it; or not, if a lease was overtaken.
--
-- KEYS[1]     generation   string, 16 bytes; absent after a clear, an eviction or at the beginning
-- KEYS[2]     entry        string, <stamp><head><envelope>; the stamp is explained in stamps.lua
-- KEYS[3]     index        sorted set, entry name -> time of expiry in ms (+inf: none), for the size
-- KEYS[4]     lease        string, <token, 16 bytes><stamp>: somebody computes this answer
-- KEYS[5...]  tags         for each tag its version (string, 8 bytes) and its index (sorted set like KEYS[3])
--
-- ARGV[1]     claim        '' stores in any case; else the value of a lease: store only if it still stands
-- ARGV[2]     ttl_ms       life of the entry in ms, '' for no end
-- ARGV[3]     grace_ms     how much longer it is kept, to be served while a new one is computed; 0 for no longer
-- ARGV[4]     fresh        24 random bytes, see founding.lua
-- ARGV[5]     member       the entry's name in the index
-- ARGV[6]     head         what the readers want to know: see stamps.py
-- ARGV[7]     envelope     the sealed answer
-- ARGV[8]     tag_ids      16 bytes a tag
--
-- Reply: 1 if it was stored; 0 if the lease is gone, is another one's, or its stamp is dead: an invalidation came
-- between. Either way the lease does not stand afterwards, unless it is another one's.
-- Complexity: O(log n) in the number of entries, for each tag; at most SWEEP expired names are swept from an index.

local generation_key, entry_key, index_key, lease_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local claim, ttl_ms, grace_ms, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local member, head, envelope, tag_ids = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local first_tag, stride, wanted = 5, 2, {lease_key}
local SWEEP = 100
local life_ms = ttl_ms ~= '' and string.format('%.0f', tonumber(ttl_ms) + tonumber(grace_ms)) or ''

--#include stamps.lua
--#include founding.lua

-- Reads first: a key of a foreign type fails here, before anything is written.
local lease = values[2]
redis.call('ZCARD', index_key)
for place = first_tag + 1, #KEYS, stride do
  local tag_index_key = KEYS[place]
  redis.call('ZCARD', tag_index_key)
end

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function count_in(key, expiry)
  local expired = redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, SWEEP)
  if #expired > 0 then redis.call('ZREM', key, unpack(expired)) end
  redis.call('ZADD', key, expiry, member)
  local left = redis.call('PTTL', key)
  if left == -1 and ample_ms and redis.call('ZCARD', key) == 1 then
    redis.call('PEXPIRE', key, ample_ms)        -- it was made just now
  else
    outlive(key)
  end
end

if claim ~= '' then
  if lease ~= claim then return 0 end
  if verdict(claim, 17) ~= ALIVE then
    redis.call('UNLINK', lease_key)
    return 0
  end
end

local expiry = '+inf'
local value = founded_stamp(#ids) .. head .. envelope
if ttl_ms == '' then
  redis.call('SET', entry_key, value)
else
  redis.call('SET', entry_key, value, 'PX', life_ms)
  expiry = string.format('%.0f', now_ms + tonumber(ttl_ms))
end
if lease then redis.call('UNLINK', lease_key) end
count_in(index_key, expiry)
for place = first_tag + 1, #KEYS, stride do
  local tag_index_key = KEYS[place]
  count_in(tag_index_key, expiry)
end
return 1
