-- Deletes a conversation's messages and leaves a tombstone, so that a slow replica cannot bring it back.
--
-- KEYS[1] conversation   list of entries
-- KEYS[2] state          hash, see conversation.lua
-- KEYS[3] operation      string; while it exists, the call is a replay; all keys under one hash tag
-- ARGV[1] ttl            life of a conversation in ms; '' for no end
-- ARGV[2] expected       revision the conversation must be at; '' for any
-- ARGV[3] keep           ms that the operation is remembered
-- ARGV[4] tombstone      least life of the state in ms; it is kept for max(ttl, tombstone)
--
-- Reply: as in conversation.lua. Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): LLEN HMGET GET LRANGE UNLINK HSET SET PEXPIRE.
-- O(1); the list is freed in the background. O(list) when it was changed behind the state's back.
--
-- A conversation that does not exist gets a tombstone too: its first turn may be on its way (a kit read revision 0 and
-- waits for the model), and must be refused once the user has deleted the conversation.

local conversation, state, operation = KEYS[1], KEYS[2], KEYS[3]
local ttl, expected, keep, tombstone = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

--#include conversation.lua
--#include recording.lua

local ttl_ms = ttl ~= '' and tonumber(ttl) or nil
if not (is_whole(tonumber(tombstone), 1, MAX_MS) and (ttl == '' or is_whole(ttl_ms, 1, MAX_MS)) and is_guard_valid()) then
  return redis.error_reply('BADARGUMENT clear: an argument is out of range')
end
local waiting = look()
local refusing = refusal(waiting)
if refusing then return refusing end

-- UNLINK comes first: after it, a server that is out of memory still lets the rest of this script write.
redis.call('UNLINK', conversation)
local dropped = length
position = position + length - pinned_count
turns, tokens, pinned_count, length = 0, 0, 0, 0
record('x')
renew(ttl, tombstone)
return {APPLIED, revision, dropped, length, turns, tokens, waiting, ''}
