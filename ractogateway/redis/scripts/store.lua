-- Store one answer in the exact cache, in the cache's current generation, and count it.
--
-- KEYS[1]  generation   string, the name of the current generation; absent after a clear, an eviction or at the beginning
-- KEYS[2]  entry        string, <generation><envelope>
-- KEYS[3]  index        sorted set, entry name -> time of expiry in ms (+inf: none), for the size
--
-- ARGV[1]  fresh        name for a new generation, 16 random bytes, used if there is none
-- ARGV[2]  ttl_ms       life of the entry in ms, '' for no end
-- ARGV[3]  member       the entry's name in the index
-- ARGV[4]  envelope     the sealed answer
--
-- Reply: 1.
-- Complexity: O(log n) in the number of entries; at most SWEEP expired names are swept from the index.
--
-- The generation and the index must outlive every entry: an entry whose generation is gone is a miss for ever, because
-- the next generation has another random name. They are given twice the life of the entry, so that most puts need not
-- touch them: each renewal is a write, which tells every client that tracks the generation to ask for it again.

local generation_key, entry_key, index_key = KEYS[1], KEYS[2], KEYS[3]
local fresh, ttl_ms, member, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local SWEEP = 100

-- Reads first: a key of a foreign type fails here, before anything is written.
local generation = redis.call('GET', generation_key)
redis.call('ZCARD', index_key)

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local ample_ms = ttl_ms ~= '' and string.format('%.0f', 2 * tonumber(ttl_ms))

local function outlive(key)
  local left = redis.call('PTTL', key)          -- -1: no end, -2: no key
  if ttl_ms == '' then
    if left >= 0 then redis.call('PERSIST', key) end
  elseif left >= 0 and left < tonumber(ttl_ms) then
    redis.call('PEXPIRE', key, ample_ms)
  end
end

if generation then
  outlive(generation_key)
else
  generation = fresh
  if ttl_ms == '' then
    redis.call('SET', generation_key, generation)
  else
    redis.call('SET', generation_key, generation, 'PX', ample_ms)
  end
end

local expiry = '+inf'
if ttl_ms == '' then
  redis.call('SET', entry_key, generation .. envelope)
else
  redis.call('SET', entry_key, generation .. envelope, 'PX', ttl_ms)
  expiry = string.format('%.0f', now_ms + tonumber(ttl_ms))
end

local expired = redis.call('ZRANGEBYSCORE', index_key, '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, SWEEP)
if #expired > 0 then redis.call('ZREM', index_key, unpack(expired)) end
local first = redis.call('EXISTS', index_key) == 0
redis.call('ZADD', index_key, expiry, member)
if first and ttl_ms ~= '' then
  redis.call('PEXPIRE', index_key, ample_ms)
else
  outlive(index_key)
end
return 1
