-- Block: would this operation fit into each of several budgets now? sliding_window_decide.lua for each log in turn.
--
-- Takes    logs           how many; log i is KEYS[i + 1], and its three arguments (limit, window ms, cost) begin at
--          FIRST_LIMIT    in ARGV
-- Gives    views          of each log what sliding_window_charge.lua needs, and room
--          refused        which limit holds the operation back longest, 0 if none does
--          retry          ms until all of them would admit it if nobody else charges; 0 now, -1 never
--          reset          ms until no window holds a charge of this user
--          now_ms         rounded down
--
-- Each limit alone admits a cost from some moment on if nobody else charges. So all of them do from the latest of these
-- moments on, and `retry` is as exact for several limits as for one.

local views, refused, retry, reset = {}, 0, 0, 0
local now_ms = (now_us - now_us % 1000) / 1000
for index = 1, logs do
  local log_key, argument = KEYS[index + 1], FIRST_LIMIT + 3 * (index - 1)
  local limit, window, cost = ARGV[argument] + 0, ARGV[argument + 1] + 0, ARGV[argument + 2] + 0
--#include sliding_window_decide.lua
  views[index] = { log, n, first, total, last, stamp, ahead, window, cost, room }
  if retry_after ~= 0 and retry >= 0 and (retry_after < 0 or retry_after > retry) then
    retry, refused = retry_after, index
  end
  if reset_after > reset then reset = reset_after end
end
