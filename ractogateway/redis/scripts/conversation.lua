-- Included by the scripts that write to a conversation: who may write, and how a write is recorded.
-- Expects the locals `conversation`, `state` (keys), `operation` (16 bytes), `expected` (a revision, '' for any).
--
-- State hash: r  revision: how many writes there were; 0 without state
--             t  turns
--             n  length of the list that t was counted for
--             o  ids of the last 64 writes, 16 bytes each, newest first: the i-th made the i-th newest revision, so a
--                replay is told its original revision although none is stored. Every write must put an id here.
--
-- Every writing script replies {status, revision, entries dropped, entries in the list, turns}:
--   1 applied    the new revision
--   2 replayed   the revision that this operation made when it was applied; nothing written; turns is -1
--   3 conflict   the actual revision; nothing written; turns is -1

local APPLIED, REPLAYED, CONFLICT = 1, 2, 3
local ID_BYTES, IDS_KEPT = 16, 64
local MAX_WHOLE = 2 ^ 53
local MAX_MS = 1e14  -- PEXPIRE fails where now + ttl overflows, and by then something is written

local length, revision, turns, counted_for, operations

local function is_whole(number, low, high)
  return number and number >= low and number <= high and number % 1 == 0
end

local function is_operation_valid()
  return #operation == ID_BYTES and (expected == '' or is_whole(tonumber(expected), 0, MAX_WHOLE))
end

-- Reads what is there (WRONGTYPE is raised here, before any write). The reply to a call that must not write, or nil.
local function refusal()
  length = redis.call('LLEN', conversation)
  local stored = redis.call('HMGET', state, 'r', 't', 'n', 'o')
  revision, turns, counted_for = tonumber(stored[1]) or 0, tonumber(stored[2]), tonumber(stored[3])
  operations = stored[4] or ''
  local found = string.find(operations, operation, 1, true)
  while found and (found - 1) % ID_BYTES ~= 0 do  -- the end of one id and the start of the next may spell a third
    found = string.find(operations, operation, found + 1, true)
  end
  if found then
    return {REPLAYED, revision - (found - 1) / ID_BYTES, 0, length, -1}
  end
  if expected ~= '' and tonumber(expected) ~= revision then
    return {CONFLICT, revision, 0, length, -1}
  end
end

local function record()
  revision = revision + 1
  redis.call('HSET', state, 'r', string.format('%.0f', revision), 't', turns, 'n', length,
    'o', string.sub(operation .. operations, 1, ID_BYTES * IDS_KEPT))
end

local function expire(key, ms)
  redis.call('PEXPIRE', key, string.format('%.0f', ms))
end
