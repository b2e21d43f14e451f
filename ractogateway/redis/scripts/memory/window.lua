-- Reads the newest messages of a conversation, or those before a position, in whole turns, and the pinned ones.
--
-- KEYS[1] conversation   list of entries
-- KEYS[2] state          hash, see conversation.lua; both keys under one hash tag
-- ARGV[1] last           entries wanted that are not pinned, >= 1; more are read until a turn starts
-- ARGV[2] before         the position of the entry behind the last one wanted; '' for the end
--
-- Reply: {revision, entries in the list, tokens, position of the first entry, 1 if there are earlier ones, {pinned},
--         {the others, newest first}}. Errors: WRONGTYPE, BADARGUMENT.
-- Entries without a valid header are read and not counted: others stand in for them.
-- Commands (for an ACL): LLEN HMGET LRANGE.
-- O(entries read); O(list) when it was changed behind the state's back. Lists are linked in blocks: a window far from
-- both ends costs a walk over the blocks before it.

local conversation, state = KEYS[1], KEYS[2]
local last, before = tonumber(ARGV[1]), ARGV[2]

local LARGEST_READ = 64

--#include conversation.lua

if not (is_whole(last, 1, MAX_WHOLE) and (before == '' or is_whole(tonumber(before), 0, MAX_WHOLE))) then
  return redis.error_reply('BADARGUMENT window: an argument is out of range')
end
look()

local first = length
if before ~= '' then
  first = math.max(pinned_count, math.min(length, pinned_count + tonumber(before) - position))
end
local newest_first, found, is_whole_turn = {}, 0, false
local size = math.min(last, LARGEST_READ)
while first > pinned_count and not is_whole_turn do
  local from = math.max(pinned_count, first - size)
  local block = range(from, first - from)
  for i = #block, 1, -1 do
    local kind = kind_of(block[i])
    newest_first[#newest_first + 1] = block[i]
    first = from + i - 1
    if kind and kind ~= PINNED then found = found + 1 end
    is_whole_turn = found >= last and kind == START
    if is_whole_turn then break end
  end
  size = math.min(2 * size, LARGEST_READ)
end
local pinned = pinned_count > 0 and range(0, pinned_count) or {}
return {revision, length, tokens, position + first - pinned_count, first > pinned_count and 1 or 0, pinned, newest_first}
