-- Takes a conversation out of its user's index, unless it has been enlisted again.
--
-- KEYS[1] index    sorted set of a user's conversation ids, see enlist.lua
-- ARGV[1] member   the conversation's id
-- ARGV[2] score    its score when the caller looked
--
-- Reply: 1 if it was taken out, else 0. Errors, before any write: WRONGTYPE.
-- Commands (for an ACL): ZSCORE ZREM.
-- O(log n).

local index = KEYS[1]
local member, score = ARGV[1], tonumber(ARGV[2])

if tonumber(redis.call('ZSCORE', index, member)) ~= score then return 0 end
return redis.call('ZREM', index, member)
