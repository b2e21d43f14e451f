-- Reads what has happened to a conversation since a revision.
--
-- KEYS[1] conversation   list of entries
-- KEYS[2] state          hash, see conversation.lua; both keys under one hash tag
-- ARGV[1] since          the revision that the caller knows
--
-- Reply: {revision, how, left, {entries}}; how is
--   0 unchanged   nothing happened
--   1 appended    `left` entries left from behind the pinned ones, then these came to the end
--   2 anew        these are all there are
-- Errors: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): LLEN HMGET LRANGE.
-- O(entries read + writes since); O(list) when it was changed behind the state's back.

local conversation, state = KEYS[1], KEYS[2]
local since = tonumber(ARGV[1])

local UNCHANGED, APPENDED, ANEW = 0, 1, 2

--#include conversation.lua

if not is_whole(since, 0, MAX_WHOLE) then
  return redis.error_reply('BADARGUMENT changes: an argument is out of range')
end
look()

if counted and since == revision then return {revision, UNCHANGED, 0, {}} end

local missing, came, left = revision - since, 0, 0
if missing > 0 then
  for appended, gone in string.gmatch(changes, '([^;,]*),?([^;]*);') do
    if appended == 'x' then break end
    came, left, missing = came + tonumber(appended), left + tonumber(gone), missing - 1
    if missing == 0 then break end
  end
end
if not counted or missing ~= 0 then return {revision, ANEW, 0, range(0, length)} end

-- Of what came, some may have left again; the caller never saw that.
local body = length - pinned_count
local known = body + left - came
local still_here = math.min(came, body)
return {revision, APPENDED, math.min(left, known), still_here > 0 and range(length - still_here, still_here) or {}}
