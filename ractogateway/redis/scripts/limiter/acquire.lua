-- Charge one operation to several budgets and take its slots, all or nothing; a record makes it settleable and
-- recognises repetitions.
--
-- KEYS[1]     the operation's record (STRING, below)
-- KEYS[2...]  the logs (STRING, sliding_window.lua), one a limit; then the sets of leases (ZSET, leases_decide.lua)
-- ARGV[1]     record ttl, ms: how long a repetition of this operation is recognised, and it can be settled
-- ARGV[2]     entry cap of a log, >= 4
-- ARGV[3]     now, µs; '' for the server's clock (given only by tests)
-- ARGV[4]     member: the operation's name in the sets of leases
-- ARGV[5]     lease, ms: how long the slots are held unless they are renewed
-- ARGV[6]     number of logs
-- ARGV[7...]  limit, window in ms, cost of each log, as in consume.lua; then the slots of each set of leases; then, if
--             this is a part of an operation that may have to be undone, 8 bytes that name this attempt
--
-- Reply    {admitted 0 or 1 (2: it was before; 3: and is settled by now), which limit refused (logs first, then sets, from 1; 0 none), retry after ms (0 now, -1
--          never), reset after ms, remaining of log 1, …}. `retry after` is exact for all limits together.
-- Error    RGBADLOG: a log or the record is not in this format; nothing was written
--
-- THE RECORD is a version byte (1) and a state: 'o' open, then for each log 4 numbers of 7 bytes: epoch, stamp, cost,
-- window ((epoch, stamp) is where the charge is to be found, see sliding_window.lua), and the last attempt, if it has a
-- name: who repeats it takes it over, so that the one before cannot undo it any more; 'c' settled, or never to be; 'a'
-- abandoned; 'x' cancelled; then who did it. A cancelled operation was never there: under its name it may be tried again.
-- A repetition replies 2 or 3, with what remains now, and charges nothing. If it is still open and its slot was given to
-- somebody else, it takes another one, and is refused if there is none. A refusal writes nothing, but for the
-- repair of stamps that consume.lua tells of.
--
-- Commands (for an ACL): TIME GET SET APPEND SETRANGE ZCARD ZCOUNT ZRANGEBYSCORE ZREMRANGEBYSCORE ZSCORE ZADD PTTL PEXPIRE.
-- Complexity: O(log n) for each log, n <= the entry cap, O(cap) about once a period; O(log slots) for each set.

local record_key, record_ttl, cap, given_now = KEYS[1], ARGV[1], ARGV[2] + 0, ARGV[3]
local member, lease, logs = ARGV[4], ARGV[5] + 0, ARGV[6] + 0
local attempt = ARGV[7 + 3 * logs + #KEYS - 1 - logs] or ''
local first_key, first_limit = KEYS[2], ARGV[7] -- there is at least one log
local FIRST_LIMIT = 7

--#include sliding_window.lua
--#include windows_decide.lua
--#include leases_decide.lua

local fits = retry == 0
local reply = { 1, 0, 0, 0 }
local charges = { '\1o' }
for index = 1, logs do
  local view = views[index]
  reply[index + 4] = math.max(0, view[10])
  if fits then
    local epoch = view[1] and not view[7] and number_at(view[1], 2) or now_us
    charges[index + 1] = pair(epoch, view[6]) .. pair(view[9], view[8])
  end
end

local record = table.concat(charges) .. attempt
if not fits or not redis.call('SET', record_key, record, 'NX', 'PX', record_ttl) then
  local known = redis.call('GET', record_key)
  if known and (byte(known, 1) ~= 1 or #known < 2) then
    return redis.error_reply('RGBADLOG the operation record is corrupt or of an unknown version')
  end
  if known and byte(known, 2) ~= 120 then
    reply[1], reply[4] = byte(known, 2) == 111 and 2 or 3, reset
    if reply[1] == 3 then return reply end
    for index = 1, sets do
      local leases_key = KEYS[1 + logs + index]
      if waits[index] > reply[3] and not redis.call('ZSCORE', leases_key, member) then
        reply[1], reply[2], reply[3] = 0, logs + index, waits[index]
      end
    end
    if reply[1] == 0 then return reply end
    local place = 2 + 28 * logs
    if attempt ~= '' and #known == place + 8 then redis.call('SETRANGE', record_key, place, attempt) end
--#include leases_take.lua
    return reply
  end
  if fits then redis.call('SET', record_key, record, 'PX', record_ttl) end
end
--#include windows_charge.lua
if not fits then
  reply[1], reply[2], reply[3], reply[4] = 0, refused, retry, reset
  return reply
end

--#include leases_take.lua
for index = 1, logs do reply[index + 4] = reply[index + 4] - views[index][9] end
reply[4] = reset
return reply
