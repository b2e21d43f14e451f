-- Appends messages to a conversation, or replaces them; trims it to its newest turns; sets both TTLs; all in one step.
--
-- KEYS[1] conversation   list of entries: pinned ones at the head, then turns, oldest first (LRANGE 0 -1 is the history)
-- KEYS[2] state          hash, see conversation.lua
-- KEYS[3] operation      string; while it exists, the call is a replay
-- KEYS[4] evicted        list of entries that were trimmed and wait for their hook; all keys under one hash tag
-- ARGV[1] mode           'append'; 'replace' all that is there; 'fill' a conversation without messages
-- ARGV[2] max turns      the most turns kept, >= 1
-- ARGV[3] max tokens     the most tokens kept, >= 1; '' for no bound
-- ARGV[4] ttl            life of the conversation in ms from now; '' for no end
-- ARGV[5] expected       revision the conversation must be at; '' for any
-- ARGV[6] keep           ms that the operation is remembered
-- ARGV[7] tombstone      least life of the state in ms: revision and owner outlive a conversation that expires sooner
-- ARGV[8] max pinned     the most pinned entries, counted when one is added
-- ARGV[9] user           tag of the user whom the conversation belongs to; '' for whomever it does
-- ARGV[10] indexed       revision at which the caller was told that the user's index does not know of it; '' else
-- ARGV[11] hooked        life in ms of what is trimmed, which goes to `evicted`; '' to drop it
-- ARGV[12...]            entries, at least one unless they replace: version '1'..'9', kind ('P' pinned,
--                        'U' starts a turn, 'M' other), from version 2 on the tokens in decimal and '|', then anything
--
-- Reply: as in conversation.lua. Errors, before any write: WRONGTYPE, BADARGUMENT, PINNEDLIMIT.
--
-- A turn starts at 'U'; what precedes the first 'U' is one turn; an entry without a valid header belongs to the turn it
-- stands in. Whole turns leave from the front, never the last one, never a pinned entry wherever it stands. Tokens are
-- those of all entries, pinned ones included.
-- Commands (for an ACL): LLEN HMGET GET LRANGE RPUSH LPUSH LTRIM HSET SET PEXPIRE PERSIST TIME.
-- O(entries added + entries dropped), plus O(pinned) when it trims or pins; O(list) when the list was changed (expired,
-- evicted, edited) behind the state's back.

local conversation, state, operation, evicted = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local mode, max_turns, max_tokens, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local expected, keep, tombstone = ARGV[5], ARGV[6], ARGV[7]
local max_pinned, user, indexed, hooked = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11]
local FIRST_ENTRY = 12

local PUSH_AT_ONCE = 1000  -- unpack() fails near 8000 values

--#include conversation.lua
--#include recording.lua

-- Arguments and new entries

