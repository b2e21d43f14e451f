-- Block: the sliding-window log of one user. Its format, why it is never over, and what a script needs once.
--
-- Takes    given_now: µs, or '' for the server's clock, which is read here and only here
-- Gives    now_us, number_at, pair
--
-- The limiter's scripts are put together from blocks (a line `--#include <file>` is replaced by that file): this one
-- first, then sliding_window_decide.lua for each log, then sliding_window_charge.lua where tokens are charged. Those
-- two are plain statements on named locals, and may stand in a loop over several logs. They are not functions because
-- a script makes its functions anew at every call: that took an eighth to a fifth of the server's instructions when it
-- was measured.
--
-- THE LOG is one STRING: a version byte (1), then big-endian numbers of 7 bytes each:
--   epoch | older | newer | period end | base | stamp 1 | total 1 | … | stamp n | total n      n >= 1, oldest first
-- An entry is (stamp in ms, total): the tokens charged up to and including that stamp, counted from some forgotten
-- past; `base` is the total before entry 1. So the tokens of any span of entries are one subtraction, the first live
-- entry is one binary search, and dropping an entry merges it into the next. `older`, `newer` and `period end` tell
-- which windows are in use (sliding_window_charge.lua). The stamp of entry i starts at byte 14 i + 23, its total at 14
-- i + 30; so `base` stands where the total of an entry 0 would.
--
-- THE EPOCH says since when a stamp means the same charges: it is the µs at which the log was begun or its stamps were
-- repaired. A refund finds its charge by (epoch, stamp): the first entry at or after the stamp. After a repair, or in a
-- log that was begun after a reset, that entry would be somebody else's, so a refund of another epoch is not made.
--
-- WHY NO WINDOW IS EVER OVER. The window of length W that ends at t is (t - W, t]. A charge made at time c is stamped
-- s >= c (rounded up to the ms, moved only to later) and leaves the sum at the first t with floor(t) >= s + W, hence
-- with t - c >= W. A call is admitted against a sum that holds every charge of its window, and perhaps older ones.
--
-- WHEN THE SERVER'S CLOCK STEPS BACK. Let r be real time and C(r) the clock: it runs at real speed and steps back at
-- times, so C(r'') - C(r') <= r'' - r' for r' <= r''. A charge may be stamped C(r') for any r' that is not before it:
-- it leaves at some r'' with C(r'') >= C(r') + W, so r'' - r' >= W. That licenses both rules of stamping:
--   * a new charge takes max(now, last stamp): the log stays sorted, and a charge is held longer by the step at most;
--   * if the last stamp is more than 2 s ahead of now, every stamp ahead of now is read, and next written, as now:
--     charges made under a clock that was hours ahead block their user for one window, not for hours. 2 s is more than
--     a disciplined clock steps or a replica that takes over lags, and less than a user notices.
-- When the clock steps forward, charges leave early by that step: the guarantee then holds in server time.

local byte, char = string.byte, string.char

-- The number in the 7 bytes of `text` that start at `from`.
local function number_at(text, from)
  local a, b, c, d, e, f, g = byte(text, from, from + 6)
  return (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
end

-- Two numbers, each as 7 bytes.
local function pair(one, two)
  local g = one % 256
  one = (one - g) / 256
  local f = one % 256
  one = (one - f) / 256
  local e = one % 256
  one = (one - e) / 256
  local d = one % 256
  one = (one - d) / 256
  local c = one % 256
  one = (one - c) / 256
  local b = one % 256
  local n = two % 256
  two = (two - n) / 256
  local m = two % 256
  two = (two - m) / 256
  local l = two % 256
  two = (two - l) / 256
  local k = two % 256
  two = (two - k) / 256
  local j = two % 256
  two = (two - j) / 256
  local i = two % 256
  return char((one - b) / 256, b, c, d, e, f, g, (two - i) / 256, i, j, k, l, m, n)
end

local now_us
if given_now == '' then
  local time = redis.call('TIME')
  now_us = time[1] * 1000000 + time[2]
else
  now_us = given_now + 0
end
