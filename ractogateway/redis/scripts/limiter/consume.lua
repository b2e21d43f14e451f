-- Charge tokens to a user's budget if they fit: exact sliding window; an operation is charged once however often it is
-- sent.
--
-- KEYS[1]  the user's log (STRING, sliding_window.lua)
-- KEYS[2]  the operation's record (STRING, acquire.lua), under the same hash tag: closed, for nothing is settled later
-- ARGV[1]  limit, tokens in any window, 0 to 2^53 - 1
-- ARGV[2]  window, ms, >= 1
-- ARGV[3]  cost, tokens, 1 to 2^53 - 1
-- ARGV[4]  operation ttl, ms: how long a repetition of this operation is recognised
-- ARGV[5]  entry cap, >= 4: at 120 the log stays below 4 KB (MEMORY USAGE)
-- ARGV[6]  now, µs; '' for the server's clock (given only by tests)
--
-- Reply    {admitted 0 or 1, remaining tokens, retry after ms (0 now, -1 never: cost > limit), reset after ms}
-- Error    RGBADLOG: the log or the record is not in this format; nothing was written
--
-- A repetition replies admitted, with what remains now, and charges nothing, even if the budget is spent by then.
-- A refusal writes nothing and leaves no record, with one exception: if stamps are more than 2 s ahead of now (the
-- clock has stepped back), they are stored as now. Were they only read as now, they would stay until it caught up.
-- The record is written by the check for it (SET NX), which is the last check.
--
-- Commands (for an ACL): TIME GET SET APPEND SETRANGE; four a call when admitted, three when refused.
-- Complexity: O(log n) steps, n <= the entry cap; O(cap) when the log is rewritten, about once a period.

local log_key, operation_key = KEYS[1], KEYS[2]
local limit, window, cost = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0 -- a number, at half the cost of tonumber
local operation_ttl, cap, given_now = ARGV[4], ARGV[5] + 0, ARGV[6]

--#include sliding_window.lua
--#include sliding_window_decide.lua

local fits = cost <= room
local added = fits and cost or 0
local entry = (fits or ahead) and pair(stamp, total + added)

if not fits or not redis.call('SET', operation_key, '\1c', 'NX', 'PX', operation_ttl) then
  local record = redis.call('GET', operation_key)
  if record and (byte(record, 1) ~= 1 or #record < 2) then
    return redis.error_reply('RGBADLOG the operation record is corrupt or of an unknown version')
  end
  if record and byte(record, 2) ~= 120 then return { 1, math.max(0, room), 0, reset_after } end
  if fits then redis.call('SET', operation_key, '\1c', 'PX', operation_ttl) end -- it had been cancelled
end
if fits or ahead then
--#include sliding_window_charge.lua
end
if fits then return { 1, room - cost, 0, stamp + window - now } end
return { 0, math.max(0, room), retry_after, reset_after }
