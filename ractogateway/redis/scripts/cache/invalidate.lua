-- Forget one answer of the exact cache, and the lease of whoever computes it.
--
-- KEYS[1]  generation   string, 16 bytes
-- KEYS[2]  entry        string, <stamp><head><envelope>, see lookup.lua
-- KEYS[3]  index        sorted set, entry name -> time of expiry
-- KEYS[4]  lease        string
--
-- ARGV[1]  member       the entry's name in the index
-- ARGV[2]  most         bytes that a stamp and a head have at most
--
-- Reply: the stamp of the entry if it was live as far as the generation and its time tell, else ''.
-- Complexity: O(log n) in the number of entries.

local generation_key, entry_key, index_key, lease_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member, most = ARGV[1], ARGV[2]
local tag_ids, first_tag, stride, wanted = '', 5, 1, {}

--#include stamps.lua

local entry = redis.call('GETRANGE', entry_key, 0, most - 1)
local left_ms = redis.call('PTTL', entry_key)
redis.call('ZCARD', index_key)

redis.call('UNLINK', entry_key, lease_key)
redis.call('ZREM', index_key, member)
if verdict(entry, 1) == DEAD then return '' end
local head = stamp_end(entry, 1)
local grace_ms = tonumber(string.sub(entry, head + 9, head + 16), 16) or 0
if left_ms >= 0 and left_ms <= grace_ms then return '' end
return string.sub(entry, 1, head)
