-- Makes a conversation known to the index of its user.
--
-- KEYS[1] index        sorted set of a user's conversation ids; the score is when each was last enlisted, in µs, and
--                      never the same twice
-- ARGV[1] member       the conversation's id
-- ARGV[2] life         ms that the index lives at least from now; '' for no end
-- ARGV[3] settled      ms after which an entry may be judged by its conversation: the write it was made for is over
--
-- Reply: {ids} of up to two others, the longest not enlisted, and settled: the caller may see whether they still exist.
-- Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): PTTL ZSCORE ZADD ZRANGEBYSCORE PERSIST PEXPIRE TIME.
-- O(log n).

local index = KEYS[1]
local member, life, settled = ARGV[1], ARGV[2], tonumber(ARGV[3])

local life_ms = life ~= '' and tonumber(life) or nil
if member == '' or not settled or (life ~= '' and not life_ms) then
  return redis.error_reply('BADARGUMENT enlist: an argument is out of range')
end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local before = tonumber(redis.call('ZSCORE', index, member))
local left = redis.call('PTTL', index)

redis.call('ZADD', index, string.format('%.0f', math.max(now, (before or 0) + 1)), member)
if not life_ms then
  redis.call('PERSIST', index)
elseif left == -2 or (left >= 0 and left < life_ms) then  -- -1: somebody's conversation has no end
  redis.call('PEXPIRE', index, string.format('%.0f', life_ms))
end
return redis.call('ZRANGEBYSCORE', index, '-inf', string.format('%.0f', now - settled * 1000), 'LIMIT', 0, 2)
