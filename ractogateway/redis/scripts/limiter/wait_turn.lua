-- Charge an operation to several budgets when its turn has come; until then keep its place among those who wait.
--
-- KEYS[1]     the operation's record (STRING, acquire.lua)
-- KEYS[2...]  the logs (STRING, sliding_window.lua), one a limit; then the queue (ZSET: ticket by number) and the ends
--             of the tickets (ZSET: ticket by the ms at which it is given up)
-- ARGV[1]     record ttl, ms
-- ARGV[2]     entry cap of a log, >= 4
-- ARGV[3]     now, µs; '' for the server's clock (given only by tests)
-- ARGV[4]     the operation's name, 16 bytes; its ticket is the name and its tokens in decimal
-- ARGV[5]     longest sleep, ms
-- ARGV[6]     grace, ms: how much later than told a waiter may come before its ticket is given up
-- ARGV[7]     which log counts requests, from 1; 0 if none does
-- ARGV[8]     number of logs
-- ARGV[9...]  limit, window in ms, cost of each log, that of the tokens first
--
-- Reply    {sleep ms, 0 when charged, then as acquire.lua}
-- Error    RGBADLOG: a log is not in this format; nothing was written
--
-- FIRST COME, FIRST SERVED. A ticket's number is its place; only the first one may be charged, so small operations do
-- not starve a large one. The others sleep until the budget can hold what is before them and themselves, a bit longer
-- the further behind, so few come too early. If all that is more than the limits, then until it can hold as many of the
-- first as the limits allow: before these are charged it cannot be their turn.
-- A TICKET LIVES as long as its owner was told to sleep, and the grace. So one whose owner has died blocks the others for
-- no longer than the longest sleep and the grace. It is dead for everybody at once: who reads the queue skips it.
-- When the clock steps back, tickets would live as much longer: what ends later than any can is given a new end.
--
-- Commands (for an ACL): TIME GET SET APPEND SETRANGE EXISTS ZSCORE ZRANK ZRANGE ZRANGEBYSCORE ZADD ZREM PEXPIRE.
-- Complexity: O(log n) for each log, O(tickets before this one, at most 256), O(dead tickets), once each.

local record_key, first_key = KEYS[1], KEYS[2]
local record_ttl, cap, given_now, name = ARGV[1], ARGV[2] + 0, ARGV[3], ARGV[4]
local longest, grace, by_request, logs = ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0, ARGV[8] + 0
local first_limit = ARGV[9]
local FIRST_LIMIT = 9
local queue_key, ends_key = KEYS[logs + 2], KEYS[logs + 3]

local MOST_BEFORE = 256 -- more than these are not looked at
local STEP = 2          -- ms by which each place in the queue comes later
local LATE = 10         -- ms to wait for the one before, if its time has come and it has not
local LONGEST = 2000    -- ms, which nobody's longest sleep exceeds

--#include sliding_window.lua

local ticket = name .. string.format('%.0f', ARGV[FIRST_LIMIT + 2])
local now_first = (now_us - now_us % 1000) / 1000
local dead = redis.call('ZRANGEBYSCORE', ends_key, '-inf', now_first)
local is_dead = {}
for _, each in ipairs(dead) do is_dead[each] = each ~= ticket end
local ahead_of_time = redis.call('ZRANGEBYSCORE', ends_key, now_first + LONGEST + grace + 2000, '+inf')

local number = redis.call('ZSCORE', queue_key, ticket)
local last_before = number and redis.call('ZRANK', queue_key, ticket) - 1 or -1
-- Whose costs the budget must hold: of those in line, this one the last, as many of the first as the limits allow.
local line = {}
if not number or last_before >= 0 then
  local most = MOST_BEFORE + #dead -- which go now
  for _, each in ipairs(redis.call('ZRANGE', queue_key, 0, number and math.min(last_before, most) or most)) do
    if not is_dead[each] then line[#line + 1] = string.sub(each, 17) + 0 end
  end
end
local before = #line
line[before + 1] = ARGV[FIRST_LIMIT + 2] + 0
for index = 1, logs do
  ARGV[FIRST_LIMIT + 3 * index - 1] = 0
end
for _, tokens in ipairs(line) do
  local fit = true
  for index = 1, logs do
    local place = FIRST_LIMIT + 3 * index - 1
    fit = fit and ARGV[place] + (index == by_request and 1 or tokens) <= ARGV[place - 2] + 0
  end
  if not fit then break end
  for index = 1, logs do
    local place = FIRST_LIMIT + 3 * index - 1
    ARGV[place] = ARGV[place] + (index == by_request and 1 or tokens)
  end
end

--#include windows_decide.lua

-- A cost above a limit, with which nobody should ask, did not get into the line's sum: it is never charged.
local fits = before == 0 and retry == 0 and ARGV[FIRST_LIMIT + 2] > 0
local known = redis.call('EXISTS', record_key) == 1
local sleep = retry
if before > 0 then sleep = (retry > 0 and retry or LATE) + STEP * before end
if sleep > longest then sleep = longest end
if fits or known then sleep = 0 end

local reply = { sleep, (fits or known) and 1 or 0, refused, retry, reset }
for index = 1, logs do reply[index + 5] = math.max(0, views[index][10]) end

-- Nothing was written up to here.

for _, each in ipairs(dead) do
  if is_dead[each] then
    redis.call('ZREM', queue_key, each)
    redis.call('ZREM', ends_key, each)
  end
end
for _, each in ipairs(ahead_of_time) do
  redis.call('ZADD', ends_key, now_first + LONGEST + grace, each)
end
if (fits or known) and number then
  redis.call('ZREM', queue_key, ticket)
  redis.call('ZREM', ends_key, ticket)
end
if known then
  reply[2], reply[3], reply[4] = 2, 0, 0
  return reply
end
if fits then redis.call('SET', record_key, '\1c', 'PX', record_ttl) end
--#include windows_charge.lua
if fits then
  for index = 1, logs do reply[index + 5] = reply[index + 5] - views[index][9] end
  reply[5] = reset
  return reply
end
if not number then
  local newest = redis.call('ZRANGE', queue_key, -1, -1, 'WITHSCORES')
  redis.call('ZADD', queue_key, (newest[2] or 0) + 1, ticket)
end
redis.call('ZADD', ends_key, now_ms + sleep + grace, ticket)
-- As long as the longest of all tickets, not as long as this one; 1 s more, because TTLs count from the script's start.
redis.call('PEXPIRE', queue_key, LONGEST + grace + 1000)
redis.call('PEXPIRE', ends_key, LONGEST + grace + 1000)
return reply
