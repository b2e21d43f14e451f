-- Included by the scripts that look at a conversation: its state, its entries, who may write, how a write is recorded.
-- Expects the locals `conversation` and `state` (keys); writing scripts also `operation` (key), `expected` (a revision,
-- '' for any) and `keep` (ms that the operation is remembered).
--
-- State hash: c  six numbers with a blank between them (one field is written in a third of the time of six):
--                revision  how many writes there were; 0 without state
--                length    of the list that turns, tokens and pinned were counted for; they are counted anew where it
--                          differs (the list expired, was evicted or edited behind the state's back)
--                turns
--                tokens
--                pinned    entries at the head
--                position  entries that have left from behind the pinned ones: that of the first that is still there
--             h  what the newest writes did, newest first: '<appended>,<left>;' each, 'x;' where that does not tell all
--             v  '1' while evicted entries wait for their hook
--             u  tag of the user whom it belongs to        x  ms until which the user's index knows of it
-- Operation:  a string, the revision that this operation made; gone after `keep`.
--
-- Every writing script replies {status, revision, entries dropped, entries in the list, turns, tokens, waiting, user}:
--   1 applied    the new revision
--   2 replayed   the revision that this operation made when it was applied; nothing written
--   3 conflict   the actual revision; nothing written
--   4 unindexed  `user` has to be told of this conversation first; nothing written
--   5 foreign    it belongs to another user; nothing written
--   6 occupied   it holds messages and must not; nothing written
-- waiting: 1 while evicted entries wait. turns and tokens are -1 unless applied.

local APPLIED, REPLAYED, CONFLICT, UNINDEXED, FOREIGN, OCCUPIED = 1, 2, 3, 4, 5, 6
local MAX_WHOLE = 2 ^ 53
local MAX_MS = 1e14        -- PEXPIRE fails where now + ttl overflows, and by then something is written
local READ_AT_ONCE = 32    -- entries may be large: a longer read would hold many of them in memory
local LONGEST_LOG, KEPT_OF_LOG = 256, 192
local COUNTS = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local BYTES_A_TOKEN = 4    -- of an entry that does not say how many tokens it has
local PINNED, START, OTHER = string.byte('PUM', 1, 3)

local length, revision, turns, tokens, pinned_count, position, changes
local counted  -- whether the state knew the list as it is

local function is_whole(number, low, high)
  return number and number >= low and number <= high and number % 1 == 0
end

local function kind_of(entry)
  local version, kind = string.byte(entry, 1, 2)
  if version and version >= 49 and version <= 57 and (kind == PINNED or kind == START or kind == OTHER) then
    return kind
  end
end

local function tokens_of(entry)
  if string.byte(entry, 1) ~= 49 then  -- version 1 never says
    local said = string.match(entry, '^[2-9][PUM](%d+)|')
    if said and #said <= 15 then return tonumber(said) end
  end
  return math.ceil(#entry / BYTES_A_TOKEN)
end

local function range(first, count)
  return redis.call('LRANGE', conversation, first, first + count - 1)
end

local function count_anew()
  turns, tokens, pinned_count = 0, 0, 0
  local at_head = true
  for first = 0, length - 1, READ_AT_ONCE do
    for _, entry in ipairs(range(first, READ_AT_ONCE)) do
      local kind = kind_of(entry)
      if kind == START or (turns == 0 and kind ~= PINNED) then turns = turns + 1 end
      at_head = at_head and kind == PINNED
      if at_head then pinned_count = pinned_count + 1 end
      tokens = tokens + tokens_of(entry)
    end
  end
end

-- Reads what is there (WRONGTYPE is raised here, before any write). Further fields of the state are returned.
local function look()
  length = redis.call('LLEN', conversation)
  local stored = redis.call('HMGET', state, 'c', 'h', 'v', 'u', 'x')
  local made, counted_for, held
  made, counted_for, turns, tokens, pinned_count, held = string.match(stored[1] or '', COUNTS)
  revision, position, changes = tonumber(made) or 0, tonumber(held) or 0, stored[2] or ''
  turns, tokens, pinned_count = tonumber(turns), tonumber(tokens), tonumber(pinned_count)
  counted = tonumber(counted_for or 0) == length
  if not counted then
    -- Positions are not given twice (but for those of popped entries): all that the state knew counts as gone.
    position = position + (tonumber(counted_for) or 0)
    changes = ''
  end
  if not (counted and turns) then count_anew() end
  return stored[3] and 1 or 0, stored[4], tonumber(stored[5])
end
