-- Deletes a conversation and leaves a tombstone, so that a slow replica cannot bring it back.
--
-- KEYS[1] conversation   list of entries
-- KEYS[2] state          hash, see conversation.lua; both keys under one hash tag
-- ARGV[1] ttl            life of a conversation in ms; '' for no end
-- ARGV[2] operation      16 bytes; a call with the id of one of the last 64 writes is a replay
-- ARGV[3] expected       revision the conversation must be at; '' for any
-- ARGV[4] tombstone      least life of the state in ms; it is kept for max(ttl, tombstone)
--
-- Reply: as in conversation.lua. Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): LLEN HMGET UNLINK HSET PEXPIRE.
-- O(1); the list is freed in the background.
--
-- A conversation that does not exist gets a tombstone too: its first turn may be on its way (a kit read revision 0 and
-- waits for the model), and must be refused once the user has deleted the conversation.

local conversation, state = KEYS[1], KEYS[2]
local ttl, operation, expected, tombstone = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

--#include conversation.lua

local ttl_ms = ttl ~= '' and tonumber(ttl) or nil
if not (is_whole(tombstone, 1, MAX_MS) and (ttl == '' or is_whole(ttl_ms, 1, MAX_MS)) and is_operation_valid()) then
  return redis.error_reply('BADARGUMENT clear: an argument is out of range')
end
local refused = refusal()
if refused then return refused end

-- UNLINK comes first: after it, a server that is out of memory still lets the rest of this script write.
redis.call('UNLINK', conversation)
local dropped = length
turns, length = 0, 0
record()
expire(state, math.max(ttl_ms or 1, tombstone))
return {APPLIED, revision, dropped, length, turns}
