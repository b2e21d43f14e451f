-- Appends messages to a conversation, trims it to its newest turns and sets both TTLs, in one step.
--
-- KEYS[1] conversation   list of entries: pinned ones at the head, then turns, oldest first (LRANGE 0 -1 is the history)
-- KEYS[2] state          hash, see conversation.lua; both keys under one hash tag
-- ARGV[1] max turns      the most turns kept, >= 1
-- ARGV[2] ttl            life of the conversation in ms from now; '' for no end
-- ARGV[3] operation      16 bytes; a call with the id of one of the last 64 writes is a replay
-- ARGV[4] expected       revision the conversation must be at; '' for any
-- ARGV[5] max pinned     the most pinned entries, counted when one is added
-- ARGV[6] tombstone      least life of the state in ms: ids and revision outlive a conversation that expires sooner
-- ARGV[7...]             entries: version '1'..'9', kind ('P' pinned, 'U' starts a turn, 'M' other), then anything
--
-- Reply: as in conversation.lua. Errors, before any write: WRONGTYPE, BADARGUMENT, PINNEDLIMIT.
--
-- A turn starts at 'U'; what precedes the first 'U' is one turn; an entry without a valid header belongs to the turn it
-- stands in. Whole turns leave from the front, never the last one, never a pinned entry wherever it stands.
-- Commands (for an ACL): LLEN HMGET LRANGE RPUSH LPUSH LTRIM HSET PEXPIRE PERSIST.
-- O(entries added + entries dropped), plus O(pinned) when it trims or pins; O(list) when the list was changed (expired,
-- evicted, edited) behind the state's back.

local conversation, state = KEYS[1], KEYS[2]
local max_turns, ttl, operation, expected = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local max_pinned, tombstone = tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST_ENTRY = 7

local READ_AT_ONCE = 32    -- entries may be large: a longer read would hold many of them in memory
local PUSH_AT_ONCE = 1000  -- unpack() fails near 8000 values
local PINNED, START, OTHER = string.byte('PUM', 1, 3)

--#include conversation.lua

local function kind_of(entry)
  local version, kind = string.byte(entry, 1, 2)
  if version and version >= 49 and version <= 57 and (kind == PINNED or kind == START or kind == OTHER) then
    return kind
  end
end

local function range(first, count)
  return redis.call('LRANGE', conversation, first, first + count - 1)
end

-- Arguments and new entries

local ttl_ms = ttl ~= '' and tonumber(ttl) or nil
if not (is_whole(max_turns, 1, MAX_WHOLE) and is_whole(max_pinned, 0, MAX_WHOLE) and is_whole(tombstone, 1, MAX_MS)
    and (ttl == '' or is_whole(ttl_ms, 1, MAX_MS)) and is_operation_valid() and #ARGV >= FIRST_ENTRY) then
  return redis.error_reply('BADARGUMENT extend: an argument is out of range')
end

local new_pinned, new_body = {}, {}
for i = FIRST_ENTRY, #ARGV do
  local kind = kind_of(ARGV[i])
  if not kind then
    return redis.error_reply('BADARGUMENT extend: an entry has no valid header')
  end
  local target = kind == PINNED and new_pinned or new_body
  target[#target + 1] = ARGV[i]
end

-- What is there

local refused = refusal()
if refused then return refused end

if not turns or counted_for ~= length then
  turns = 0
  for first = 0, length - 1, READ_AT_ONCE do
    for _, entry in ipairs(range(first, READ_AT_ONCE)) do
      local kind = kind_of(entry)
      if kind == START or (turns == 0 and kind ~= PINNED) then turns = turns + 1 end
    end
  end
end

local pinned = {}  -- the pinned entries at the head; read only when they have to move
if #new_pinned > 0 then
  local first, at_head = 0, true
  while at_head and first < length do
    for _, entry in ipairs(range(first, READ_AT_ONCE)) do
      at_head = at_head and kind_of(entry) == PINNED
      if at_head then pinned[#pinned + 1] = entry end
    end
    first = first + READ_AT_ONCE
  end
  if #pinned + #new_pinned > max_pinned then
    return redis.error_reply('PINNEDLIMIT the conversation would hold too many system and developer messages')
  end
end

-- Writes: nothing below can fail. RPUSH comes first, so that a full server (OOM) refuses before anything has changed.

for i = 1, #new_body, PUSH_AT_ONCE do
  redis.call('RPUSH', conversation, unpack(new_body, i, math.min(i + PUSH_AT_ONCE - 1, #new_body)))
end
for i = 1, #new_body do
  if turns == 0 or kind_of(new_body[i]) == START then turns = turns + 1 end
end
length = length + #new_body

-- Walks over the oldest turns until `max_turns` are left, never over the last one. Returns how many entries it passed, the
-- pinned ones among them, and how many turns are left (the list itself decides: an edit that kept its length may have
-- made the stored count wrong).
local function pass_oldest_turns()
  local pinned_met, passed, pinned_passed, left = {}, 0, 0, turns
  local index, in_turn, size = 0, false, 4  -- a turn of two messages is told by three entries
  while index < length do
    for _, entry in ipairs(range(index, size)) do
      local kind = kind_of(entry)
      if kind == PINNED then
        pinned_met[#pinned_met + 1] = entry
      elseif kind == START and in_turn then
        passed, pinned_passed, left = index, #pinned_met, left - 1
        if left == max_turns then return passed, pinned_met, left end
      else
        in_turn = true
      end
      index = index + 1
    end
    size = math.min(2 * size, READ_AT_ONCE)
  end
  for i = #pinned_met, pinned_passed + 1, -1 do pinned_met[i] = nil end
  return passed, pinned_met, in_turn and 1 or 0
end

local head = #pinned  -- entries taken off the front; the pinned ones among them are put back
local dropped = 0
if turns > max_turns then
  local passed, pinned_met
  passed, pinned_met, turns = pass_oldest_turns()
  if passed > 0 then
    head, pinned, dropped = passed, pinned_met, passed - #pinned_met
  end
end

if dropped > 0 or #new_pinned > 0 then
  if head > 0 then redis.call('LTRIM', conversation, head, -1) end
  for i = #new_pinned, 1, -1 do redis.call('LPUSH', conversation, new_pinned[i]) end
  for i = #pinned, 1, -1 do redis.call('LPUSH', conversation, pinned[i]) end
end
length = length - dropped + #new_pinned

record()
if ttl_ms then
  expire(conversation, ttl_ms)
  expire(state, math.max(ttl_ms, tombstone))
else
  redis.call('PERSIST', conversation)
  redis.call('PERSIST', state)
end
return {APPLIED, revision, dropped, length, turns}
