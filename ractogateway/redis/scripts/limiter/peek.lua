-- Whether a cost would be admitted to a user's budget now. Never writes; runs under EVAL_RO where the server has it.
--
-- KEYS[1]  the user's log (STRING, sliding_window.lua)
-- ARGV[1]  limit, tokens in any window, 0 to 2^53 - 1
-- ARGV[2]  window, ms, >= 1
-- ARGV[3]  cost, tokens, 0 to 2^53 - 1
-- ARGV[4]  now, µs; '' for the server's clock (given only by tests)
--
-- Reply    {would be admitted 0 or 1, remaining tokens (that cost not taken off), retry after ms (0 now, -1 never:
--          cost > limit), reset after ms}
-- Error    RGBADLOG: the log is not in this format
--
-- After a large backward step of the clock both times count from now at every peek, until a consume has stored the new
-- stamps.
--
-- Commands (for an ACL): TIME GET. Complexity: O(log n) steps, n <= the entry cap.

local log_key = KEYS[1]
local limit, window, cost, given_now = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0, ARGV[4]

--#include sliding_window.lua
--#include sliding_window_decide.lua

return { cost <= room and 1 or 0, math.max(0, room), retry_after, reset_after }
