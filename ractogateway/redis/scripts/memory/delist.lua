-- Takes a conversation out of its user's index, unless it has been enlisted again.
--
-- KEYS[1] index     sorted set of a user's conversation ids, see enlist.lua
-- ARGV[1] member    the conversation's id
-- ARGV[2] score     its score when the caller looked
-- ARGV[3] settled   only if it was enlisted so many ms ago: a write that it was made for may be under way; 0 where the
--                   caller has seen to it that such a write enlists again
--
-- Reply: 1 if it was taken out, else 0. Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): ZSCORE ZREM TIME.
-- O(log n).

local index = KEYS[1]
local member, score, settled = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if not (score and settled) then
  return redis.error_reply('BADARGUMENT delist: an argument is out of range')
end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if tonumber(redis.call('ZSCORE', index, member)) ~= score or score > now - settled * 1000 and settled > 0 then
  return 0
end
return redis.call('ZREM', index, member)
