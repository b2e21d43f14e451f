-- Whether an operation would be admitted to several budgets now. Never writes.
--
-- KEYS[1]     the first log again: so the logs stand where acquire.lua has them
-- KEYS[2...]  the logs (STRING, sliding_window.lua), one a limit
-- ARGV[1]     now, µs; '' for the server's clock (given only by tests)
-- ARGV[2...]  limit, window in ms, cost of each log
--
-- Reply    as that of acquire.lua, costs not taken off
-- Error    RGBADLOG: a log is not in this format
--
-- Commands (for an ACL): TIME GET. Complexity: O(log n) steps for each log, n <= the entry cap.

local first_key, given_now, first_limit = KEYS[1], ARGV[1], ARGV[2]
local second_key = KEYS[2]
local logs, FIRST_LIMIT = #KEYS - 1, 2

--#include sliding_window.lua
--#include windows_decide.lua

local reply = { retry == 0 and 1 or 0, refused, retry, reset }
for index = 1, logs do reply[index + 4] = math.max(0, views[index][10]) end
return reply
