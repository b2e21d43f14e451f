-- Block: would this cost fit into this budget now? Reads one log, writes nothing. O(log n).
--
-- Takes    log_key, limit (tokens), window (ms), cost (tokens), now_us (µs)
-- Gives    now            ms, rounded down
--          log, n         the stored string (false if there is none), its number of entries
--          first          the first live entry, n + 1 if none is live
--          total          tokens charged up to the last entry
--          last           the stamp of the last entry, as it is to be read;  stamp: the one that a charge made now gets
--          ahead          whether the clock has stepped back so far that stamps ahead of now are read as now
--          room           limit less the tokens in the window; below 0 after the limit was lowered
--          retry_after    ms until it fits if nobody else charges, exact for the log as it is; 0 now, -1 never
--          reset_after    ms until the window holds no charge of this user; a newest one that was refunded counts still
-- Returns from the script with the error RGBADLOG if the log is not in this format.

local sub_ms = now_us % 1000
local now = (now_us - sub_ms) / 1000
local stamp = sub_ms > 0 and now + 1 or now
local log = redis.call('GET', log_key)
local n, first, total, last, ahead, room, retry_after, reset_after = 0, 1, 0, 0, false, limit, 0, 0

if log then
  n = (#log - 36) / 14
  if byte(log, 1) ~= 1 or n < 1 or n % 1 ~= 0 then
    return redis.error_reply('RGBADLOG the rate limit log is corrupt or of an unknown version')
  end
  local edge, beyond = now - window, n + 1
  if number_at(log, 37) <= edge then
    first = 2
    while first < beyond do
      local middle = (first + beyond - (first + beyond) % 2) / 2
      if number_at(log, 14 * middle + 23) > edge then beyond = middle else first = middle + 1 end
    end
  end
  total = number_at(log, 14 * n + 30)
  room = limit - (total - number_at(log, 14 * (first - 1) + 30))
  if room > limit or total > 2 ^ 53 - 1 then
    return redis.error_reply('RGBADLOG the rate limit log holds impossible totals')
  end
  last = number_at(log, 14 * n + 23)
  ahead = last > stamp + 2000
  if ahead then last = stamp elseif last > stamp then stamp = last end
  if room < limit then reset_after = last + window - now end
end

if cost > limit then
  retry_after = -1
elseif cost > room then
  -- Until the oldest entry leaves that makes enough room: totals are cumulative, so they are sorted.
  local oldest, newest, enough = first, n, total - (limit - cost)
  while oldest < newest do
    local middle = (oldest + newest - (oldest + newest) % 2) / 2
    if number_at(log, 14 * middle + 30) >= enough then newest = middle else oldest = middle + 1 end
  end
  retry_after = math.min(number_at(log, 14 * oldest + 23), last) + window - now
end
