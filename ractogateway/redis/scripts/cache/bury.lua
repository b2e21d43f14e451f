-- Delete entries of the exact cache that are dead, out of a list of candidates that carry a tag, and count them no more.
--
-- KEYS[1]     generation   string, 16 bytes
-- KEYS[2]     index        sorted set, entry name -> time of expiry
-- KEYS[3]     tag_index    the same for the entries that carry the tag
-- KEYS[4]     tag          string, 8 bytes, the tag's version; absent after an invalidate_tag
-- KEYS[5...]  entries      the candidates
--
-- ARGV[1]     tag_id       16 bytes
-- ARGV[2]     most         bytes that a stamp and a head have at most
-- ARGV[3...]  members      the names of the candidates in the indexes, in the order of KEYS
--
-- Reply: the number of entries that were deleted.
-- Complexity: O(m log n) for m candidates among n entries.

local generation_key, index_key, tag_index_key, tag_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local tag_ids, most = ARGV[1], ARGV[2]
local first_tag, stride, wanted = 4, #KEYS, {}
local first_entry, first_member = 5, 3

--#include stamps.lua

redis.call('ZCARD', index_key)
redis.call('ZCARD', tag_index_key)
local deleted = 0
for place = first_entry, #KEYS do
  local entry_key = KEYS[place]
  local member = ARGV[place - first_entry + first_member]
  local stamped = redis.call('GETRANGE', entry_key, 0, most - 1)
  local carries = false
  for number = 1, string.byte(stamped, GENERATION + 1) or 0 do
    local at = GENERATION + 2 + (number - 1) * (ID + VERSION)
    carries = carries or string.sub(stamped, at, at + ID - 1) == tag_ids
  end
  if verdict(stamped, 1) == DEAD then
    if stamped ~= '' then deleted = deleted + 1 end
    redis.call('UNLINK', entry_key)
    redis.call('ZREM', index_key, member)
    redis.call('ZREM', tag_index_key, member)
  elseif not carries then
    redis.call('ZREM', tag_index_key, member)
  end
end
return deleted
