-- Settle or cancel an operation that acquire.lua has charged: refund what was not used, charge what was used beyond it,
-- free its slots. The first settlement or cancellation of an operation counts, a further one changes nothing.
--
-- KEYS[1]     the operation's record (STRING, acquire.lua)
-- KEYS[2...]  the logs it was charged to, in the same order; then the sets of leases
-- ARGV[1]     record ttl, ms: how long a further settlement, or a repetition of the operation, is recognised from now on
-- ARGV[2]     entry cap of a log, >= 4
-- ARGV[3]     now, µs; '' for the server's clock (given only by tests)
-- ARGV[4]     member: the operation's name in the sets of leases
-- ARGV[5]     mark: 'c' when it is settled, 'x' when it is cancelled, 'a' when it is abandoned, then a name of this
--             settlement: sent again, it is recognised
-- ARGV[6]     number of logs
-- ARGV[7...]  window in ms, charged, actual: tokens of each log. `charged` counts where the record is gone. Then, if only
--             one attempt is to be undone, its name (acquire.lua): if another one has taken it over, the reply is 0
--
-- Reply    1 if this settlement counts, 0 if another one did before
-- Error    RGBADLOG: a log or the record is not in this format; nothing was written
--
-- A REFUND lowers the totals from the charge's own entry on, so the tokens leave the window that they were charged in,
-- and none that was charged later. It is made only while that is certain to be the charge: the record exists, has the
-- log's epoch and this window, the charge is younger than the window, and its entry holds as many tokens. Younger by the
-- clock and by the newest stamp: a clock that has stepped back makes charges young again that a rewrite has dropped. Who
-- drops a charge writes a stamp at least a window after it, and the newest stamp of an epoch is never removed. Else
-- nothing is refunded: too strict for one window at most, never too lenient. So after FLUSHALL or a reset nothing goes
-- below 0.
-- AN OVERRUN was used whatever the budget says: it is charged now, beyond the limit if need be. Without a record it is
-- charged, too, once: the record is made anew.
-- AN ABANDONED operation is one of which no answer came: it is undone, and if it was not there yet, it will never be: the
-- record is left for it.
--
-- Commands (for an ACL): TIME GET SET APPEND SETRANGE ZCARD ZREM.
-- Complexity: O(log n) for each log, O(n) for one with a refund, n <= the entry cap.

local record_key, record_ttl, cap, given_now = KEYS[1], ARGV[1], ARGV[2] + 0, ARGV[3]
local member, mark, logs = ARGV[4], ARGV[5], ARGV[6] + 0
local first_key, first_figure = KEYS[2], ARGV[7] -- there is at least one log
local FIRST_FIGURE = 7

--#include sliding_window.lua

local record = redis.call('GET', record_key)
if record and (byte(record, 1) ~= 1 or #record < 2) then
  return redis.error_reply('RGBADLOG the operation record is corrupt or of an unknown version')
end
if record and byte(record, 2) ~= 111 then return string.sub(record, 2) == mark and 1 or 0 end
local attempt, figures_end = ARGV[7 + 3 * logs], 2 + 28 * logs
if attempt and record and string.sub(record, figures_end + 1) ~= attempt then return 0 end
local recorded = record and (#record == figures_end or #record == figures_end + 8)

local now_ms = (now_us - now_us % 1000) / 1000
local views, overrun = {}, false
for index = 1, logs do
  local log_key, figure = KEYS[index + 1], FIRST_FIGURE + 3 * (index - 1)
  local window, charged, actual = ARGV[figure] + 0, ARGV[figure + 1] + 0, ARGV[figure + 2] + 0
  local limit, cost = 2 ^ 53 - 1, 0
--#include sliding_window_decide.lua
  local place = 28 * (index - 1) + 3
  local known = recorded and number_at(record, place + 21) == window
  if known then charged = number_at(record, place + 14) end
  local refund, entry_of_charge = charged - actual, 0
  overrun = overrun or refund < 0
  if refund > 0 and known and log and number_at(record, place) == number_at(log, 2) then
    local charged_at = number_at(record, place + 7)
    local newest = number_at(log, 14 * n + 23)
    if charged_at > math.max(now, newest) - window and charged_at <= newest then
      local low, high = 1, n
      while low < high do
        local middle = (low + high - (low + high) % 2) / 2
        if number_at(log, 14 * middle + 23) >= charged_at then high = middle else low = middle + 1 end
      end
      if number_at(log, 14 * low + 30) - number_at(log, 14 * (low - 1) + 30) >= refund then entry_of_charge = low end
    end
  end
  views[index] = { log, n, first, total, last, stamp, ahead, window, -refund, entry_of_charge }
end

for index = 1, #KEYS - 1 - logs do
  local leases_key = KEYS[1 + logs + index]
  redis.call('ZCARD', leases_key) -- an error if it is something else
end

-- Nothing was written up to here. The record comes first: where memory is short, its SET fails before anything else.

local abandoned = byte(mark, 1) == 97
if record or overrun or abandoned then redis.call('SET', record_key, '\1' .. mark, 'PX', record_ttl) end
for index = 1, logs do
  local log_key, view = KEYS[index + 1], views[index]
  local log, n, first, total, last, stamp, ahead, window = view[1], view[2], view[3], view[4], view[5], view[6], view[7], view[8]
  local added, entry_of_charge, now = view[9], view[10], now_ms
  if added > 0 then
    local entry = pair(stamp, total + added)
--#include sliding_window_charge.lua
  elseif entry_of_charge > 0 then
    local kept = { string.sub(log, 1, 14 * entry_of_charge + 22) }
    for later = entry_of_charge, n do
      local lowered = number_at(log, 14 * later + 30) + added
      -- An entry that holds no tokens any more goes; the last one stays, it tells how far the clock had come.
      local empty = later == entry_of_charge and lowered == number_at(log, 14 * (later - 1) + 30)
      if not empty or later == n then kept[#kept + 1] = pair(number_at(log, 14 * later + 23), lowered) end
    end
    redis.call('SET', log_key, table.concat(kept), 'KEEPTTL')
  end
end

for index = 1, #KEYS - 1 - logs do
  local leases_key = KEYS[1 + logs + index]
  redis.call('ZREM', leases_key, member)
end
return 1