local ttl_ms = ttl ~= '' and tonumber(ttl) or nil
local token_bound = max_tokens ~= '' and tonumber(max_tokens) or nil
local hooked_ms = hooked ~= '' and tonumber(hooked) or nil
if not ((mode == 'append' or mode == 'replace' or mode == 'fill') and is_whole(max_turns, 1, MAX_WHOLE)
    and (max_tokens == '' or is_whole(token_bound, 1, MAX_WHOLE)) and (ttl == '' or is_whole(ttl_ms, 1, MAX_MS))
    and is_guard_valid() and is_whole(tonumber(tombstone), 1, MAX_MS) and is_whole(max_pinned, 0, MAX_WHOLE)
    and (hooked == '' or is_whole(hooked_ms, 1, MAX_MS)) and (mode == 'replace' or #ARGV >= FIRST_ENTRY)) then
  return redis.error_reply('BADARGUMENT extend: an argument is out of range')
end

local new_pinned, new_body, new_tokens = {}, {}, 0
for i = FIRST_ENTRY, #ARGV do
  local kind = kind_of(ARGV[i])
  if not kind then
    return redis.error_reply('BADARGUMENT extend: an entry has no valid header')
  end
  local target = kind == PINNED and new_pinned or new_body
  target[#target + 1] = ARGV[i]
  new_tokens = new_tokens + tokens_of(ARGV[i])
end

-- What is there, and who may write

local waiting, owner, indexed_until = look()
-- The state may have been lost; and what is of another type must be found out before any write.
if hooked_ms and redis.call('LLEN', evicted) > 0 then waiting = 1 end
if user ~= '' and owner and owner ~= user then return refused(FOREIGN, revision, waiting) end
local refusing = refusal(waiting)
if refusing then return refusing end
if mode == 'fill' and length > 0 then return refused(OCCUPIED, revision, waiting) end

local wanted = user ~= '' and user or owner
local names_owner = false
local known_until = MAX_MS
if wanted then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  if ttl_ms then known_until = now + math.max(ttl_ms, tonumber(tombstone)) end
  if owner ~= wanted or not indexed_until or now >= indexed_until or (not ttl_ms and indexed_until < MAX_MS) then
    -- Written on the revision at which the index was asked for: an erasure in between makes the caller ask again.
    if tonumber(indexed) ~= revision then return refused(UNINDEXED, revision, waiting, wanted) end
    names_owner = true
  end
end

local start = mode == 'append' and 0 or length  -- what stands before it is replaced
local replaced = start > 0 and length - pinned_count or 0
local old_pinned = pinned_count
if start > 0 then turns, tokens, pinned_count = 0, 0, 0 end

local pinned = {}  -- the pinned entries at the head; read only when they have to move
if #new_pinned > 0 then
  local first, at_head = start, true
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
length, tokens = length + #new_body, tokens + new_tokens

local function fits(turns_left, tokens_left)
  return turns_left <= max_turns and (not token_bound or tokens_left <= token_bound)
end

-- Walks over the oldest turns until the rest fits, never over the last one. Returns the index it came to, the pinned
-- entries that it passed, the others (true for each where nobody wants them), and the turns and tokens that are left (the
-- list itself decides: an edit that kept its length may have made the stored count wrong).
local function pass_oldest_turns()
  local pinned_met, met = {}, {}
  local passed, pinned_passed, met_passed, turns_left, tokens_left = start, 0, 0, turns, tokens
  local index, in_turn, turn_tokens, size = start, false, 0, 3  -- a turn of two messages is told by three entries
  while index < length do
    for _, entry in ipairs(range(index, size)) do
      local kind = kind_of(entry)
      if kind == PINNED then
        pinned_met[#pinned_met + 1] = entry
      else
        if kind == START and in_turn then
          passed, pinned_passed, met_passed = index, #pinned_met, #met
          turns_left, tokens_left, turn_tokens = turns_left - 1, tokens_left - turn_tokens, 0
          if fits(turns_left, tokens_left) then return passed, pinned_met, met, turns_left, tokens_left end
        end
        in_turn, turn_tokens = true, turn_tokens + tokens_of(entry)
        met[#met + 1] = hooked_ms and entry or true
      end
      index = index + 1
    end
    size = math.min(2 * size, READ_AT_ONCE)
  end
  for i = #pinned_met, pinned_passed + 1, -1 do pinned_met[i] = nil end
  for i = #met, met_passed + 1, -1 do met[i] = nil end
  return passed, pinned_met, met, in_turn and 1 or 0, tokens_left
end

local head = start + #pinned  -- entries taken off the front; the pinned ones among them are put back
local dropped = {}
if turns > 1 and not fits(turns, tokens) then
  local passed, pinned_met, met, turns_left, tokens_left = pass_oldest_turns()
  turns, tokens = turns_left, tokens_left
  if passed > start then
    head, pinned, dropped = passed, pinned_met, met
    pinned_count = #pinned
  end
end

if hooked_ms and #dropped > 0 then
  for i = 1, #dropped, PUSH_AT_ONCE do
    redis.call('RPUSH', evicted, unpack(dropped, i, math.min(i + PUSH_AT_ONCE - 1, #dropped)))
  end
  redis.call('PEXPIRE', evicted, hooked)
  redis.call('HSET', state, 'v', 1)
  waiting = 1
end
if start > 0 or #dropped > 0 or #new_pinned > 0 then
  if head > 0 then redis.call('LTRIM', conversation, head, -1) end
  for i = #new_pinned, 1, -1 do redis.call('LPUSH', conversation, new_pinned[i]) end
  for i = #pinned, 1, -1 do redis.call('LPUSH', conversation, pinned[i]) end
end
if #new_pinned > 0 then pinned_count = #pinned + #new_pinned end
length = length - start - #dropped + #new_pinned
position = position + replaced + #dropped

local tells_all = counted and start == 0 and pinned_count == old_pinned
record(tells_all and #new_body .. ',' .. #dropped or 'x')
if names_owner then redis.call('HSET', state, 'u', wanted, 'x', whole(known_until)) end
renew(ttl, tombstone)
return {APPLIED, revision, #dropped, length, turns, tokens, waiting, ''}
