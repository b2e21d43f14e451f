-- Charge a slice of a budget that a replica then spends on its own: at least what it needs now, at most what it asks
-- for, as if all of it were spent at the end of the time in which it may be.
--
-- KEYS[1]  the user's log (STRING, sliding_window.lua)
-- KEYS[2]  the operation's record (STRING): version byte, 'c', the tokens that were granted in decimal
-- ARGV[1]  limit, tokens in any window
-- ARGV[2]  window, ms, >= 1
-- ARGV[3]  least, tokens: with less the slice is refused
-- ARGV[4]  most, tokens, >= least
-- ARGV[5]  hold, ms, at most 1000: how long the slice may be spent
-- ARGV[6]  record ttl, ms
-- ARGV[7]  entry cap of the log, >= 4
-- ARGV[8]  now, µs; '' for the server's clock (given only by tests)
--
-- Reply    {granted tokens (0 when refused), then as consume.lua}
-- Error    RGBADLOG: the log or the record is not in this format; nothing was written
--
-- WHY NO WINDOW IS OVER. The slice is asked for at real time t, and spent before t + hold by a clock of the replica that
-- was started before it asked. Its stamp is at least hold after the moment at which this script runs, so it leaves the
-- sum a window after the last of it can have been spent. Charges made meanwhile take stamps no earlier than the last one
-- (they are held longer, by hold at most). 1000 ms is half of what a stamp may be ahead before it is taken for a clock
-- that has stepped back; a step of more than a second within the hold makes the slice leave early by no more than hold.
--
-- Commands (for an ACL): TIME GET SET APPEND SETRANGE. Complexity: O(log n), as consume.lua.

local log_key, record_key = KEYS[1], KEYS[2]
local limit, window, cost, most = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0, ARGV[4] + 0
local hold, record_ttl, cap, given_now = ARGV[5] + 0, ARGV[6], ARGV[7] + 0, ARGV[8]

--#include sliding_window.lua
--#include sliding_window_decide.lua

local record = redis.call('GET', record_key)
if record and (byte(record, 1) ~= 1 or #record < 3) then
  return redis.error_reply('RGBADLOG the operation record is corrupt or of an unknown version')
end
if record then return { string.sub(record, 3) + 0, 1, math.max(0, room), 0, reset_after } end

local fits = cost <= room
local added = fits and math.min(most, room) or 0
if fits then
  redis.call('SET', record_key, '\1c' .. string.format('%.0f', added), 'PX', record_ttl)
  stamp = math.max(stamp, (now_us - now_us % 1000) / 1000 + 1 + hold)
end
if fits or ahead then
  local entry = pair(stamp, total + added)
--#include sliding_window_charge.lua
end
if fits then return { added, 1, room - added, 0, stamp + window - now } end
return { 0, 0, math.max(0, room), retry_after, reset_after }
