-- Erases a conversation: messages, evicted messages that wait for their hook, and whom it belonged to.
--
-- KEYS[1] conversation   list of entries
-- KEYS[2] state          hash, see conversation.lua
-- KEYS[3] operation      string; while it exists, the call is a replay
-- KEYS[4] evicted        list of trimmed entries that wait for their hook
-- KEYS[5] delivering     list of those that are being given to it
-- KEYS[6] lease          string, who does that; all keys under one hash tag
-- ARGV[1] keep           ms that the operation is remembered
-- ARGV[2] tombstone      life of the state in ms
-- ARGV[3] user           tag; the conversation of anybody else stays; '' for anybody's
-- ARGV[4] expected       revision the conversation must be at; '' for any
--
-- Reply: as in conversation.lua, but tokens is the number of evicted entries. Errors, before any write: WRONGTYPE,
-- BADARGUMENT.
-- Commands (for an ACL): LLEN HMGET GET LRANGE UNLINK HSET HDEL SET PEXPIRE.
-- O(1); the lists are freed in the background. O(list) when it was changed behind the state's back.

local conversation, state, operation = KEYS[1], KEYS[2], KEYS[3]
local evicted, delivering, lease = KEYS[4], KEYS[5], KEYS[6]
local keep, tombstone, user, expected = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

--#include conversation.lua
--#include recording.lua

if not (is_whole(tonumber(tombstone), 1, MAX_MS) and is_guard_valid()) then
  return redis.error_reply('BADARGUMENT erase: an argument is out of range')
end
local waiting, owner = look()
local refusing = refusal(waiting)
if refusing then return refusing end
if user ~= '' and owner ~= user then return refused(FOREIGN, revision, waiting) end
local held = redis.call('LLEN', evicted) + redis.call('LLEN', delivering)

-- UNLINK comes first: after it, a server that is out of memory still lets the rest of this script write.
redis.call('UNLINK', conversation, evicted, delivering, lease)
redis.call('HDEL', state, 'u', 'x', 'v')
local dropped = length
position = position + length - pinned_count
turns, tokens, pinned_count, length = 0, 0, 0, 0
record('x')
renew('', tombstone)
return {APPLIED, revision, dropped, length, turns, held, 0, ''}
