-- Takes the newest entries off a conversation, if they are still the ones that the caller has read.
--
-- KEYS[1] conversation   list of entries
-- KEYS[2] state          hash, see conversation.lua
-- KEYS[3] operation      string; while it exists, the call is a replay; all keys under one hash tag
-- ARGV[1] ttl            life of the conversation in ms from now; '' for no end
-- ARGV[2] expected       revision the conversation must be at; '' for any
-- ARGV[3] keep           ms that the operation is remembered
-- ARGV[4] tombstone      least life of the state in ms
-- ARGV[5...]             the entries at the tail, oldest first, at least one; a conflict if they are not (any more)
--
-- Reply: as in conversation.lua. Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): LLEN HMGET GET LRANGE LTRIM HSET SET PEXPIRE PERSIST.
-- O(entries taken); O(list) when it was changed behind the state's back.
--
-- The caller reads first and then names what it takes, because a reply that gets lost must not take a message with it.

local conversation, state, operation = KEYS[1], KEYS[2], KEYS[3]
local ttl, expected, keep, tombstone = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST_ENTRY = 5

--#include conversation.lua
--#include recording.lua

local ttl_ms = ttl ~= '' and tonumber(ttl) or nil
if not (is_whole(tonumber(tombstone), 1, MAX_MS) and (ttl == '' or is_whole(ttl_ms, 1, MAX_MS)) and is_guard_valid()
    and #ARGV >= FIRST_ENTRY) then
  return redis.error_reply('BADARGUMENT pop: an argument is out of range')
end
local waiting = look()
local refusing = refusal(waiting)
if refusing then return refusing end

local taken = #ARGV - FIRST_ENTRY + 1
local tail = taken <= length and range(length - taken, taken) or {}
local is_as_read = #tail == taken
for i = 1, #tail do
  is_as_read = is_as_read and tail[i] == ARGV[FIRST_ENTRY + i - 1]
end
if not is_as_read then return refused(CONFLICT, revision, waiting) end

redis.call('LTRIM', conversation, 0, -taken - 1)
for i = 1, #tail do
  if kind_of(tail[i]) == START then turns = turns - 1 end
  tokens = tokens - tokens_of(tail[i])
end
length = length - taken
pinned_count = math.min(pinned_count, length)
-- The first turn may have had no message of the user's; an edit behind the state's back may have made counts wrong.
turns = length == pinned_count and 0 or math.max(turns, 1)
tokens = math.max(tokens, 0)
record('x')
renew(ttl, tombstone)
return {APPLIED, revision, taken, length, turns, tokens, waiting, ''}
